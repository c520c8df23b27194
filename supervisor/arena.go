package supervisor

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
)

// attachments are what one process has been told of arenas, over its lifeline. A new process has been told of none.
//
//	request leased ──▶ attach ──packet, memfd──▶ worker ──▶ the request follows in the ring
//	region ends ─────▶ Detach ──packet─────────▶ worker        no room for the packet ──▶ late ──flush──▶
//
// It is a region's [arena.Holder].
type attachments struct {
	line *os.File // immutable: our end of the lifeline

	mu   sync.Mutex
	have map[uint64]*arena.Region // guarded by mu; nil once the process is buried
	late []uint64                 // guarded by mu: regions that have ended, and the worker does not know yet
}

func newAttachments(line *os.File) *attachments {
	return &attachments{line: line, have: map[uint64]*arena.Region{}}
}

// errLineFull is what a worker earns that leaves its lifeline unread.
func errLineFull(err error) *ipc.Error {
	e := ipc.Errorf(ipc.Unavailable, "arena_busy", "the worker could not be told of the arena: it leaves its lifeline (fd 4) unread (%v); try again, or send the tensors in the message", err)
	e.RetryAfter = 100 * time.Millisecond
	return e
}

// attach tells the worker of the regions that it does not know yet. Preconditions: they are held by a use.
func (a *attachments) attach(regions []*arena.Region) *ipc.Error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range regions {
		if a.have == nil {
			return nil // dead: its ring says so
		}
		if _, known := a.have[r.ID]; known {
			continue
		}
		if !a.flushLocked() {
			return errLineFull(unix.EAGAIN)
		}
		switch err := a.send(ipc.EncodeAttach(ipc.Attach{Bytes: r.Bytes, Region: r.ID}), unix.UnixRights(int(r.File.Fd()))); {
		case closed(err): // the process is dead, or as good as: its ring says so
			return nil
		case err != nil:
			return errLineFull(err)
		}
		a.have[r.ID] = r
		r.Attach(a)
	}
	return nil
}

// Detach implements [arena.Holder].
func (a *attachments) Detach(region uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.have[region]; known {
		delete(a.have, region)
		a.late = append(a.late, region)
		a.flushLocked()
	}
}

// flush tells the worker what it could not be told before.
func (a *attachments) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flushLocked()
}

// owes reports whether there is something that the worker could not be told.
func (a *attachments) owes() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.late) > 0
}

// flushLocked reports whether nothing is left that the worker does not know. Preconditions: mu is held.
func (a *attachments) flushLocked() bool {
	for len(a.late) > 0 {
		if err := a.send(ipc.EncodeDetach(ipc.Detach{Region: a.late[0]}), nil); err != nil && !closed(err) {
			return false
		}
		a.late = a.late[1:]
	}
	a.late = nil
	return true
}

// bury forgets everything: the process is dead.
func (a *attachments) bury() {
	a.mu.Lock()
	have := a.have
	a.have, a.late = nil, nil
	a.mu.Unlock()
	for _, r := range have {
		r.Forget(a)
	}
}

// send sends one packet, without waiting.
func (a *attachments) send(packet, rights []byte) error {
	raw, err := a.line.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) {
		sent = unix.Sendmsg(int(fd), packet, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}); err != nil {
		return err
	}
	return sent
}

// closed reports whether an error says that nobody is at the other end, or that this end has been closed.
func closed(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrClosed)
}

// lend has the lease's worker told of the arenas that a request names, which are in use from now on until the lease ends.
func (l *lease) lend(use *arena.Use) *ipc.Error {
	regions := use.Regions()
	if len(regions) == 0 {
		return nil
	}
	if !l.inc.arenas {
		return ipc.Errorf(ipc.Unimplemented, "arena", "the worker of pool %s does not take tensors in shared memory; send them in the message", l.pool.name)
	}
	if err := l.inc.attached.attach(regions); err != nil {
		return err
	}
	use.Lend()
	l.arenas = use
	return nil
}
