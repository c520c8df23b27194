package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manyRestarts is how many processes TestRestartsLeaveNothing kills after its warm-up; fewRestarts with -short.
const manyRestarts, fewRestarts = 200, 40

// holdings are what a process holds of the system.
type holdings struct {
	fds, threads, maps, goroutines int
}

func holds(t *testing.T) holdings {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return holdings{
		fds:        countFDs(t),
		threads:    len(glob(t, "/proc/self/task/*")),
		maps:       bytes.Count(maps, []byte("\n")),
		goroutines: runtime.NumGoroutine(),
	}
}

// However often a worker dies, the supervisor does not grow, and nothing is left in the file system.
func TestRestartsLeaveNothing(t *testing.T) {
	restarts := manyRestarts
	if testing.Short() {
		restarts = fewRestarts
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	h := runWith(t, func(s *Supervisor) { s.backoffMax = time.Millisecond }, builtin(1, 2)).waitReady()
	n := 0
	cycle := func(times int) {
		for range times {
			n++
			w := h.allReady("test").Workers[0]
			switch n % 3 { // at rest, with a request that it works on, with one that it has not read
			case 0:
				kill(t, w.PID, unix.SIGKILL)
			case 1:
				running := h.holdAs("test", n)
				kill(t, w.PID, unix.SIGKILL)
				if err := running.finish(); err == nil {
					t.Fatal("the killed worker has answered")
				}
			case 2:
				kill(t, w.PID, unix.SIGSTOP)
				unread := h.start(testContext(t), request(t, "test", "echo", nil))
				h.busy(1, 0)
				kill(t, w.PID, unix.SIGKILL)
				if o := <-unread; o.err != nil {
					t.Fatal(o.err)
				}
			}
			h.await("test", "a restart", func(p PoolStatus) bool {
				return p.Workers[0].State == "ready" && p.Workers[0].PID != w.PID && p.InFlight == 0
			})
		}
	}
	cycle(fewRestarts) // the warm-up
	before := holds(t)
	cycle(restarts)
	var after holdings
	// The last process's goroutines may be on their way out.
	eventually(t, "goroutines to end", func() bool { after = holds(t); return after.goroutines <= before.goroutines+2 })
	t.Logf("before %+v, after %+v", before, after)
	// The runtime may start a thread and map some memory whenever it likes, but not for each restart.
	if after.fds > before.fds+2 || after.threads > before.threads+5 || after.maps > before.maps+restarts/4 {
		t.Errorf("%d restarts: before %+v, after %+v", restarts, before, after)
	}
	if w := h.worker("test", 0); w.Restarts != n {
		t.Errorf("%d restarts counted, %d made", w.Restarts, n)
	}
	// Shared memory has no name, in neither process.
	for _, path := range []string{"/proc/self/maps", filepath.Join("/proc", strconv.Itoa(h.worker("test", 0).PID), "maps")} {
		maps, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(maps, []byte("/dev/shm")) || bytes.Count(maps, []byte("/memfd:ringmaster")) != 1 {
			t.Errorf("%s:\n%s", path, maps)
		}
	}
	for _, path := range glob(t, "/dev/shm/*") {
		if strings.Contains(path, "ringmaster") {
			t.Errorf("left: %s", path)
		}
	}
	if left := glob(t, filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
