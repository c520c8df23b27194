package client

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// arenaThreshold is from how many bytes on a tensor is moved into an arena, where there is one; smaller ones travel in the message. BenchmarkTensor, the best of eight runs on two busy cores, a round trip with one tensor of which the worker
// reads every byte: at 16 KiB 109 µs in the message and 78 µs copied into the arena, at 32 KiB 142 and 85, at 64 KiB 192 and 92, at 1 MiB 4.0 ms and 0.27 ms. The crossover is at 16 KiB or below; from twice that on the gain is more than the noise.
const arenaThreshold = 32 << 10

// Arena is shared memory for large tensors: the worker reads them where the program has written them, and writes its results where the program reads them.
//
//	img, err := arena.Tensor("image", "uint8", 1080, 1920, 3)
//	boxes, err := arena.Tensor("boxes", "float32", 100, 4)
//	read(frame, img.Data)
//	reply, err := c.Call(ctx, "detector", "detect", nil, client.WithTensors(img), client.WithOutputs(boxes))
//	use(reply.Tensor("boxes").Data) // it lies in boxes.Data
//	arena.Free(boxes)
//
// A tensor belongs to the program until Free, and may be sent any number of times; while a call has it, it is not to be written to. An arena ends with its connection: then the tensors
// in it are still there, and travel like any others, but there are no new ones, and another arena is to be asked for. It is safe for use by any number of goroutines.
type Arena struct {
	conn   *conn      // immutable: whose region it is
	region uint64     // immutable
	memory *shm.Arena // immutable until it is unmapped

	mu     sync.Mutex
	ranges ranges   // guarded by mu
	blocks []*block // guarded by mu: what is handed out, in order
	uses   int      // guarded by mu: of all blocks
	lost   bool     // guarded by mu: its connection is gone
	closed bool     // guarded by mu
}

// block is a piece of an arena that is handed out.
type block struct {
	span
	uses int  // calls that name it, or whose worker still may use it
	free bool // its owner has given it back
}

// Arena asks the server for an arena of at least so many bytes. Tensors that are not in one, and large enough, are moved into it by the client itself as long as there is room. It is to be closed; Close of the client does that, too.
//
// Errors: RESOURCE_EXHAUSTED/arena_quota if the server gives no more, UNIMPLEMENTED/arena if it gives none, or the connection has no rings.
func (c *Client) Arena(ctx context.Context, bytes int) (*Arena, error) {
	conn, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	return conn.openArena(ctx, uint64(max(0, bytes)))
}

// Size is how many bytes the arena has.
func (a *Arena) Size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memory == nil {
		return 0
	}
	return len(a.memory.Bytes())
}

// Tensor returns a tensor in the arena, for the program to fill. Its bytes are anything at first. It is to be given back with Free.
//
// Errors: RESOURCE_EXHAUSTED/arena_full if there is no room, UNAVAILABLE/connection_lost if the arena's connection is gone.
func (a *Arena) Tensor(name, dtype string, shape ...uint64) (Tensor, error) {
	size, err := ipc.TensorSize(name, dtype, shape)
	if err != nil {
		return Tensor{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return Tensor{}, ipc.Errorf(ipc.Cancelled, "client_closed", "the arena was closed")
	case a.lost:
		return Tensor{}, ipc.Errorf(ipc.Unavailable, "connection_lost", "the arena ended with its connection; ask for another one")
	}
	b := a.take(size)
	if b == nil {
		return Tensor{}, ipc.Errorf(ipc.ResourceExhausted, "arena_full", "the arena has no room for tensor %q of %d bytes: the largest piece that is free has %d of its %d; free some, or ask for a larger arena", name, size, a.ranges.largest(), len(a.memory.Bytes()))
	}
	at := ipc.Range{Region: a.region, Offset: b.offset, Length: size}
	return Tensor{Name: name, DType: dtype, Shape: slices.Clone(shape), Data: a.view(at), At: at}, nil
}

// Free gives a tensor of the arena back: its bytes must not be used any more. Memory that a call still uses, perhaps after it has ended for its caller, is not handed out before that is over. Others' tensors are ignored.
func (a *Arena) Free(t Tensor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memory == nil || t.At.Region != a.region {
		return
	}
	if b := a.find(t.At.Offset); b != nil && b.offset == t.At.Offset && !b.free {
		b.free = true
		a.reuse(b)
	}
}

// Close gives the arena back to the server and unmaps it, as soon as no call uses it.
//
// Preconditions: nobody uses its tensors' bytes any more.
func (a *Arena) Close() error {
	a.conn.dropArena(a)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	return a.unmap()
}

// unmap ends an arena that is closed and not used. Preconditions: mu is held.
func (a *Arena) unmap() error {
	if !a.closed || a.uses > 0 || a.memory == nil {
		return nil
	}
	if !a.lost {
		a.conn.caller.Detach(a.region)
	}
	memory := a.memory
	a.memory, a.blocks = nil, nil
	return memory.Close()
}

// end says that the connection is gone. Preconditions: no call uses the arena any more.
func (a *Arena) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = true
}

// view is a range's bytes. Preconditions: mu is held, the range is within the arena.
func (a *Arena) view(at ipc.Range) []byte {
	end := at.Offset + at.Length
	return a.memory.Bytes()[at.Offset:end:end]
}

// take hands out a block; nil: there is no room. Preconditions: mu is held.
func (a *Arena) take(size uint64) *block {
	s, ok := a.ranges.take(size)
	if !ok {
		return nil
	}
	b := &block{span: s}
	i, _ := a.search(s.offset)
	a.blocks = slices.Insert(a.blocks, i, b)
	return b
}

// reuse takes a block back that nobody has any more. Preconditions: mu is held.
func (a *Arena) reuse(b *block) {
	if !b.free || b.uses > 0 || a.memory == nil {
		return
	}
	if i, ok := a.search(b.offset); ok {
		a.blocks = slices.Delete(a.blocks, i, i+1)
		a.ranges.give(b.span)
	}
}

func (a *Arena) search(offset uint64) (int, bool) {
	return slices.BinarySearchFunc(a.blocks, offset, func(b *block, offset uint64) int { return cmp.Compare(b.offset, offset) })
}

// find returns the block in which an offset lies, or nil. Preconditions: mu is held.
func (a *Arena) find(offset uint64) *block {
	i, ok := a.search(offset)
	if !ok {
		i--
	}
	if i < 0 || offset >= a.blocks[i].end {
		return nil
	}
	return a.blocks[i]
}

// fits reports whether there is room for a block of so many bytes.
func (a *Arena) fits(size uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memory == nil || a.closed || a.lost {
		return false
	}
	return a.ranges.largest() >= size
}

// holds reports whether these bytes lie in the arena.
func (a *Arena) holds(data []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memory == nil {
		return false
	}
	_, inside := position(a.memory.Bytes(), data)
	return inside
}

// claim says that a call names these bytes, if they lie in a block and can be named. It returns where.
func (a *Arena) claim(data []byte) (at ipc.Range, b *block, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memory == nil {
		return at, nil, false
	}
	offset, inside := position(a.memory.Bytes(), data)
	if !inside || offset%rangeAlign != 0 {
		return at, nil, false
	}
	if b = a.find(offset); b == nil || b.free || offset+uint64(len(data)) > b.end {
		return at, nil, false
	}
	b.uses++
	a.uses++
	return ipc.Range{Region: a.region, Offset: offset, Length: uint64(len(data))}, b, true
}

// move copies bytes into the arena for one call, if there is room.
func (a *Arena) move(data []byte) (at ipc.Range, b *block, ok bool) {
	a.mu.Lock()
	if a.memory == nil || a.closed || a.lost {
		a.mu.Unlock()
		return at, nil, false
	}
	if b = a.take(uint64(len(data))); b == nil {
		a.mu.Unlock()
		return at, nil, false
	}
	b.uses, b.free = 1, true // nobody has it but the call
	a.uses++
	at = ipc.Range{Region: a.region, Offset: b.offset, Length: uint64(len(data))}
	into := a.view(at)
	a.mu.Unlock()
	copy(into, data)
	return at, b, true
}

// done ends what claim or move began.
func (a *Arena) done(b *block) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.uses--
	a.uses--
	a.reuse(b)
	_ = a.unmap()
}
