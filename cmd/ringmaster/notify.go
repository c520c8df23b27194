package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/ringmasterd/ringmaster/supervisor"
)

// phase is a server's, as the service manager sees it.
//
//	loading ──every pool settled──▶ serving ◀──reload──▶ reloading
//	   └──────────────────────────────┴─────SIGTERM──────────┴─────▶ stopping
type phase int

const (
	loading phase = iota
	atWork
	reloading
	stopping
)

// extendBy is how much time we ask for at each beat while models load. A server that no longer gets round to asking has that much left.
const extendBy = time.Minute

// notifier tells the service manager how the server fares, by systemd's sd_notify protocol. Without $NOTIFY_SOCKET it is silent.
type notifier struct {
	log *slog.Logger

	mu      sync.Mutex
	phase   phase             // guarded by mu
	last    supervisor.Status // guarded by mu; what the last beat saw
	trouble string            // guarded by mu; why the last reload failed
	failed  bool              // guarded by mu; the last message was not sent
}

// enabled reports whether a service manager listens.
func (*notifier) enabled() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// alive says that the server works, and what it does. Only who has just made sure of it may call.
func (n *notifier) alive(st supervisor.Status, watchdog bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = st
	var lines []string
	if n.phase == loading || n.phase == reloading {
		lines = append(lines, extend(extendBy))
	}
	if watchdog && n.phase != stopping {
		lines = append(lines, daemon.SdNotifyWatchdog)
	}
	n.send(lines...)
}

// ready says that the start is over.
func (n *notifier) ready(st supervisor.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.phase != loading {
		return
	}
	n.phase, n.last = atWork, st
	n.send(daemon.SdNotifyReady)
}

// reloads says that the configuration is read again. Before the server is ready it says nothing: the READY=1 that must follow would end the start, too.
func (n *notifier) reloads() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.phase != atWork {
		return
	}
	n.phase = reloading
	n.send(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()))
}

// reloaded says that this is over, well or not: after a failure the server runs on as it did before.
func (n *notifier) reloaded(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.trouble = ""
	if err != nil {
		n.trouble, _, _ = strings.Cut(err.Error(), "\n")
	}
	if n.phase == reloading {
		n.phase = atWork
		n.send(daemon.SdNotifyReady)
	}
}

// stops says that the server ends, and how long that may take.
func (n *notifier) stops(within time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phase = stopping
	n.send(daemon.SdNotifyStopping, extend(within))
}

// send sends one message, with a STATUS line. Preconditions: mu is held.
func (n *notifier) send(lines ...string) {
	if !n.enabled() {
		return
	}
	lines = append(lines, "STATUS="+statusLine(n.phase, n.last, n.trouble))
	_, err := daemon.SdNotify(false, strings.Join(lines, "\n"))
	if err != nil && !n.failed {
		n.log.Warn("the service manager cannot be told", "error", err)
	}
	n.failed = err != nil
}

func extend(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds())
}

// statusLine is what `systemctl status` shows of the server.
func statusLine(ph phase, st supervisor.Status, trouble string) string {
	ready, workers, inFlight := 0, 0, 0
	var failed []string
	for _, p := range st.Pools {
		for _, w := range p.Workers {
			workers++
			if w.State == "ready" {
				ready++
			}
		}
		inFlight += p.InFlight
		if p.State == "failed" {
			failed = append(failed, p.Name)
		}
	}
	pools := fmt.Sprintf("%d pools", len(st.Pools))
	if len(st.Pools) == 1 {
		pools = "1 pool"
	}
	line := map[phase]string{loading: "loading ", atWork: "serving ", reloading: "reloading, serving "}[ph]
	switch ph {
	case stopping:
		return fmt.Sprintf("draining, %d in flight", inFlight)
	case loading:
		line += fmt.Sprintf("%s, %d/%d workers ready", pools, ready, workers)
	default:
		line += fmt.Sprintf("%s, %d/%d workers ready, %d in flight", pools, ready, workers, inFlight)
	}
	if len(failed) > 0 {
		line += "; failed: " + strings.Join(failed, ", ")
	}
	if trouble != "" {
		line += "; the last reload failed: " + trouble
	}
	return line
}

// settle notes in had which pools have had their chance to come up: a worker of theirs was ready once, or all of them have given up, or somebody has drained them. It reports whether these are all.
// A pool whose only process has just died is draining for a moment, which says nothing.
func settle(had map[string]bool, st supervisor.Status) bool {
	all := true
	for _, p := range st.Pools {
		switch p.State {
		case "ready", "failed", "drained":
			had[p.Name] = true
		}
		all = all && had[p.Name]
	}
	return all
}
