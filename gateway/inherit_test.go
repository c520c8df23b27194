package gateway

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// handOver makes a socket as systemd would and returns its descriptor.
func handOver(t *testing.T, network, address string) *os.File {
	t.Helper()
	var bound interface{ File() (*os.File, error) }
	switch network {
	case "unix":
		ln, err := net.ListenUnix(network, &net.UnixAddr{Net: network, Name: address})
		if err != nil {
			t.Fatal(err)
		}
		ln.SetUnlinkOnClose(false)
		defer ln.Close()
		bound = ln
	case "unixgram":
		c, err := net.ListenUnixgram(network, &net.UnixAddr{Net: network, Name: address})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		bound = c
	default:
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		bound = ln.(*net.TCPListener)
	}
	f, err := bound.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Who connected before the server was there is served, and the file stays when it goes.
func TestInheritServesWhoWaited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rm.sock")
	f := handOver(t, "unix", path)
	early := ipc.NewSocket(connect(t, path), 1<<20, patience)
	ln, err := Inherit(f)
	if err != nil {
		t.Fatal(err)
	}
	if ln.Path() != path {
		t.Errorf("the path is %q", ln.Path())
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if gid := uint32(os.Getegid()); ln.door.gid != gid {
		t.Errorf("the door is group %d's, the file %v is group %d's", ln.door.gid, info, gid)
	}
	s := startOn(t, ln, newFake(), Config{})
	if _, err := ipc.ClientHello(early, "test"); err != nil {
		t.Errorf("the early client: %v", err)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

func TestInheritRefuses(t *testing.T) {
	dir := t.TempDir()
	plain, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		t.Fatal(err)
	}
	gone := handOver(t, "unix", filepath.Join(dir, "gone"))
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	replaced := handOver(t, "unix", filepath.Join(dir, "replaced"))
	if err := os.Remove(filepath.Join(dir, "replaced")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "replaced"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	for _, tt := range []struct {
		name string
		file *os.File
		want string
	}{
		{"a file", plain, "it is not a socket"},
		{"TCP", handOver(t, "tcp", "127.0.0.1:0"), "it is not a Unix socket"},
		{"datagrams", handOver(t, "unixgram", filepath.Join(dir, "datagrams")), "it is not a stream socket"},
		{"a connection", os.NewFile(uintptr(pair[0]), "pair"), "it does not listen"},
		{"an abstract socket", handOver(t, "unix", "@ringmaster-"+filepath.Base(dir)), "abstract sockets have no file permissions"},
		{"a socket without its file", gone, "its file cannot be seen from here"},
		{"another file at its path", replaced, "something else than a socket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := Inherit(tt.file)
			if err == nil {
				_ = ln.Close()
				t.Fatal("it was accepted")
			}
			if !strings.HasPrefix(err.Error(), "inherited socket "+tt.file.Name()+": ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if err := tt.file.Close(); err == nil {
				t.Error("the descriptor was left open")
			}
		})
	}
}
