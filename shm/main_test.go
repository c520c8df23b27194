package shm

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain runs the tests, or one of the children in process_test.go if this process was started as one.
func TestMain(m *testing.M) {
	longestSleep.Sec = 3600 // a lost wake-up is to be a hang here, not a delay
	if role, ok := os.LookupEnv(roleVariable); ok {
		os.Exit(runChild(role))
	}
	// What the runtime keeps open for itself from the first use on is not a leak.
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	code := m.Run()
	if crashBinary.dir != "" {
		os.RemoveAll(crashBinary.dir)
	}
	os.Exit(code)
}

// checkLeaks fails the test if, when all its other cleanups are done, it has left a goroutine, a file descriptor, a mapping of a
// segment or a file in /dev/shm. Call it first.
func checkLeaks(t testing.TB) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	before := openThings(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, ignore)
		for _, thing := range openThings(t) {
			if i := slices.Index(before, thing); i >= 0 {
				before = slices.Delete(before, i, i+1)
				continue
			}
			t.Errorf("left behind: %s", thing)
		}
	})
}

// openThings lists what a test may leave behind in or outside this process.
func openThings(t testing.TB) (things []string) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			things = append(things, "open file "+target)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "/memfd:"+memfdName) {
			things = append(things, "mapping "+strings.TrimSpace(line))
		}
	}
	files, err := os.ReadDir("/dev/shm")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.Contains(file.Name(), memfdName) {
			things = append(things, "/dev/shm/"+file.Name())
		}
	}
	return things
}

// cleanUp checks and destroys s when the test ends, unless the test has destroyed it.
func cleanUp(t testing.TB, s *Segment) {
	t.Cleanup(func() {
		if s.mem == nil {
			return
		}
		s.Shutdown()
		if err := s.Check(); err != nil && !expectBroken[s] {
			t.Error(err)
		}
		delete(expectBroken, s)
		if err := s.Destroy(); err != nil {
			t.Error(err)
		}
	})
}

// expectBroken holds the segments whose content a test has spoilt on purpose.
var expectBroken = map[*Segment]bool{}

// await waits until cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
		runtime.Gosched()
	}
}

// asleep says that somebody has armed s and is asleep or about to be.
func asleep(s *sem) func() bool { return func() bool { return s.waiters.Load() != 0 } }

// content fills b with the content of message number n.
func content(b []byte, n int) []byte {
	for i := range b {
		b[i] = byte(i*7 + n)
	}
	return b
}

// verify reports how msg differs from message number n of the given size.
func verify(msg []byte, n, size int) error {
	if len(msg) != size {
		return fmt.Errorf("message %d has %d bytes, want %d", n, len(msg), size)
	}
	for i, got := range msg {
		if want := byte(i*7 + n); got != want {
			return fmt.Errorf("message %d, byte %d is %#x, want %#x", n, i, got, want)
		}
	}
	return nil
}
