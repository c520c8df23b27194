package ipc

import (
	"errors"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/shm"
)

// line is the socket beside a client's rings. Once the hellos are exchanged it carries no messages: its end of file says that the peer is gone, and a byte on it that the peer should look at its
// rings, which makes it the [shm.Bell] of both sides. Where an eventfd and a socket came with the rings, nobody rings for messages (the first line of the picture), only for room. A thousand idle clients cost a server as many parked goroutines and no thread.
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

// listen reads once more when it has read something, for that may have been the last, and the poller tells of what there is only once; but after whoever is woken, who has better things to do than to wait for that.
func (r *Ring) listen() {
	defer close(r.line.ended)
	early, _ := r.line.sock.r.Peek(r.line.sock.r.Buffered()) // came with the hello
	r.rung(early)
	var ended bool
	var b [64]byte
	look := func(fd uintptr) bool {
		n, err := r.hear(int(fd), b[:])
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		r.rung(b[:max(n, 0)])
		ended = n == 0 && err == nil || err != nil && !errors.Is(err, unix.EINTR)
		return true
	}
	for !ended && r.line.raw.Read(look) == nil {
		runtime.Gosched()
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

// hear reads what is on the line, without waiting.
func (r *Ring) hear(fd int, b []byte) (int, error) {
	if r.rights != nil {
		return r.rights.receive(fd, b)
	}
	return unix.Read(fd, b)
}
