package shm

import (
	"fmt"
	"os"
)

// largePage is what larger arenas are made of, so that the kernel may map them in few steps; smaller ones of the machine's pages.
const largePage = 2 << 20

// maxArena is the largest arena there can be, in bytes: more than a machine has, and so little that sums of two do not overflow.
const maxArena = 1 << 46

// Arena is memory that several processes share without rings in it: what lies where is agreed upon in messages. It has no owner's header, no lock and no name; whoever maps it sees what the others
// write, while they write it.
//
//	server ──CreateArena──▶ memfd ──SCM_RIGHTS──▶ client, workers ──OpenArena──▶ mapping ──Close──▶ gone
//
// The server, which makes it, never maps it.
type Arena struct {
	mem []byte // immutable until Close
}

// ArenaBytes rounds up what is asked for: to whole pages, from 2 MiB on to whole pages of 2 MiB. false: it is nothing, or more than there can be.
func ArenaBytes(asked uint64) (uint64, bool) {
	if asked == 0 || asked > maxArena {
		return 0, false
	}
	page := uint64(os.Getpagesize())
	if asked >= largePage {
		page = largePage
	}
	return (asked + page - 1) &^ (page - 1), true
}

// CreateArena makes the memory for an arena, all of it backed by memory and sealed against shrinking and growing. size is one that [ArenaBytes] returned. The caller closes the file.
func CreateArena(size uint64) (*os.File, error) {
	if n, ok := ArenaBytes(size); !ok || n != size {
		panic(fmt.Sprintf("shm: CreateArena of %d bytes, which are not whole pages", size))
	}
	file, err := createMemfd("ringmaster-arena", int64(size))
	if err != nil {
		return nil, fmt.Errorf("shm: create arena: %w", err)
	}
	return countable(file), nil
}

// OpenArena maps an arena that is said to be of size bytes, after checking that it is and that nobody can take memory away from it. fd stays the caller's and may be closed.
func OpenArena(fd int, size uint64) (*Arena, error) {
	if size == 0 || size > maxArena {
		return nil, fmt.Errorf("shm: open arena: it is said to be %d bytes; want 1 to %d", size, uint64(maxArena))
	}
	if err := checkSeals(fd); err != nil {
		return nil, fmt.Errorf("shm: open arena: %w", err)
	}
	got, err := fileSize(fd)
	switch {
	case err != nil:
		return nil, fmt.Errorf("shm: open arena: %w", err)
	case got != size:
		return nil, fmt.Errorf("shm: open arena: the file is %d bytes, it was said to be %d", got, size)
	}
	mem, err := mapMemory(fd, size)
	if err != nil {
		return nil, fmt.Errorf("shm: open arena: %w", err)
	}
	return &Arena{mem: mem}, nil
}

// Bytes is all of the arena. It is gone with Close.
func (a *Arena) Bytes() []byte { return a.mem }

// Close unmaps the arena.
//
// Preconditions: nobody uses its bytes any more.
func (a *Arena) Close() error {
	if a.mem == nil {
		panic("shm: Arena closed twice")
	}
	mem := a.mem
	a.mem = nil
	if err := unmapMemory(mem); err != nil {
		return fmt.Errorf("shm: close arena: %w", err)
	}
	return nil
}
