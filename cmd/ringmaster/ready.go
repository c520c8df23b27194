package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/supervisor"
)

// announceEvery is how often the pools are looked at until all are ready.
const announceEvery = 200 * time.Millisecond

// announce tells the person at the terminal about each pool that becomes ready or fails for good. It ends when there is nothing more to tell, or with ctx.
func announce(ctx context.Context, out io.Writer, sup *supervisor.Supervisor) {
	told := map[string]bool{}
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		pools := sup.Status().Pools
		for _, p := range pools {
			if told[p.Name] {
				continue
			}
			switch p.State {
			case "ready":
				fmt.Fprintf(out, "%s is ready: %s\n", p.Name, example(p))
			case "failed":
				fmt.Fprintf(out, "%s failed; `ringmaster status` tells more\n", p.Name)
			default:
				continue
			}
			told[p.Name] = true
		}
		if len(told) == len(pools) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// example is a command that calls a pool: the action that it has its name from, or else some other.
func example(p supervisor.PoolStatus) string {
	action := "ACTION"
	if slices.Contains(p.Actions, p.Name) {
		action = p.Name
	} else if len(p.Actions) > 0 {
		action = p.Actions[0]
	}
	return fmt.Sprintf("ringmaster call %s %s", p.Name, action)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	terminal := false
	err = raw.Control(func(fd uintptr) {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		terminal = err == nil
	})
	return err == nil && terminal
}
