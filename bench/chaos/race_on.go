//go:build race

package chaos

// memoryFactor is how much more memory a program takes under the race detector, which keeps what it knows of memory for good: five to ten times as much (https://go.dev/doc/articles/race_detector).
const memoryFactor = 8
