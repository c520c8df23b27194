package ipc

import (
	"errors"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/shm"
)

// line is the socket beside a client's rings. Once the hellos are exchanged it carries no messages: its end of file says that the peer is gone, and a byte on it that the peer should look at its
// rings, which makes it the [shm.Bell] of both sides. A thousand idle clients cost a server as many parked goroutines and no thread; and it needs no descriptor more, none that the other process could change under us.
//
//	client                       line                    server
//	publishes, waiters is set ──▶ 1 ──▶ attend ──Rung──▶ Recv looks again
//	takes, waiters is set     ──▶ 2 ──▶ attend ──Rung──▶ Send looks again
//	dies                      ──▶ EOF ─▶ attend ─Close─▶ both end
type line struct {
	sock  *Socket
	raw   syscall.RawConn
	clap  [4]func(fd uintptr) bool // immutable; by what is rung
	ended chan struct{}            // closed when attend has returned
}

// newLine makes a line of a socket over which nothing is going to be sent any more.
func newLine(s *Socket) *line {
	l := &line{sock: s, ended: make(chan struct{})}
	_ = s.conn.SetDeadline(time.Time{}) // fails only where everything will
	l.raw, _ = s.conn.(syscall.Conn).SyscallConn()
	for what := range l.clap {
		l.clap[what] = clap(byte(what))
	}
	return l
}

// Ring implements [shm.Bell]. A line that takes no more has so much on it that the peer did not read yet: it will look.
func (l *line) Ring(what byte) {
	_ = l.raw.Write(l.clap[what&3]) // an error is the end of the line, which attend notices
}

// attend starts to pass on what the peer rings, until the line ends and the ring with it.
func (r *Ring) attend(l *line) {
	r.line = l
	go r.listen()
}

func (r *Ring) listen() {
	defer close(r.line.ended)
	early, _ := r.line.sock.r.Peek(r.line.sock.r.Buffered()) // came with the hello
	r.rung(early)
	var ended bool
	var b [64]byte
	look := func(fd uintptr) bool {
		n, more, err := r.hear(int(fd), b[:])
		r.rung(b[:n])
		ended = err != nil
		return ended || more // else the poller says when
	}
	for !ended {
		if r.line.raw.Read(look) != nil {
			break
		}
	}
	_ = r.Close()
}

// rung passes on what the peer has rung.
func (r *Ring) rung(bells []byte) {
	what := byte(0)
	for _, b := range bells {
		what |= b & (shm.RungItems | shm.RungSpace) // others may come to mean something
	}
	r.seg.Rung(what)
}

// hear reads what is on the line, without waiting; an error is its end. A read that does not fill b has left nothing there, so that nobody need read once more to see it: the poller tells of whatever comes from then on.
func (r *Ring) hear(fd int, b []byte) (n int, more bool, err error) {
	whole := true // a read ends at a descriptor, whatever comes after it
	if r.rights == nil {
		n, err = unix.Read(fd, b)
	} else {
		n, whole, err = r.rights.receive(fd, b)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, false, nil
	case errors.Is(err, unix.EINTR):
		return 0, true, nil
	case n == 0 && err == nil:
		err = io.EOF
	}
	return max(n, 0), n == len(b) || !whole, err
}
