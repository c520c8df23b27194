package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reportFD is where the shim says what went wrong: a pipe that its exec closes. Nothing and end of file means that the worker's program runs.
const reportFD = 6

// shimPatience is how long a shim may take; it has nothing to wait for.
const shimPatience = 10 * time.Second

// confinement is what the shim is told, in JSON.
type confinement struct {
	Supervisor int               `json:"supervisor"` // pid
	Limits     map[string]uint64 `json:"limits"`
	Account    *account          `json:"account,omitempty"`
}

// newConfinement returns what the shim has to do for a pool's worker, nil if nothing.
func newConfinement(p *PoolConfig) (*confinement, error) {
	a, err := lookupAccount(p.User, p.Group)
	if err != nil {
		return nil, err
	}
	if len(p.Rlimits) == 0 && a == nil {
		return nil, nil
	}
	limits := map[string]uint64{"core": 0}
	maps.Copy(limits, p.Rlimits)
	return &confinement{Supervisor: os.Getpid(), Limits: limits, Account: a}, nil
}

// wrap makes cmd start the shim, which then becomes what cmd was to start.
func (c *confinement) wrap(cmd *exec.Cmd, executable string) error {
	if cmd.Err != nil { // the program was not found
		return cmd.Err
	}
	spec, err := json.Marshal(c)
	if err != nil {
		return err
	}
	cmd.Args = append([]string{executable, "confine", string(spec), cmd.Path}, cmd.Args...)
	cmd.Path = executable
	return nil
}

// RunConfined is the shim's main, run as `EXECUTABLE confine SPEC PROGRAM ARGV…` by the supervisor in place of a worker whose pool has rlimits, a user or a group. It returns only if it fails.
func RunConfined(args []string) error {
	runtime.LockOSThread() // PDEATHSIG is a thread's
	debug.SetGCPercent(-1) // nor is there any memory to be had once it is limited
	err := confined(args)
	_, _ = io.WriteString(os.NewFile(reportFD, "report"), err.Error())
	return err
}

func confined(args []string) error {
	if len(args) < 3 {
		return errors.New("confine: started by hand? It is of use to `ringmaster serve` alone")
	}
	var c confinement
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	program, argv, env := args[1], args[2:], os.Environ()
	if err := closeOnExec(reportFD); err != nil {
		return err
	}
	if err := setRlimits(c.Limits); err != nil {
		return err
	}
	if err := become(c.Account); err != nil {
		return err
	}
	if os.Getppid() != c.Supervisor { // it died before PDEATHSIG was set again
		return errors.New("confine: the supervisor is gone")
	}
	return &os.PathError{Op: "exec", Path: program, Err: syscall.Exec(program, argv, env)}
}

// setRlimits sets soft and hard limits alike, those on memory last.
func setRlimits(limits map[string]uint64) error {
	names := slices.SortedFunc(maps.Keys(limits), func(a, b string) int { return strings.Compare(b, a) })
	for _, name := range names {
		which, ok := rlimitNames[name]
		if !ok {
			return fmt.Errorf("rlimits: there is no %q", name)
		}
		n := limits[name]
		if err := unix.Setrlimit(which, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			var own unix.Rlimit
			_ = unix.Getrlimit(which, &own)
			return fmt.Errorf("set rlimits.%s to %d: %w; the supervisor's own limit is %d, and only root may go beyond it", name, n, err, own.Max)
		}
	}
	return nil
}

// become switches to another user for good. The kernel then forgets PDEATHSIG, which is set again.
func become(a *account) error {
	if a == nil {
		return nil
	}
	if err := syscall.Setgroups(a.Groups); err != nil {
		return fmt.Errorf("switch to groups %v: %w; only root may", a.Groups, err)
	}
	if err := syscall.Setresgid(a.GID, a.GID, a.GID); err != nil {
		return fmt.Errorf("switch to group %d: %w; only root may", a.GID, err)
	}
	if err := syscall.Setresuid(a.UID, a.UID, a.UID); err != nil {
		return fmt.Errorf("switch to user %d: %w; only root may", a.UID, err)
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set PDEATHSIG: %w", err)
	}
	return nil
}

// awaitShim reads the shim's report to its end, and returns what it says.
func awaitShim(report *os.File) error {
	_ = report.SetReadDeadline(time.Now().Add(shimPatience))
	said, err := io.ReadAll(io.LimitReader(report, 4<<10))
	switch {
	case err != nil:
		return fmt.Errorf("confine: the program was not started within %v: %w", shimPatience, err)
	case len(said) > 0:
		return errors.New(strings.ToValidUTF8(string(said), "�"))
	}
	return nil
}

// closeOnExec marks every descriptor from first on, whoever opened it, so that no program that is started inherits it.
func closeOnExec(first int) error {
	err := unix.CloseRange(uint(first), math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	// Linux 5.10 knows the call at most without the flag.
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("mark descriptors close-on-exec: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("mark descriptors close-on-exec: %w", err)
	}
	for _, name := range names {
		var fd int
		if _, err := fmt.Sscan(name, &fd); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// maySwitch reports whether this process may run others as somebody else.
func maySwitch() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.Geteuid() == 0
	}
	const needed = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	return data[0].Effective&needed == needed
}
