package worker

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/shm"
)

// status is what the worker says about itself in the segment. It is advisory: with several requests at a time it shows one of them.
type status struct {
	seg   *shm.Segment
	pid   uint32
	start time.Time
	base  uint64 // CLOCK_MONOTONIC ns at start

	idle    atomic.Uint32 // shm.WorkerState while no request runs
	current atomic.Uint64 // id of the request that is shown, 0 if none
}

func newStatus(seg *shm.Segment) *status {
	s := &status{seg: seg, pid: uint32(os.Getpid()), start: time.Now()}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		s.base = uint64(now.Nano())
	}
	return s
}

// set changes what is shown while no request runs.
func (s *status) set(state shm.WorkerState) {
	s.idle.Store(uint32(state))
	if s.current.Load() == 0 {
		s.show(state, 0, 0)
	}
}

func (s *status) begin(id uint64) {
	if s.current.CompareAndSwap(0, id) {
		s.show(shm.WorkerBusy, id, s.now())
	}
}

func (s *status) end(id uint64) {
	if s.current.CompareAndSwap(id, 0) {
		s.show(shm.WorkerState(s.idle.Load()), 0, 0)
	}
}

func (s *status) show(state shm.WorkerState, id, since uint64) {
	beat := since
	if beat == 0 {
		beat = s.now()
	}
	s.seg.SetWorkerStatus(shm.WorkerStatus{State: state, PID: s.pid, Beat: beat, Request: id, Since: since})
}

func (s *status) now() uint64 { return s.base + uint64(time.Since(s.start)) }
