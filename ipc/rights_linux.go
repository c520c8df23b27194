package ipc

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// sendWith sends one message, and files' descriptors with it.
//
// Preconditions: with files, nothing was sent before, and the connection is a Unix socket's.
func (s *Socket) sendWith(files []*os.File, parts [][]byte) error {
	if len(files) == 0 {
		_, err := s.Send(parts...)
		return err
	}
	message := slices.Concat(parts...)
	frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(message))), message...)
	if s.writeTimeout > 0 {
		_ = s.conn.SetWriteDeadline(time.Now().Add(s.writeTimeout)) // fails only where the write will, too
	}
	fds := make([]int, len(files))
	for i, file := range files {
		fd, err := descriptor(file)
		if err != nil {
			return fmt.Errorf("write to socket: %w", err)
		}
		fds[i] = fd
	}
	n, _, err := s.conn.(*net.UnixConn).WriteMsgUnix(frame, unix.UnixRights(fds...), nil)
	runtime.KeepAlive(files)
	if err != nil {
		return fmt.Errorf("write to socket: %w", err)
	}
	if n < len(frame) { // an empty socket takes so little at once
		return fmt.Errorf("write to socket: only %d of %d bytes of the hello went out", n, len(frame))
	}
	return nil
}

// descriptor returns a file's, which stays in the mode it is in.
func descriptor(file *os.File) (int, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	err = raw.Control(func(fd uintptr) { n = int(fd) })
	return n, err
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

// maxRights is how many descriptors come with a server's hello, at most: of the segment, its eventfd, and its socket.
const maxRights = 3

// rightsReader reads from a socket, and keeps the descriptors that come along: the first, with the hello, in first; later ones, if there is a ring, in files.
type rightsReader struct {
	conn  *net.UnixConn
	first []int
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
			fits = r.take(fd) && fits
		}
	}
	return fits
}

func (r *rightsReader) take(fd int) bool {
	switch {
	case r.files != nil:
		file := os.NewFile(uintptr(fd), "ringmaster")
		select {
		case r.files <- file:
			return true
		default:
			_ = file.Close()
			return false
		}
	case len(r.first) < maxRights && !r.done:
		r.first = append(r.first, fd)
	default:
		_ = unix.Close(fd)
	}
	return true
}

// next returns the next descriptor that came with the hello, which is the caller's now; -1: there is none.
func (r *rightsReader) next() int {
	if len(r.first) == 0 {
		return -1
	}
	fd := r.first[0]
	r.first = r.first[1:]
	return fd
}

// closeFirst closes what came with the hello and nobody took.
func (r *rightsReader) closeFirst() {
	for fd := r.next(); fd >= 0; fd = r.next() {
		_ = unix.Close(fd)
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
