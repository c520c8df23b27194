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
	"slices"
	"strconv"
	"strings"
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

// supervise is a supervisor that will be killed. It says its guard's pid once everything is up.
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
	go s.Run(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, p := range s.pools {
		if p.cfg.Name == "loading" || p.cfg.Name == "starting" {
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
		fmt.Println(0)
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	escape, err := ipc.Marshal(false)
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
	fmt.Println(s.guard.pid())
	_, err = io.Copy(io.Discard, os.Stdin) // until the test is over, should it fail to kill us
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

// Nothing survives a supervisor that was killed, for longer than a second. On a machine that is busy with other things it may take a few attempts to see that.
func TestKilledSupervisorLeavesNoProcess(t *testing.T) {
	for how, processes := range map[string]int{"running": orphanPoolsProcesses, "stopped": orphanPoolsProcesses, "without a guard": 3} {
		t.Run(how, func(t *testing.T) {
			took := killSupervisor(t, how, processes)
			for attempts := 1; took > time.Second && attempts < 3; attempts++ {
				t.Logf("once more: %v", took)
				took = killSupervisor(t, how, processes)
			}
			if took > time.Second {
				t.Errorf("the last process ended after %v", took)
			}
		})
	}
}

// killSupervisor starts a supervisor, kills it, and returns how long it then took until the last process had ended.
func killSupervisor(t *testing.T, how string, processes int) time.Duration {
	value := fmt.Sprintf("%s-%d-%d", how, os.Getpid(), time.Now().UnixNano())
	cmd := exec.Command(testBinary(t), "supervise", how)
	cmd.Env = append(os.Environ(), mark+"="+value)
	cmd.Stderr = os.Stderr
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
		t.Fatal(err, cmd.Wait())
	}
	guard, err := strconv.Atoi(strings.TrimSpace(said))
	if err != nil || alive(guard) != (how != "without a guard") {
		t.Fatalf("guard %d: %v", guard, err)
	}
	eventually(t, "all processes to be there", func() bool { return len(withMark(t, value)) == 1+processes })

	begin := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last process's end", func() bool { return len(withMark(t, value)) == 0 && !alive(guard) })
	took := time.Since(begin)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Error(err)
	}
	return took
}

// A guard that was killed is a pity, but nobody else's end.
func TestKilledGuard(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	kill(t, h.guard.pid(), unix.SIGKILL)
	pid := h.worker("test", 0).PID
	kill(t, pid, unix.SIGKILL)
	h.await("test", "a restart", func(p PoolStatus) bool { return p.Workers[0].PID != pid && p.Workers[0].State == "ready" })
	h.must("echo", nil, nil)
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
