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

// rightsReader reads from a socket, and keeps the first descriptor that comes along until done.
type rightsReader struct {
	conn *net.UnixConn
	file *os.File // nil: none came
	done bool
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

// Read implements [io.Reader].
func (r *rightsReader) Read(p []byte) (int, error) {
	if r.done {
		return r.conn.Read(p)
	}
	oob := make([]byte, unix.CmsgSpace(8*4)) // more are closed by the kernel
	n, oobn, _, _, err := r.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		r.keep(oob[:oobn])
	}
	if n == 0 && err == nil {
		return r.conn.Read(p) // its end of file
	}
	return max(n, 0), err // recvmsg's -1 stands for nothing
}

// keep keeps the first of the descriptors in a control message, and closes the others.
func (r *rightsReader) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, or whatever
		}
		for _, fd := range fds {
			if r.file != nil {
				_ = unix.Close(fd)
				continue
			}
			r.file = os.NewFile(uintptr(fd), "ringmaster")
		}
	}
}

// close closes what was kept.
func (r *rightsReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}
