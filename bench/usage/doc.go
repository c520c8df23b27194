// Package usage says what processes have cost: processor time to the nanosecond, sleeps, and what the whole machine worked meanwhile, so that a measurement can say how much of it belonged to somebody else.
//
// It reads the kernel's clocks and /proc, of any process in this PID namespace, and keeps nothing open.
package usage
