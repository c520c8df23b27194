package supervisor

import (
	"fmt"
	"maps"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/cpulist"
)

// What a worker may do, beside what every worker may not.
//
//	every worker        no_new_privs, no descriptors but 0 to 4, no core file, an environment of known names, a process group (and a cgroup) of its own
//	cpus                the thread that spawns it is bound to them while it does
//	rlimits, user,      `EXECUTABLE confine` in its place first (shim_linux.go), which sets them and becomes the worker's program by exec: the process
//	group               is the same, and never runs a line of the program without them
//
// Pools without the last three keys pay nothing for them.

// Unlimited is the value of an entry in [PoolConfig.Rlimits] that takes a limit away.
const Unlimited = math.MaxUint64

// rlimitNames are the limits that a pool may set, as setrlimit(2) calls them.
var rlimitNames = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "memlock": unix.RLIMIT_MEMLOCK,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "stack": unix.RLIMIT_STACK,
}

// minNofile leaves a worker its six descriptors and room to load its libraries.
const minNofile = 16

// validateConfinement checks what can be checked without looking at the machine.
func (p *PoolConfig) validateConfinement() error {
	bad := func(field string, value any, want string) error { return &FieldError{p.Name, field, value, want} }
	for _, pattern := range p.EnvPass {
		if !validPattern(pattern) {
			return bad("env_pass", fmt.Sprintf("%q", pattern), "use a variable's name, the beginning of names as in MODEL_*, or * for all")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Rlimits)) {
		if _, ok := rlimitNames[name]; !ok {
			return bad("rlimits", name, "there is no such limit; use "+strings.Join(slices.Sorted(maps.Keys(rlimitNames)), ", "))
		}
		if n := p.Rlimits[name]; name == "nofile" && n < minNofile {
			return bad("rlimits.nofile", n, fmt.Sprintf("use %d or more; the worker's pipes and memory take six", minNofile))
		}
	}
	for _, cpu := range p.CPUs {
		if cpu < 0 || cpu >= cpulist.Max {
			return bad("cpus", cpu, fmt.Sprintf("CPUs have numbers from 0 to %d", cpulist.Max-1))
		}
	}
	return nil
}

// checkMachine checks that this process, on this machine, can confine the pool's workers as it says. executable is [Config.Executable].
func (p *PoolConfig) checkMachine(executable string) error {
	bad := func(field string, value any, want string) error { return &FieldError{p.Name, field, value, want} }
	if executable == "" {
		const want = "it needs Config.Executable, a ringmaster binary"
		switch {
		case len(p.Rlimits) > 0:
			return bad("rlimits", p.Rlimits, want)
		case p.User != "":
			return bad("user", p.User, want)
		case p.Group != "":
			return bad("group", p.Group, want)
		}
	}
	if _, err := lookupUser(p.User); err != nil {
		return bad("user", p.User, "there is no such user on this machine; create it, or give another's name or number")
	}
	if _, err := lookupGroup(p.Group); err != nil {
		return bad("group", p.Group, "there is no such group on this machine; create it, or give another's name or number")
	}
	if a, err := lookupAccount(p.User, p.Group); err == nil && a != nil && !maySwitch() {
		field, value := "user", p.User
		if p.User == "" {
			field, value = "group", p.Group
		}
		return bad(field, value, "only root may run workers as somebody else; run `ringmaster serve` as root, or remove the key")
	}
	if online, err := onlineCPUs(); err == nil {
		for _, cpu := range p.CPUs {
			if !slices.Contains(online, cpu) {
				return bad("cpus", cpu, "this machine's CPUs are "+cpulist.Format(online))
			}
		}
	}
	return nil
}

// onlineCPUs lists the machine's CPUs that are in use.
func onlineCPUs() ([]int, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, err
	}
	return cpulist.Parse(string(b))
}

// account is whom a worker runs as.
type account struct {
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups"` // supplementary
}

// lookupAccount finds a pool's user and group, each a name or a number or "". It is nil if that is whom we run as already.
//
// The user's supplementary groups come with it: GPUs and cameras often belong to a group such as render or video. A group alone changes the group and keeps user and supplementary groups.
func lookupAccount(userName, groupName string) (*account, error) {
	a := &account{UID: os.Geteuid(), GID: os.Getegid()}
	switch u, err := lookupUser(userName); {
	case err != nil:
		return nil, err
	case u != nil:
		if a.UID, err = strconv.Atoi(u.Uid); err != nil {
			return nil, fmt.Errorf("user %s: uid %s: %w", userName, u.Uid, err)
		}
		if a.GID, err = strconv.Atoi(u.Gid); err != nil {
			return nil, fmt.Errorf("user %s: gid %s: %w", userName, u.Gid, err)
		}
		a.Groups = supplementary(u)
	default:
		if a.Groups, err = os.Getgroups(); err != nil {
			return nil, fmt.Errorf("list our groups: %w", err)
		}
	}
	switch g, err := lookupGroup(groupName); {
	case err != nil:
		return nil, err
	case g >= 0:
		a.GID = g
	}
	if a.UID == os.Geteuid() && a.GID == os.Getegid() && (userName == "" || !maySwitch()) {
		return nil, nil
	}
	return a, nil
}

// lookupUser finds a user by name or number; a number without an entry is one as well, whose group has the same number. It is nil for "".
func lookupUser(name string) (*user.User, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err == nil {
		return u, nil
	}
	id, notNumber := strconv.ParseUint(name, 10, 31)
	if notNumber != nil {
		return nil, err
	}
	if u, err = user.LookupId(strconv.FormatUint(id, 10)); err == nil {
		return u, nil
	}
	return &user.User{Uid: name, Gid: name, Username: name, HomeDir: "/"}, nil
}

// lookupGroup finds a group's number by its name or number. It is −1 for "".
func lookupGroup(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if g, err := user.LookupGroup(name); err == nil {
		return strconv.Atoi(g.Gid)
	}
	id, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		return 0, user.UnknownGroupError(name)
	}
	return int(id), nil
}

// supplementary lists a user's groups, or its own alone where they cannot be told.
func supplementary(u *user.User) []int {
	ids, err := u.GroupIds()
	if err != nil {
		ids = []string{u.Gid}
	}
	var groups []int
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil {
			groups = append(groups, n)
		}
	}
	return groups
}

// accountEnv are the variables that say whom a worker runs as, if that is said by its pool.
func accountEnv(name string) []string {
	u, err := lookupUser(name)
	if err != nil || u == nil {
		return nil // an error is the spawn's to tell
	}
	return []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username}
}
