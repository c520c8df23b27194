package shm

// step names a point at which crash tests kill a process: docs/protocol.md, section 10.
type step string

const (
	stepS1 step = "S1" // send: enough space seen, nothing written
	stepS2 step = "S2" // send: payload written, header not
	stepS3 step = "S3" // send: header written, tail not published
	stepS4 step = "S4" // send: tail published, waiters not yet read
	stepS5 step = "S5" // send: count set, FUTEX_WAKE not yet called (only when a waiter was seen)
	stepS6 step = "S6" // send: finished

	stepR1 step = "R1" // receive: tail loaded, a frame is there
	stepR2 step = "R2" // receive: header validated
	stepR3 step = "R3" // receive: payload copied, head not published
	stepR4 step = "R4" // receive: head published, waiters not yet read
	stepR5 step = "R5" // receive: count set, FUTEX_WAKE not yet called (only when a waiter was seen)
	stepR6 step = "R6" // receive: finished

	stepW1 step = "W1" // wait: waiters armed
	stepW2 step = "W2" // wait: count cleared
	stepW3 step = "W3" // wait: looked again, FUTEX_WAIT not yet called
	stepW4 step = "W4" // wait: back from FUTEX_WAIT
	stepW5 step = "W5" // wait: waiters cleared
)
