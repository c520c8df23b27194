package worker

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestReadSpawn(t *testing.T) {
	env := map[string]string{ipc.CookieVariable: ipc.Cookie, ipc.VersionsVariable: "1"}
	getenv := func(name string) string { return env[name] }
	if s, err := readSpawn(getenv); err != nil || s != (spawn{"1", 1, ipc.DefaultMaxMessage}) {
		t.Errorf("defaults: %+v, %v", s, err)
	}
	env[ipc.ConcurrencyVariable], env[ipc.MaxMessageVariable] = "8", "1000000"
	if s, err := readSpawn(getenv); err != nil || s != (spawn{"1", 8, 1000000}) {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestTheHighestCommonVersionIsChosen(t *testing.T) {
	for offered, want := range map[string]int{"1": 1, "1,2": 1, "3,2,1": 1, "3, 1": 1, "0,1": 1, "": 0, "2": 0, "x,1": 1, "-1": 0, "1.0": 0, "99999999999999999999": 0} {
		if got, err := (spawn{versions: offered}).version(); got != want || (err == nil) != (want > 0) {
			t.Errorf("offered %q: chose %d, %v; want %d", offered, got, err, want)
		}
	}
}

// An eventfd is known with /proc and without; nothing else that can be written to is taken for one.
func TestEventfdIsChecked(t *testing.T) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, links := range []string{"/proc/self/fd", filepath.Join(t.TempDir(), "none")} {
		if err := checkEventfd(event, links); err != nil {
			t.Errorf("%s: an eventfd: %v", links, err)
		}
		for what, fd := range map[string]int{"a pipe": int(w.Fd()), "a file": int(file.Fd()), "a socket": pair[0], "nothing": 1 << 20} {
			if checkEventfd(fd, links) == nil {
				t.Errorf("%s: %s is taken for an eventfd", links, what)
			}
		}
	}
	for _, c := range []io.Closer{r, w, file} {
		_ = c.Close()
	}
	for _, fd := range []int{event, pair[0], pair[1]} {
		_ = unix.Close(fd)
	}
}
