package ipc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	socketBuffer = 16 << 10 // bytes buffered each way
	growStep     = 8 << 20  // a message's buffer grows by at most this many bytes ahead of what has arrived, and then doubles
	headBytes    = 64       // of a message, read before the rest to find its kind and id
)

// MaxHello is the limit in bytes for the first frame on a socket.
const MaxHello = 64 << 10

// Socket is the [Transport] over a stream socket: each message is a little-endian u32 length and that many bytes.
type Socket struct {
	conn  net.Conn
	limit atomic.Int64 // largest message, bytes

	r      *bufio.Reader // Recv only
	header [4]byte       // Recv only
	pace   time.Duration // Recv only; see SetReadTimeout

	writeTimeout time.Duration // immutable
	paced        bool          // Recv only: conn has a read deadline that is pace's

	// Recv only: asked for each message before its bytes are read; an error makes Recv skip it. nil: all are taken.
	admit func(head []byte, size int) *Error

	closed  atomic.Bool  // by us
	waiting atomic.Int32 // senders that hold or want mu; the last one flushes
	mu      sync.Mutex
	w       *bufio.Writer // guarded by mu
	sent    uint64        // guarded by mu
	err     error         // guarded by mu; sticky
}

// NewSocket makes a [Socket] of a connection. Messages are limited to limit bytes until SetLimit. A peer that takes less than 64 KiB in writeTimeout while there is more for it loses the connection;
// 0 waits for ever.
func NewSocket(conn net.Conn, limit int, writeTimeout time.Duration) *Socket {
	s := &Socket{
		conn: conn,
		r:    bufio.NewReaderSize(conn, socketBuffer),
		w:    bufio.NewWriterSize(&pacedWriter{conn, writeTimeout}, socketBuffer),

		writeTimeout: writeTimeout,
	}
	s.limit.Store(int64(limit))
	return s
}

// SetLimit changes the largest message, in bytes.
func (s *Socket) SetLimit(limit int) { s.limit.Store(int64(limit)) }

// Send implements [Transport]. Messages of concurrent senders leave in one write where they can: a message may be written by a later Send, which is under way when this one returns.
func (s *Socket) Send(parts ...[]byte) (uint64, error) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if limit := int(s.limit.Load()); size > limit {
		return 0, tooLarge(size, limit)
	}
	end, last, err := s.buffer(size, parts)
	if err != nil || !last {
		return end, err
	}
	if size <= inlineBlob {
		runtime.Gosched() // whoever is about to send, too, comes now, and flushes for us
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.waiting.Load() == 0 {
		s.fail(s.w.Flush())
	}
	return end, s.err
}

// buffer appends a message to what is to be written, and reports whether no other sender is there to flush it.
func (s *Socket) buffer(size int, parts [][]byte) (end uint64, last bool, err error) {
	s.waiting.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	last = s.waiting.Add(-1) == 0
	if s.closed.Load() { // the write would fail, too, but maybe in another sender's hands
		s.fail(net.ErrClosed)
	}
	if s.err != nil {
		return 0, last, s.err
	}
	// bufio's errors are sticky: only the last one needs looking at.
	_, err = s.w.Write(binary.LittleEndian.AppendUint32(s.w.AvailableBuffer(), uint32(size)))
	for _, p := range parts {
		_, err = s.w.Write(p)
	}
	s.fail(err)
	s.sent += uint64(size)
	return s.sent, last, s.err
}

// fail remembers the first error of a write. Preconditions: mu is held.
func (s *Socket) fail(err error) {
	if err == nil || s.err != nil {
		return
	}
	s.err = fmt.Errorf("write to socket: %w", err)
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		_ = s.conn.Close() // half a frame may be out: nothing sensible can follow
	} // else the peer has closed; what it said before that is still to be received
}

// flush writes what other senders may be about to. It comes before a Close by somebody who knows of something that was sent.
func flush(t Transport) {
	if s, ok := t.(*Socket); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil {
			s.fail(s.w.Flush())
		}
	}
}

// SetReadTimeout bounds how long a message may take to come once it has begun: a peer that sends less than 64 KiB of it in d, and does not end it, loses the connection. 0, the default, waits for
// ever. Between messages there is no bound. Preconditions: nobody is in Recv.
func (s *Socket) SetReadTimeout(d time.Duration) { s.pace = d }

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
	}
	b, err := s.recv(int(size), limit)
	if s.paced {
		s.paced = false
		_ = s.conn.SetReadDeadline(time.Time{}) // fails only where the next read will, too
	}
	return b, err
}

// recv receives a message's bytes, or skips them.
func (s *Socket) recv(size, limit int) ([]byte, error) {
	var why *Error
	switch {
	case size > limit:
		why = tooLarge(size, limit)
	case s.admit != nil:
		head, err := s.peek(min(headBytes, size))
		if err != nil {
			return nil, err
		}
		why = s.admit(head, size)
	}
	if why != nil {
		return nil, s.skip(size, why)
	}
	// A length is only a claim: memory follows the bytes that really arrive. But a copy for each time that it doubles is dear, so most messages get theirs at once.
	b := make([]byte, min(size, growStep))
	for have := 0; ; {
		if err := s.fill(b[have:]); err != nil {
			return nil, err
		}
		if have = len(b); have == size {
			return b, nil
		}
		grown := make([]byte, min(size, 2*len(b)))
		copy(grown, b)
		b = grown
	}
}

// skip reads a message without keeping it, and returns the [*SkippedError].
func (s *Socket) skip(size int, why *Error) error {
	e := &SkippedError{Head: make([]byte, min(headBytes, size)), Size: uint64(size), Why: why}
	if err := s.fill(e.Head); err != nil {
		return err
	}
	for left := size - len(e.Head); left > 0; {
		s.hurry(left)
		n, err := s.r.Discard(left)
		if left -= n; err != nil && !moved(n, err) {
			return readError(err)
		}
	}
	return e
}

// fill reads until b is full.
func (s *Socket) fill(b []byte) error {
	for {
		s.hurry(len(b))
		n, err := io.ReadFull(s.r, b)
		if !moved(n, err) {
			return readError(err)
		}
		b = b[n:]
	}
}

// peek returns the next n bytes, which stay to be read.
func (s *Socket) peek(n int) ([]byte, error) {
	s.hurry(n)
	b, err := s.r.Peek(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, readError(err)
}

// hurry gives the peer the time to send what is to be read next, unless it is here already, as it is for most small messages.
func (s *Socket) hurry(n int) {
	if s.pace > 0 && s.r.Buffered() < n {
		s.paced = true
		_ = s.conn.SetReadDeadline(time.Now().Add(s.pace)) // fails only where the read will, too
	}
}

// Close implements [Transport].
func (s *Socket) Close() error {
	s.closed.Store(true)
	return s.conn.Close()
}

func readError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed):
		return io.EOF
	}
	return fmt.Errorf("read from socket: %w", err)
}
