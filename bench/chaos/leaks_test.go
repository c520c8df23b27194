package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/shm"
)

// held looks at this process.
func held(t *testing.T) *holdings {
	t.Helper()
	h, err := holdingsOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLeakedDescriptorIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leak")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := held(t)
	if got := leaked(compare(before, before), before, before); len(got) > 0 {
		t.Errorf("nothing was leaked, and %q", got)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	after := held(t)
	f.Close()
	want := fmt.Sprintf("leaked: the server holds %d descriptors, before it held %d: 1 %s", before.fds()+1, before.fds(), path)
	if got := leaked(compare(before, after), before, after); !slices.Equal(got, []string{want}) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestLeakedSegmentIsSeen(t *testing.T) {
	before := held(t)
	seg, err := shm.Create(shm.Geometry{})
	if err != nil {
		t.Fatal(err)
	}
	after := held(t)
	users := memfdUsers(memfds(os.Getpid()))
	seg.Shutdown()
	if err := seg.Destroy(); err != nil {
		t.Fatal(err)
	}
	found := strings.Join(leaked(compare(before, after), before, after), "; ")
	for _, want := range []string{"1 /memfd:ringmaster", fmt.Sprintf("holds %d mapped segments", before.MemfdMaps+1)} {
		if !strings.Contains(found, want) {
			t.Errorf("found %q, want %q in it", found, want)
		}
	}
	if len(users) != 1 || users[0].pid != os.Getpid() {
		t.Errorf("users of the segment: %v", users)
	}
}

func TestLeaksOfEveryKindAreSeen(t *testing.T) {
	before := &holdings{Threads: 10, Maps: 100, RSS: 50 << 20, Goroutines: 40, Children: 7}
	for what, grow := range map[string]func(*holdings){
		"threads":        func(h *holdings) { h.Threads += moreThreads + 1 },
		"mappings":       func(h *holdings) { h.Maps += moreMaps + 1 },
		"resident bytes": func(h *holdings) { h.RSS += moreRSS + 1 },
		"goroutines":     func(h *holdings) { h.Goroutines++ },
		"children":       func(h *holdings) { h.Children++ },
		"zombies":        func(h *holdings) { h.Zombies++ },
		"arenas":         func(h *holdings) { h.Regions++ },
		"arenas in":      func(h *holdings) { h.Arenas++ },
	} {
		after := *before
		grow(&after)
		if got := leaked(compare(before, &after), before, &after); len(got) != 1 || !strings.Contains(got[0], " "+what) {
			t.Errorf("%s: %q", what, got)
		}
	}
}

// A process of the server's session is found, and so is one that nobody has waited for.
func TestProcessesLeftAreSeen(t *testing.T) {
	child := exec.Command("sleep", "1000")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	if left := session(pid); len(left) != 1 || left[0].pid != pid {
		t.Errorf("the session has %v", left)
	}
	before := held(t)
	_ = child.Process.Kill()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if h := held(t); h.Zombies != 1 || h.Children != before.Children {
		t.Errorf("after its death: %+v", h)
	}
	if left := session(pid); len(left) != 1 || left[0].state != "Z" {
		t.Errorf("the session has %v", left)
	}
	_ = child.Wait()
	if left := session(pid); len(left) != 0 {
		t.Errorf("the session has %v", left)
	}
}

func TestFilesLeftAreSeen(t *testing.T) {
	dir := t.TempDir()
	s, err := newServer("", dir, "python", "debug", true)
	if err != nil {
		t.Fatal(err)
	}
	if found := s.litter(); len(found) > 0 {
		t.Errorf("found %q", found)
	}
	for _, name := range []string{s.socket, filepath.Join(s.tmp, "plugin1")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found := s.litter(); !slices.Equal(found, []string{s.socket, filepath.Join(s.tmp, "plugin1")}) {
		t.Errorf("found %q", found)
	}
}

func TestSharedMemoryFilesAreSeen(t *testing.T) {
	begun := time.Now().Add(-time.Second)
	f, err := os.CreateTemp("/dev/shm", "chaos-test")
	if err != nil {
		t.Skip(err)
	}
	defer os.Remove(f.Name())
	name := filepath.Base(f.Name())
	if slices.Contains(sharedMemory(begun), name) {
		t.Error("it is in use, and taken for left behind")
	}
	f.Close()
	if !slices.Contains(sharedMemory(begun), name) {
		t.Error("it is not seen")
	}
	if slices.Contains(sharedMemory(time.Now().Add(time.Hour)), name) {
		t.Error("it was there before, and is seen")
	}
}
