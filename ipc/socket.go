package ipc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	socketBuffer = 16 << 10 // bytes buffered each way
	growStep     = 1 << 20  // a message's buffer grows by at most this many bytes ahead of what has arrived
	headBytes    = 64       // of an oversize message, kept to find its id
)

// MaxHello is the limit in bytes for the first frame on a socket.
const MaxHello = 64 << 10

// Socket is the [Transport] over a stream socket: each message is a little-endian u32 length and that many bytes.
type Socket struct {
	conn         net.Conn
	writeTimeout time.Duration // immutable
	limit        atomic.Int64  // largest message, bytes

	r      *bufio.Reader // Recv only
	header [4]byte       // Recv only

	waiting atomic.Int32 // senders that hold or want mu; the last one flushes
	mu      sync.Mutex
	w       *bufio.Writer // guarded by mu
	sent    uint64        // guarded by mu
	err     error         // guarded by mu; sticky
}

// NewSocket makes a [Socket] of a connection. Messages are limited to limit bytes until SetLimit. A peer that takes no byte for writeTimeout loses the connection; 0 waits for ever.
func NewSocket(conn net.Conn, limit int, writeTimeout time.Duration) *Socket {
	s := &Socket{
		conn:         conn,
		writeTimeout: writeTimeout,
		r:            bufio.NewReaderSize(conn, socketBuffer),
		w:            bufio.NewWriterSize(conn, socketBuffer),
	}
	s.limit.Store(int64(limit))
	return s
}

// SetLimit changes the largest message, in bytes.
func (s *Socket) SetLimit(limit int) { s.limit.Store(int64(limit)) }

// Send implements [Transport]. Messages of concurrent senders leave in one write where they can.
func (s *Socket) Send(parts ...[]byte) (uint64, error) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if limit := int(s.limit.Load()); size > limit {
		return 0, tooLarge(size, limit)
	}
	s.waiting.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	flush := s.waiting.Add(-1) == 0
	if s.err != nil {
		return 0, s.err
	}
	if s.writeTimeout > 0 {
		_ = s.conn.SetWriteDeadline(time.Now().Add(s.writeTimeout)) // fails only where the write will, too
	}
	// bufio's errors are sticky: only the last one needs looking at.
	_, err := s.w.Write(binary.LittleEndian.AppendUint32(s.w.AvailableBuffer(), uint32(size)))
	for _, p := range parts {
		_, err = s.w.Write(p)
	}
	if flush {
		err = s.w.Flush()
	}
	if err != nil {
		s.err = fmt.Errorf("write to socket: %w", err)
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			_ = s.conn.Close() // half a frame may be out: nothing sensible can follow
		} // else the peer has closed; what it said before that is still to be received
		return 0, s.err
	}
	s.sent += uint64(size)
	return s.sent, nil
}

// Recv implements [Transport].
func (s *Socket) Recv() ([]byte, error) {
	if _, err := io.ReadFull(s.r, s.header[:]); err != nil {
		return nil, readError(err)
	}
	size := uint64(binary.LittleEndian.Uint32(s.header[:]))
	limit := int(s.limit.Load())
	switch {
	case size == 0:
		return nil, protocolErrorf("a frame of length 0")
	case size > 4*uint64(limit):
		return nil, protocolErrorf("a frame of %d bytes; the limit is %d bytes", size, limit)
	case size > uint64(limit):
		e := &OversizeError{Head: make([]byte, min(headBytes, size)), Size: size, Limit: limit}
		if _, err := io.ReadFull(s.r, e.Head); err != nil {
			return nil, readError(err)
		}
		if _, err := io.CopyN(io.Discard, s.r, int64(size)-int64(len(e.Head))); err != nil {
			return nil, readError(err)
		}
		return nil, e
	}
	// A length is only a claim: memory follows the bytes that really arrive.
	b := make([]byte, min(int(size), growStep))
	for have := 0; ; {
		if _, err := io.ReadFull(s.r, b[have:]); err != nil {
			return nil, readError(err)
		}
		if have = len(b); have == int(size) {
			return b, nil
		}
		grown := make([]byte, min(int(size), 2*len(b)))
		copy(grown, b)
		b = grown
	}
}

// Close implements [Transport].
func (s *Socket) Close() error { return s.conn.Close() }

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return io.EOF
	}
	return fmt.Errorf("read from socket: %w", err)
}
