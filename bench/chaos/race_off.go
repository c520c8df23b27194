//go:build !race

package chaos

const memoryFactor = 1
