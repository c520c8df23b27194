package ipc

import (
	"errors"
	"net"
	"os"
	"time"
)

// leastProgress is how many bytes a peer has to move in a timeout to be given another one. A deadline for a whole message would either cut off a slow reader of a large one, or wait as long for
// a peer that moves nothing.
const leastProgress = 64 << 10

// moved reports whether a read or write of n bytes that ended with err ran out of time although the peer moves.
func moved(n int, err error) bool {
	return n >= leastProgress && errors.Is(err, os.ErrDeadlineExceeded)
}

// pacedWriter writes to a connection as long as the peer takes what is written.
type pacedWriter struct {
	conn    net.Conn
	timeout time.Duration // 0: none
}

// Write implements [io.Writer].
func (w *pacedWriter) Write(p []byte) (int, error) {
	for done := 0; ; {
		if w.timeout > 0 {
			_ = w.conn.SetWriteDeadline(time.Now().Add(w.timeout)) // fails only where the write will, too
		}
		n, err := w.conn.Write(p[done:])
		done += n
		if !moved(n, err) {
			return done, err
		}
	}
}
