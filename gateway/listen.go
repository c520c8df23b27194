package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode = 0o660
	dirMode    = 0o750
	lockWait   = 5 * time.Second // how long another server may take to bind beside us
)

// Listener is a Unix socket that this process alone serves, or a port of [ListenTCP]. Close removes its file if [Listen] made it.
type Listener struct {
	net.Listener
	path   string
	remote bool // a port
	door   door
	file   os.FileInfo // the socket file, to remove no other; nil: it is somebody else's to remove
	once   sync.Once
	err    error // of the one Close
}

// Listen binds the socket at path with mode 0660. group, a name or a number, becomes the socket's group; "" leaves the process's own. A missing parent directory is made.
//
// A socket that somebody serves is left alone and reported; one whose server is gone is removed. From that look to the bind the parent directory is locked (flock), so that two servers
// that start at once cannot remove each other's socket, and no lock file is left behind.
func Listen(path, group string) (*Listener, error) { return ListenMode(path, group, socketMode) }

// ListenMode is [Listen] with another mode of the socket's file than 0660, such as 0666 where a [Gate] says who may come in. A parent directory that is made lets in whom the socket lets in.
func ListenMode(path, group string, mode os.FileMode) (*Listener, error) {
	gid, err := lookupGroup(group)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	dir := filepath.Dir(path)
	if err := makeDir(dir, mode, gid); err != nil {
		return nil, fmt.Errorf("listen on %s: %w; make the directory, or use another --socket", path, err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := bind(path, mode, gid)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return ln, nil
}

// Path returns where the socket is.
func (l *Listener) Path() string { return l.path }

// Close stops listening and removes the socket file, unless it was inherited or somebody has put another one in its place.
func (l *Listener) Close() error {
	l.once.Do(func() {
		if l.file == nil {
			l.err = l.Listener.Close()
			return
		}
		if unlock, err := lockDir(filepath.Dir(l.path)); err == nil {
			defer unlock()
		}
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.err, l.Listener.Close())
	})
	return l.err
}

// bind makes the socket. It is born with mode 0600 at most (Linux takes a socket file's mode from the socket's own) and opened to its group only when it has that group.
func bind(path string, mode os.FileMode, gid int) (*Listener, error) {
	cfg := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmodErr error
		err := raw.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmodErr)
	}}
	inner, err := cfg.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	inner.(*net.UnixListener).SetUnlinkOnClose(false)
	ln := &Listener{Listener: inner, path: path}
	if ln.file, err = os.Lstat(path); err == nil && gid >= 0 {
		err = os.Lchown(path, -1, gid)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		_ = os.Remove(path)
		_ = inner.Close()
		return nil, err
	}
	ln.door = door{uid: uint32(os.Geteuid()), gid: ln.file.Sys().(*syscall.Stat_t).Gid}
	if gid >= 0 {
		ln.door.gid = uint32(gid)
	}
	return ln, nil
}

// removeStale makes path free, or says who has it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen: %w", err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("listen on %s: there is a file that is not a socket; move it away, or use another --socket", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("listen on %s: already served; stop that server, or use another --socket", path)
	case errors.Is(err, unix.EAGAIN): // its backlog is full
		return fmt.Errorf("listen on %s: already served, by a very busy server; stop it, or use another --socket", path)
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("listen: remove the stale socket: %w", err)
		}
		return nil
	}
	return fmt.Errorf("listen on %s: cannot tell whether it is served: %w", path, err)
}

func makeDir(dir string, mode os.FileMode, gid int) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, dirMode|mode&0o004|mode&0o004>>2); err != nil {
		return err
	}
	if gid >= 0 {
		return os.Chown(dir, -1, gid)
	}
	return nil
}

// lockDir takes the lock on a directory and returns what releases it.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		var lockErr error
		if err := raw.Control(func(fd uintptr) { lockErr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
			lockErr = err
		}
		switch {
		case lockErr == nil:
			return func() { _ = f.Close() }, nil
		case !errors.Is(lockErr, unix.EWOULDBLOCK) && !errors.Is(lockErr, unix.EINTR):
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, lockErr)
		case time.Now().After(deadline):
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: another process has held its lock for %v; use a directory of your own", dir, lockWait)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lookupGroup returns a group's number, -1 for "".
func lookupGroup(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("socket_group %q: there is no such group; create it, or give a number", group)
	}
	return strconv.Atoi(g.Gid)
}
