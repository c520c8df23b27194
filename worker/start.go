package worker

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// spawn is what the supervisor said in the environment.
type spawn struct {
	versions    string // comma-separated
	concurrency int
	maxMessage  int // bytes
}

func readSpawn(getenv func(string) string) (spawn, error) {
	if getenv(ipc.CookieVariable) != ipc.Cookie {
		return spawn{}, fmt.Errorf("worker: this program is a ringmaster worker and is started by ringmaster: "+
			"name it under `pools: NAME: command:` in ringmaster.yaml and run `ringmaster serve` (%s is not set)", ipc.CookieVariable)
	}
	s := spawn{versions: getenv(ipc.VersionsVariable), concurrency: 1, maxMessage: ipc.DefaultMaxMessage}
	for _, v := range []struct {
		name  string
		value *int
	}{{ipc.ConcurrencyVariable, &s.concurrency}, {ipc.MaxMessageVariable, &s.maxMessage}} {
		text := getenv(v.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return spawn{}, fmt.Errorf("worker: %s=%q: want a number from 1", v.name, text)
		}
		*v.value = n
	}
	return s, nil
}

// version chooses the highest protocol version that both sides speak.
func (s spawn) version() (int, error) {
	best := 0
	for _, text := range strings.Split(s.versions, ",") {
		v, err := strconv.Atoi(strings.TrimSpace(text))
		if err == nil && v >= ipc.MinVersion && v <= ipc.MaxVersion {
			best = max(best, v)
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("worker: no common protocol version: the supervisor speaks %q (%s), this worker %d to %d; update the older one",
			s.versions, ipc.VersionsVariable, ipc.MinVersion, ipc.MaxVersion)
	}
	return best, nil
}

// attach maps the segment and keeps what was inherited from being inherited further.
func attach() (*shm.Segment, error) {
	unix.CloseOnExec(ipc.SegmentFD)
	unix.CloseOnExec(ipc.LifelineFD)
	seg, err := shm.Open(ipc.SegmentFD)
	if err != nil {
		return nil, fmt.Errorf("worker: fd %d: %w", ipc.SegmentFD, err)
	}
	if seg.Geometry().Eventfd {
		unix.CloseOnExec(ipc.EventFD)
		if err := seg.UseEventfd(ipc.EventFD); err != nil {
			return nil, fmt.Errorf("worker: %w", err)
		}
	}
	return seg, nil
}

// handshake says that the process is up, as the last thing on stdout: later prints go to stderr, the supervisor's log.
func handshake(version int) error {
	line := fmt.Sprintf("1|%d|unix|fd:%d|netrpc\n", version, ipc.LifelineFD)
	if _, err := os.Stdout.WriteString(line); err != nil {
		return fmt.Errorf("worker: handshake: %w", err)
	}
	if err := unix.Dup3(unix.Stderr, unix.Stdout, 0); err != nil {
		return fmt.Errorf("worker: make stdout a duplicate of stderr: %w", err)
	}
	return nil
}
