//go:build !race

package cache

const raceFlag = false
