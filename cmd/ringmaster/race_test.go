//go:build race

package main

// raceFlag makes the binary under test one that detects races, too; it exits with 66 when it found one.
const raceFlag = true
