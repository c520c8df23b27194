package worker

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// arenas are the regions of shared memory that the supervisor has told of, mapped.
//
//	lifeline packet: attach, memfd ──▶ region, mapped ──▶ resolve: a request's tensors are views of it
//	                 detach ─────────▶ gone once no request uses it
type arenas struct {
	more func() // immutable: takes what lies on the lifeline, without waiting; called with mu held

	mu      sync.Mutex
	regions map[uint64]*region // guarded by mu
}

type region struct {
	memory *shm.Arena // nil: this process has no room for it
	uses   int        // guarded by arenas.mu: requests that run
	gone   bool       // guarded by arenas.mu: detached
}

// packet takes what came over the lifeline. It owns the descriptors. What it does not understand it ignores, as the protocol says. Preconditions: mu is held.
func (a *arenas) packet(b []byte, fds []int) {
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	m, err := ipc.Decode(b)
	if err != nil {
		return
	}
	switch m := m.(type) {
	case *ipc.Attach:
		if len(fds) != 1 || m.Region == 0 || a.regions[m.Region] != nil {
			return
		}
		memory, err := shm.OpenArena(fds[0], m.Bytes)
		if err != nil { // requests that name it will be told
			fmt.Fprintf(os.Stderr, "worker: attach region %d: %v\n", m.Region, err)
			if !errors.Is(err, unix.ENOMEM) {
				return
			}
		}
		a.regions[m.Region] = &region{memory: memory}
	case ipc.Detach:
		if r := a.regions[m.Region]; r != nil {
			r.gone = true
			a.free(m.Region, r)
		}
	}
}

// free unmaps a region that is detached and not used. Preconditions: mu is held.
func (a *arenas) free(id uint64, r *region) {
	if !r.gone || r.uses > 0 {
		return
	}
	delete(a.regions, id)
	if r.memory == nil {
		return
	}
	if err := r.memory.Close(); err != nil {
		fmt.Fprintf(os.Stderr, "worker: detach region %d: %v\n", id, err)
	}
}

// resolve lets a request see what it names of arenas, until done is called.
func (a *arenas) resolve(req *Request) (done func(), err error) {
	if !req.NamesArenas() {
		return func() {}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.know(req) {
		a.more() // it was sent before the request
	}
	used := map[uint64]*region{}
	for i := range req.Tensors {
		if t := &req.Tensors[i]; t.At.Region != 0 {
			if t.Data, err = a.view(used, "tensor", t.Name, t.At); err != nil {
				return nil, err
			}
		}
	}
	for i := range req.Outputs {
		o := &req.Outputs[i]
		if o.Data, err = a.view(used, "output", o.Name, o.At); err != nil {
			return nil, err
		}
	}
	for _, r := range used {
		r.uses++
	}
	return func() { a.done(used) }, nil
}

// view returns a range's bytes, and puts its region to those used. Preconditions: mu is held.
func (a *arenas) view(used map[uint64]*region, what, name string, at ipc.Range) ([]byte, error) {
	r := a.regions[at.Region]
	if r == nil || r.gone { // one that is gone may still be used by a request that came before
		return nil, ipc.Errorf(ipc.InvalidArgument, "bad_region", "%s %q is in region %d, of which the worker was not told", what, name, at.Region)
	}
	if r.memory == nil {
		return nil, ipc.Errorf(ipc.Unavailable, "arena_busy", "the worker has no room to map region %d, in which %s %q is (its address space is limited: see the pool's rlimits); send it in the message", at.Region, what, name)
	}
	used[at.Region] = r
	memory := r.memory.Bytes()
	if !at.Within(uint64(len(memory))) {
		return nil, ipc.Errorf(ipc.InvalidArgument, "bad_region", "%s %q is %d bytes at %d of region %d, which has %d", what, name, at.Length, at.Offset, at.Region, len(memory))
	}
	return memory[at.Offset : at.Offset+at.Length : at.Offset+at.Length], nil
}

func (a *arenas) done(used map[uint64]*region) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, r := range used {
		r.uses--
		a.free(id, r)
	}
}

// know reports whether the supervisor has told of all that a request names. Preconditions: mu is held.
func (a *arenas) know(req *Request) bool {
	for i := range req.Tensors {
		if id := req.Tensors[i].At.Region; id != 0 && a.regions[id] == nil {
			return false
		}
	}
	for i := range req.Outputs {
		if a.regions[req.Outputs[i].At.Region] == nil {
			return false
		}
	}
	return true
}
