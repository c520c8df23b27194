package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// mark is an environment variable by which a test finds the processes of its supervisor, down to the workers' children.
const mark = "RINGMASTER_TEST_MARK"

// orphanPools are pools whose workers have children.
func orphanPools(exe string) []PoolConfig {
	script := func(s string) []string { return []string{"sh", "-c", "sleep 1000 & sleep 1000 & " + s, exe} }
	return []PoolConfig{
		{Name: "test", Builtin: "echo", Workers: 2},
		{Name: "script", Command: script(`exec "$0" worker --builtin echo`)},
		{Name: "loading", Command: script(handshake + "sleep 1000")},
		{Name: "starting", Command: script("sleep 1000")},
	}
}

// orphanPoolsProcesses is how many processes they are, the script shells' own sleeps and two forks included.
const orphanPoolsProcesses = (2 + 2) + 3 + 4 + 4

// supervise is a supervisor that will not end well. It says its guard's pid once everything is up, and then meets its end as its standard input says.
func supervise(how string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cfg := Config{Pools: orphanPools(exe), Executable: exe, Logger: slog.New(slog.DiscardHandler)}
	if how == "without a guard" {
		cfg.Executable = ""
		cfg.Pools = []PoolConfig{
			{Name: "test", Command: []string{exe, "worker", "--builtin", "echo"}, Workers: 2},
			{Name: "loading", Command: []string{"sh", "-c", handshake + "exec sleep 1000"}}, // does not know of its lifeline
		}
	}
	s, err := New(cfg)
	if err != nil {
		return err
	}
	s.handshakeTimeout = time.Minute
	s.withoutCgroups = strings.Contains(how, "without")
	go s.Run(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, p := range s.all() {
		if p.name == "loading" || p.name == "starting" {
			continue
		}
		err := p.await(ctx, func() (bool, error) {
			return !slices.ContainsFunc(p.slots, func(sl *slot) bool { return sl.state != stateReady }), nil
		})
		if err != nil {
			return err
		}
	}
	if how == "without a guard" { // a worker that is stopped does not notice either
		if err := unix.Kill(s.Status().Pools[1].Workers[0].PID, unix.SIGSTOP); err != nil {
			return err
		}
		return meetItsEnd(0)
	}
	escape, err := ipc.Marshal(strings.HasPrefix(how, "escaped"))
	if err != nil {
		return err
	}
	for range 2 {
		replies, err := s.Call(ctx, &ipc.Request{Pool: "test", Action: "fork", Body: escape})
		if err != nil {
			return err
		}
		if _, err := last(ctx, replies); err != nil {
			return err
		}
	}
	if how == "stopped" {
		for _, w := range s.Status().Pools[3].Workers {
			if err := unix.Kill(w.PID, unix.SIGSTOP); err != nil {
				return err
			}
		}
	}
	if how == "with a second guard" {
		first := s.guard.pid()
		if err := unix.Kill(first, unix.SIGKILL); err != nil {
			return err
		}
		poll := time.NewTicker(time.Millisecond)
		for now := s.guard.pid(); now == 0 || now == first; now = s.guard.pid() {
			<-poll.C
		}
	}
	return meetItsEnd(s.guard.pid())
}

// meetItsEnd says the guard's pid and does what standard input says: nothing, until it is killed or the test is over; panic; or take ever more memory, up to a bound.
func meetItsEnd(guard int) error {
	fmt.Println(guard)
	var how string
	if n, _ := fmt.Scanln(&how); n == 0 { // end of file
		return nil
	}
	switch how {
	case "panic":
		go func() { panic("as the test wants it") }()
	case "memory":
		taken, err := unix.Mmap(-1, 0, 4*oomLimit, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		for i := 0; i < len(taken); i += os.Getpagesize() {
			taken[i] = 1
		}
		return fmt.Errorf("%d bytes were to be had", len(taken))
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// withMark are the processes whose environment has the mark. A zombie has none.
func withMark(t *testing.T, value string) []int {
	var pids []int
	for _, path := range glob(t, "/proc/[0-9]*/environ") {
		env, _ := os.ReadFile(path)
		if bytes.Contains(env, []byte(mark+"="+value+"\x00")) {
			pids = append(pids, mustInt(strings.Split(path, "/")[2]))
		}
	}
	return pids
}

// Nothing survives a supervisor, however it goes, for longer than a second. On a machine that is busy with other things it may take a few attempts to see that.
func TestKilledSupervisorLeavesNoProcess(t *testing.T) {
	for _, c := range []struct {
		how string
		end func(*testing.T) ending
		n   int // processes
	}{
		{"running", killed9, orphanPoolsProcesses},
		{"stopped", killed9, orphanPoolsProcesses},
		{"without a guard", killed9, 3},
		{"escaped", killed9, orphanPoolsProcesses},
		{"escaped, without cgroups", killed9, orphanPoolsProcesses},
		{"with a second guard", killed9, orphanPoolsProcesses},
		{"panicking", panicking, orphanPoolsProcesses},
		{"out of memory", outOfMemory, orphanPoolsProcesses},
	} {
		t.Run(c.how, func(t *testing.T) {
			end := c.end(t)
			took := endSupervisor(t, c.how, c.n, end)
			for attempts := 1; took > time.Second && attempts < 3; attempts++ {
				t.Logf("once more: %v", took)
				took = endSupervisor(t, c.how, c.n, end)
			}
			if took > time.Second {
				t.Errorf("the last process ended after %v", took)
			}
		})
	}
}

// ending ends a supervisor that has this standard input.
type ending func(supervisor *exec.Cmd, stdin io.Writer)

func killed9(t *testing.T) ending {
	return func(supervisor *exec.Cmd, _ io.Writer) {
		if err := supervisor.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}

func panicking(t *testing.T) ending {
	return func(_ *exec.Cmd, stdin io.Writer) {
		if _, err := io.WriteString(stdin, "panic\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// outOfMemory has the kernel kill the supervisor, in a memory cgroup that it shares with nobody: its workers are where they were.
func outOfMemory(t *testing.T) ending {
	limited := memoryCgroup(t, oomLimit)
	return func(supervisor *exec.Cmd, stdin io.Writer) {
		limited.enter(supervisor.Process.Pid)
		if _, err := io.WriteString(stdin, "memory\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// endSupervisor starts a supervisor, has it end, and returns how long it then took until the last process had ended.
func endSupervisor(t *testing.T, how string, processes int, end ending) time.Duration {
	value := fmt.Sprintf("%s-%d-%d", how, os.Getpid(), time.Now().UnixNano())
	cmd := exec.Command(testBinary(t), "supervise", how)
	cmd.Env = append(os.Environ(), mark+"="+value)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err, cmd.Wait(), complaint.String())
	}
	guard, err := strconv.Atoi(strings.TrimSpace(said))
	if err != nil || alive(guard) != (how != "without a guard") {
		t.Fatalf("guard %d: %v", guard, err)
	}
	eventually(t, "all processes to be there", func() bool { return len(withMark(t, value)) == 1+processes })

	begin := time.Now()
	end(cmd, stdin)
	eventually(t, "the last process's end", func() bool { return len(withMark(t, value)) == 0 && !alive(guard) })
	took := time.Since(begin)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Error(err)
	} else if how == "out of memory" && exit.String() != "signal: killed" {
		t.Errorf("the supervisor ended otherwise: %v; %s", err, complaint.String())
	}
	if left := cgroupsLeft(t, cmd.Process.Pid); len(left) > 0 {
		t.Errorf("it left the cgroups %q", left)
	}
	return took
}

// cgroupsLeft lists the cgroups of a supervisor that is gone. The next one has nothing to clean up.
func cgroupsLeft(t *testing.T, pid int) []string {
	parent, err := cgroupOf(os.Getpid(), "")
	if err != nil {
		return nil
	}
	return glob(t, filepath.Join(parent, fmt.Sprintf("%s%d.*", cgroupPrefix, pid)))
}

// A guard that is killed, or stopped so that it does not read what it is told, is replaced, and nobody waits for it.
func TestKilledGuard(t *testing.T) {
	for name, sig := range map[string]unix.Signal{"killed": unix.SIGKILL, "stopped": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			h := run(t, builtin(1, 1)).waitReady()
			first := h.guard.pid()
			kill(t, first, sig)
			eventually(t, "another guard", func() bool {
				if sig == unix.SIGSTOP { // until the pipe is full
					for range 1000 {
						h.guard.remove(99999999)
					}
				}
				now := h.guard.pid()
				return now != 0 && now != first && alive(now)
			})
			pid := h.worker("test", 0).PID
			kill(t, pid, unix.SIGKILL)
			h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].PID != pid && p.Workers[0].State == "ready" })
			h.must("echo", nil, nil)
		})
	}
}

// What a supervisor left whose guard was killed with it, the next one clears away.
func TestStaleCgroupsAreRemoved(t *testing.T) {
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	own, err := cgroupOf(os.Getpid(), "")
	if err != nil {
		t.Skip(err)
	}
	parent := filepath.Join(own, fmt.Sprintf("ringmaster-test-%d", os.Getpid())) // where no other test's supervisor tidies up
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Skipf("no cgroup of version 2 may be made here: %v", err)
	}
	defer os.Remove(parent)
	c := openCgroupsIn(parent, log)
	if c == nil {
		t.Skip("the kernel is older than 5.14")
	}
	defer c.close()
	stale := filepath.Join(parent, cgroupPrefix+"99999999.1.1")
	if err := os.MkdirAll(filepath.Join(stale, "worker.1"), 0o755); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "1000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	defer left.Process.Kill()
	if err := os.WriteFile(filepath.Join(stale, "worker.1", "cgroup.procs"), []byte(strconv.Itoa(left.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	again := openCgroupsIn(parent, log)
	defer again.close()
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", stale, err)
	}
	if _, err := os.Stat(c.dir); err != nil {
		t.Errorf("that of a supervisor that runs: %v", err)
	}
	// A supervisor in another container sees it, too, and no process of its id.
	other := exec.Command(testBinary(t), "sweep", parent)
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if out, err := other.CombinedOutput(); errors.Is(err, unix.EPERM) {
		t.Log("no process id namespace may be made here")
	} else if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(c.dir); err != nil {
		t.Errorf("that of a supervisor in another container: %v", err)
	}
	var exit *exec.ExitError
	if err := left.Wait(); !errors.As(err, &exit) || exit.String() != "signal: killed" {
		t.Errorf("the process that was left: %v", err)
	}
}

// What the guard is told to forget it leaves alone, and it does not listen to nonsense.
func TestGuard(t *testing.T) {
	start := func() *exec.Cmd {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kept, killed := start(), start()
	defer func() {
		_ = kept.Process.Kill()
		_ = kept.Wait()
	}()
	var in bytes.Buffer
	fmt.Fprintf(&in, "+%d\n+%d\n-%d\n", kept.Process.Pid, killed.Process.Pid, kept.Process.Pid)
	in.WriteString("+0\n+1\n+-1\nx\n\n-99999999\n")
	guard := exec.Command(testBinary(t), "guard")
	guard.Stdin = &in
	if err := guard.Run(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := killed.Wait(); !errors.As(err, &exit) || exit.String() != "signal: killed" {
		t.Errorf("the one to kill: %v", err)
	}
	if !alive(kept.Process.Pid) {
		t.Error("the one to keep is dead")
	}
}
