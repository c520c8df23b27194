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

	stage   atomic.Uint32 // shm.WorkerState: LOADING, READY or DRAIN
	current atomic.Uint64 // id of the request that is shown, 0 if none
	since   atomic.Uint64 // CLOCK_MONOTONIC ns since when it runs
}

func newStatus(seg *shm.Segment) *status {
	s := &status{seg: seg, pid: uint32(os.Getpid()), start: time.Now()}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		s.base = uint64(now.Nano())
	}
	return s
}

// set changes the stage of the worker's life.
func (s *status) set(stage shm.WorkerState) {
	s.stage.Store(uint32(stage))
	s.show(s.now())
}

// begin says that a request runs, and returns the time.
func (s *status) begin(id uint64) (now uint64) {
	now = s.now()
	if s.current.CompareAndSwap(0, id) {
		s.since.Store(now)
		s.show(now)
	}
	return now
}

// end says that it does not any more, and returns the time.
func (s *status) end(id uint64) (now uint64) {
	now = s.now()
	if s.current.CompareAndSwap(id, 0) {
		s.since.Store(0)
		s.show(now)
	}
	return now
}

func (s *status) show(now uint64) {
	line := shm.WorkerStatus{State: shm.WorkerState(s.stage.Load()), PID: s.pid, Request: s.current.Load(), Since: s.since.Load()}
	if line.State == shm.WorkerReady && line.Request != 0 {
		line.State = shm.WorkerBusy
	}
	line.Beat = now
	s.seg.SetWorkerStatus(line)
}

func (s *status) now() uint64 { return s.base + uint64(time.Since(s.start)) }
