package shm

// State is what the supervisor says about itself. Advisory: the drain and stop messages decide.
type State uint32

// The supervisor's states.
const (
	StateRun   State = 1
	StateDrain State = 2 // no request follows
	StateStop  State = 3 // exit at once
)

// WorkerState is what a worker says about itself. Advisory: nothing may be concluded from it but what to tell a person.
type WorkerState uint32

// A worker's states.
const (
	WorkerBoot    WorkerState = 0
	WorkerLoading WorkerState = 1
	WorkerReady   WorkerState = 2
	WorkerBusy    WorkerState = 3
	WorkerDrain   WorkerState = 4
)

// WorkerStatus is a worker's advisory line. Its fields are written and read one by one and need not fit together.
type WorkerStatus struct {
	State   WorkerState
	PID     uint32 // as the worker sees it
	Beat    uint64 // CLOCK_MONOTONIC ns of the last sign of life
	Request uint64 // id of the request being worked on, 0 if none
	Since   uint64 // CLOCK_MONOTONIC ns since which it is
}

// SetSupervisorState is for the supervisor.
func (s *Segment) SetSupervisorState(st State) {
	word32(s.mem, offSupervisorState).Store(uint32(st))
}

// SupervisorState returns the supervisor's state as the supervisor wrote it; the value is not checked.
func (s *Segment) SupervisorState() State {
	return State(word32(s.mem, offSupervisorState).Load())
}

// SetWorkerStatus is for the worker.
func (s *Segment) SetWorkerStatus(st WorkerStatus) {
	word32(s.mem, offWorkerState).Store(uint32(st.State))
	word32(s.mem, offWorkerPID).Store(st.PID)
	word64(s.mem, offWorkerBeat).Store(st.Beat)
	word64(s.mem, offWorkerRequest).Store(st.Request)
	word64(s.mem, offWorkerSince).Store(st.Since)
}

// WorkerStatus returns the worker's line as the worker wrote it; the values are not checked.
func (s *Segment) WorkerStatus() WorkerStatus {
	return WorkerStatus{
		State:   WorkerState(word32(s.mem, offWorkerState).Load()),
		PID:     word32(s.mem, offWorkerPID).Load(),
		Beat:    word64(s.mem, offWorkerBeat).Load(),
		Request: word64(s.mem, offWorkerRequest).Load(),
		Since:   word64(s.mem, offWorkerSince).Load(),
	}
}
