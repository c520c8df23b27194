//go:build ringcrash

package shm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// crashVariable names where this process has to die: STEP:NTH or STEP:NTH:RING, for example "S3:5" or "R2:1:s2w". The process
// kills itself with SIGKILL when it reaches STEP for the NTH time (from 1), counting only RING if one is given.
const crashVariable = "RINGMASTER_CRASH_AT"

var (
	crashStep step
	crashNth  int64
	crashRing string // empty: any
	crashSeen atomic.Int64
)

func init() {
	value, set := os.LookupEnv(crashVariable)
	if !set {
		return
	}
	fields := strings.SplitN(value, ":", 3)
	if len(fields) == 3 {
		crashRing = fields[2]
	}
	var err error
	if len(fields) < 2 {
		err = fmt.Errorf("want STEP:NTH or STEP:NTH:RING")
	} else {
		crashStep = step(fields[0])
		crashNth, err = strconv.ParseInt(fields[1], 10, 64)
	}
	if err != nil {
		panic(fmt.Sprintf("%s=%q: %v", crashVariable, value, err))
	}
}

func crashAt(s step, ring string) {
	if s != crashStep || crashRing != "" && crashRing != ring || crashSeen.Add(1) != crashNth {
		return
	}
	unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {} // not reached
}
