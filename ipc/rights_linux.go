package ipc

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// clap returns what writes one byte to a socket, if there is room for it.
func clap(what byte) func(fd uintptr) bool {
	b := []byte{what}
	return func(fd uintptr) bool {
		_ = unix.Send(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) // see line.Ring
		return true
	}
}

// sendWith sends one message, and a file's descriptor with it unless it is nil.
//
// Preconditions: with a file, nothing was sent before, and the connection is a Unix socket's.
func (s *Socket) sendWith(file *os.File, parts [][]byte) error {
	if file == nil {
		_, err := s.Send(parts...)
		return err
	}
	message := slices.Concat(parts...)
	frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(message))), message...)
	if s.writeTimeout > 0 {
		_ = s.conn.SetWriteDeadline(time.Now().Add(s.writeTimeout)) // fails only where the write will, too
	}
	n, _, err := s.conn.(*net.UnixConn).WriteMsgUnix(frame, unix.UnixRights(int(file.Fd())), nil)
	if err != nil {
		return fmt.Errorf("write to socket: %w", err)
	}
	if n < len(frame) { // an empty socket takes so little at once
		return fmt.Errorf("write to socket: only %d of %d bytes of the hello went out", n, len(frame))
	}
	return nil
}

// bellArena is the bell's bit that says that a descriptor comes with it.
const bellArena = 4

// sendFile rings with a descriptor. The peer may not have read what was rung before, and then there is no room: that is an error, and nothing is sent.
func (l *line) sendFile(file *os.File) error {
	var sent error
	rights := unix.UnixRights(int(file.Fd()))
	err := l.raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), []byte{bellArena}, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	if err == nil {
		err = sent
	}
	if err != nil {
		return fmt.Errorf("send a descriptor: %w", err)
	}
	return nil
}

// maxFiles is how many descriptors of arenas may wait for the answers that they belong to.
const maxFiles = 64

// rightsReader reads from a socket, and keeps the descriptors that come along: the first, with the hello, in file; later ones, if there is a ring, in files.
type rightsReader struct {
	conn  *net.UnixConn
	file  *os.File      // nil: none came
	done  bool          // the hello is over, and nobody wants descriptors any more
	files chan *os.File // capacity maxFiles; nil before onward
	oob   [64]byte      // unix.CmsgSpace(8*4) at least: more descriptors are closed by the kernel
}

// watch makes s read through r. It reports false if nothing can come that way.
func (r *rightsReader) watch(s *Socket) bool {
	conn, ok := s.conn.(*net.UnixConn)
	if ok {
		r.conn = conn
		s.r.Reset(r)
	}
	return ok
}

// onward makes r keep what comes after the hello.
//
// Preconditions: nobody reads.
func (r *rightsReader) onward() *rightsReader {
	r.done = false
	r.files = make(chan *os.File, maxFiles)
	return r
}

// Read implements [io.Reader].
func (r *rightsReader) Read(p []byte) (int, error) {
	if r.done {
		return r.conn.Read(p)
	}
	n, oobn, _, _, err := r.conn.ReadMsgUnix(p, r.oob[:])
	if oobn > 0 && !r.keep(r.oob[:oobn]) && err == nil {
		err = tooManyFiles()
	}
	if n == 0 && err == nil {
		return r.conn.Read(p) // its end of file
	}
	return max(n, 0), err // recvmsg's -1 stands for nothing
}

// receive is Read without waiting, of the connection's descriptor.
func (r *rightsReader) receive(fd int, p []byte) (int, error) {
	n, oobn, _, _, err := unix.Recvmsg(fd, p, r.oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if oobn > 0 && !r.keep(r.oob[:oobn]) && err == nil {
		err = tooManyFiles()
	}
	return n, err
}

func tooManyFiles() *Error {
	return protocolErrorf("more than %d descriptors wait for what they belong to", maxFiles)
}

// keep keeps the descriptors in a control message that are wanted, and closes the others. It reports false if there are more than may be.
func (r *rightsReader) keep(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return true
	}
	fits := true
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, or whatever
		}
		for _, fd := range fds {
			fits = r.take(os.NewFile(uintptr(fd), "ringmaster")) && fits
		}
	}
	return fits
}

func (r *rightsReader) take(file *os.File) bool {
	switch {
	case r.files != nil:
		select {
		case r.files <- file:
			return true
		default:
			_ = file.Close()
			return false
		}
	case r.file == nil:
		r.file = file
	default:
		_ = file.Close()
	}
	return true
}

// closeFirst closes what came with the hello.
func (r *rightsReader) closeFirst() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// close closes what nobody took. Preconditions: nobody reads.
func (r *rightsReader) close() {
	for {
		select {
		case file := <-r.files:
			_ = file.Close()
		default:
			return
		}
	}
}
