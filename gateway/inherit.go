package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inherit takes over a socket that another process, such as systemd, has bound and listens on. Its file, with its mode and its group, is that process's: Close leaves it where it is, so that who
// connects while nobody serves waits for the next server. f is closed in any case.
func Inherit(f *os.File) (*Listener, error) {
	defer f.Close()
	if err := listens(f); err != nil {
		return nil, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
	}
	inner, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
	}
	ln, err := inherited(inner.(*net.UnixListener))
	if err != nil {
		_ = inner.Close()
		return nil, fmt.Errorf("inherited socket %s: %w", f.Name(), err)
	}
	return ln, nil
}

// inherited finds out to whom the door of a socket is open.
func inherited(inner *net.UnixListener) (*Listener, error) {
	inner.SetUnlinkOnClose(false)
	path := inner.Addr().String()
	if path == "" || path[0] == '@' {
		return nil, fmt.Errorf("its address %q is no path, and abstract sockets have no file permissions; use ListenStream=/run/ringmaster/ringmaster.sock", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("its file cannot be seen from here, so that nobody would find this server: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("at its path %s there is something else than a socket; restart the socket unit", path)
	}
	return &Listener{Listener: inner, path: path, door: door{uid: uint32(os.Geteuid()), gid: info.Sys().(*syscall.Stat_t).Gid}}, nil
}

// listens checks that f is a listening Unix stream socket.
func listens(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var domain, kind, accepts int
	err = errors.Join(raw.Control(func(fd uintptr) {
		if domain, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
			return
		}
		if kind, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			return
		}
		accepts, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}), err)
	switch {
	case errors.Is(err, unix.ENOTSOCK):
		return errors.New("it is not a socket")
	case err != nil:
		return err
	case domain != unix.AF_UNIX:
		return fmt.Errorf("it is not a Unix socket (its family is %d); use a path, as in ListenStream=/run/ringmaster/ringmaster.sock", domain)
	case kind != unix.SOCK_STREAM:
		return fmt.Errorf("it is not a stream socket (its type is %d); use ListenStream=", kind)
	case accepts == 0:
		return errors.New("it does not listen: it may be a connection; use Accept=no")
	}
	return nil
}
