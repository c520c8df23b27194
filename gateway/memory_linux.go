package gateway

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machineMemory is how much memory there is for this process, in bytes: the machine's, or that of its cgroup if it is less.
func machineMemory() int64 {
	memory := int64(math.MaxInt64)
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		memory = int64(min(info.Totalram*uint64(max(1, info.Unit)), math.MaxInt64))
	}
	return min(memory, cgroupMemory(os.DirFS("/")))
}

// cgroupMemory is the least limit of the cgroups that this process is in, of either version, or the largest number if there is none.
func cgroupMemory(root fs.FS) int64 {
	memory := int64(math.MaxInt64)
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	for lines := bufio.NewScanner(bytes.NewReader(groups)); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), ":", 3) // number:controllers:path
		if len(fields) < 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case fields[0] == "0" && fields[1] == "":
		case fields[1] == "memory":
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) { // a parent's limit holds, too
			if text, err := fs.ReadFile(root, path.Join(mount, group, file)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
					memory = min(memory, n)
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return memory
}
