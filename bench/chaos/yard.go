package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	yardBytes   = 24 << 20         // room for the largest tensor and its answer, and some more
	trapBytes   = 2 << 20          // that lie in wait at a time, at most
	settleArena = 40 * time.Second // for leases of workers that are stopped: the server has to find out first
)

// yard is a connection's arena: requests are laid into it, their answers are written there, and memory that is nobody's any more is watched.
//
//	lay ──▶ tensors, slots full of a pattern ──▶ call ──▶ check: the answer is in its slot, nothing around it or in the tensors has changed
//	                                               └────▶ clear: the ranges are released, full of the pattern ──▶ a trap for a while ──▶ unchanged? ──▶ free
//
// A range whose call has failed may be leased still, so it is given back at once, and what the client hands out in its stead becomes the trap: memory of which it says that no worker has it.
type yard struct {
	arena *client.Arena // nil: the server gave none
	tally *Tally

	mu    sync.Mutex
	traps []client.Tensor // guarded by mu: the oldest first
	bytes int             // guarded by mu: of all traps
}

// laid is a request as it is in a yard.
type laid struct {
	tensors []client.Tensor
	slots   []client.Tensor // empty: it is not in the yard
}

// newYard asks the server for an arena. Without one, requests travel.
func newYard(ctx context.Context, c *client.Client, tally *Tally) *yard {
	y := &yard{tally: tally}
	var err error
	if y.arena, err = c.Arena(ctx, yardBytes); err != nil {
		y.arena = nil
		tally.arena("refused: " + ipc.AsError(err).Reason)
		return y
	}
	tally.arena("opened")
	return y
}

// lay lays a request that wishes so into the yard, if there is room.
func (y *yard) lay(req *ipc.Request) laid {
	if len(req.Outputs) == 0 || y.arena == nil {
		return laid{tensors: req.Tensors}
	}
	var p laid
	for i, t := range req.Tensors {
		in, err := y.take(t.Name, t.DType, t.Shape...)
		if err == nil {
			copy(in.Data, t.Data)
			p.tensors = append(p.tensors, in)
			var slot client.Tensor
			if slot, err = y.take(t.Name, "uint8", req.Outputs[i].At.Length); err == nil {
				fill(slot.Data)
				p.slots = append(p.slots, slot)
			}
		}
		if err != nil {
			y.tally.arena("not laid: " + ipc.AsError(err).Reason)
			y.free(p)
			return laid{tensors: req.Tensors}
		}
	}
	y.tally.arena("requests laid")
	return p
}

// take returns memory of the arena, if need be that of the traps.
func (y *yard) take(name, dtype string, shape ...uint64) (client.Tensor, error) {
	t, err := y.arena.Tensor(name, dtype, shape...)
	if err != nil {
		y.spring(0)
		t, err = y.arena.Tensor(name, dtype, shape...)
	}
	return t, err
}

func (y *yard) free(p laid) {
	if y.arena == nil {
		return
	}
	for _, t := range p.tensors {
		y.arena.Free(t)
	}
	for _, t := range p.slots {
		y.arena.Free(t)
	}
}

// check looks at what is around the answer: the caller has looked at the answer itself.
func (y *yard) check(p laid, req *ipc.Request, answer []client.Tensor) error {
	var errs []error
	for i, slot := range p.slots {
		if at := firstDifference(p.tensors[i].Data, req.Tensors[i].Data); at < len(req.Tensors[i].Data) {
			errs = append(errs, fmt.Errorf("the request's own tensor %s has been written to, at byte %d of %d", slot.Name, at, len(req.Tensors[i].Data)))
		}
		if i >= len(answer) || len(answer[i].Data) == 0 {
			continue // the caller has said so
		}
		got := answer[i].Data
		switch {
		case len(got) > len(slot.Data):
			y.tally.arena("answers larger than their slots")
			continue
		case &got[0] != &slot.Data[0]:
			y.tally.arena("answers that travelled all the same")
			continue
		}
		y.tally.arena("answers in their slots")
		if at := spoiled(slot.Data[len(got):]); at >= 0 {
			errs = append(errs, fmt.Errorf("the slot of tensor %s has been written to at byte %d, behind its answer of %d", slot.Name, len(got)+at, len(got)))
		}
	}
	return errors.Join(errs...)
}

// clear ends a request: what it had becomes a trap. answered says that it had its END, so that nobody else has the memory.
func (y *yard) clear(p laid, answered bool) {
	if len(p.slots) == 0 {
		return
	}
	if answered {
		for _, t := range append(p.tensors, p.slots...) {
			y.trap(t)
		}
		return
	}
	y.tally.arena("requests laid that failed")
	y.free(p)
	for _, t := range p.slots {
		if t, err := y.arena.Tensor(t.Name, "uint8", uint64(len(t.Data))); err == nil {
			y.trap(t)
		}
	}
}

// trap watches memory that is nobody's for a while.
func (y *yard) trap(t client.Tensor) {
	fill(t.Data)
	y.mu.Lock()
	y.traps = append(y.traps, t)
	y.bytes += len(t.Data)
	y.mu.Unlock()
	y.spring(trapBytes)
}

// spring looks at the oldest traps and gives them back, until so many bytes are left in traps.
func (y *yard) spring(left int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for y.bytes > left {
		t := y.traps[0]
		y.traps = y.traps[1:]
		y.bytes -= len(t.Data)
		y.look(t)
		y.arena.Free(t)
	}
}

// look sees whether somebody has walked into a trap.
func (y *yard) look(t client.Tensor) {
	y.tally.arena("released ranges watched")
	if at := spoiled(t.Data); at >= 0 {
		y.tally.breaks("arena: a range of %d bytes at %d of region %d was written to after its release, first at byte %d", len(t.Data), t.At.Offset, t.At.Region, at)
	}
}

// settle looks at what is still watched, and waits until every byte of the arena is free again: every lease has been released.
func (y *yard) settle(ctx context.Context) {
	if y.arena == nil {
		return
	}
	y.spring(0)
	limited, cancel := context.WithTimeout(ctx, settleArena)
	defer cancel()
	var last error
	err := poll(limited, "the leases of an arena to be released", func() (bool, error) {
		last = y.whole()
		return last == nil, nil
	})
	if err != nil && ctx.Err() == nil {
		y.tally.breaks("arena: %v: %v", err, last)
	}
}

// whole returns an error if something of the arena is in use. One whose connection is gone has no leases.
func (y *yard) whole() error {
	all, err := y.arena.Tensor("all", "uint8", uint64(y.arena.Size()))
	var e *ipc.Error
	if errors.As(err, &e) && e.Reason == "arena_full" {
		return err
	}
	y.arena.Free(all) // ignored if there was none
	return nil
}

// pattern is what fills memory that nobody is to write to.
const pattern = 0x5a

var patterns = bytes.Repeat([]byte{pattern}, 64<<10)

func fill(data []byte) {
	for rest := data; len(rest) > 0; {
		rest = rest[copy(rest, patterns):]
	}
}

// spoiled returns where memory is not full of the pattern any more; -1: nowhere.
func spoiled(data []byte) int {
	for at := 0; at < len(data); at += len(patterns) {
		piece := data[at:min(at+len(patterns), len(data))]
		if !bytes.Equal(piece, patterns[:len(piece)]) {
			return at + firstDifference(piece, patterns)
		}
	}
	return -1
}
