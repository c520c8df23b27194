package supervisor

import (
	"slices"
	"strings"
)

// planned reports whether we wanted the process to end.
func (e *Exit) planned() bool {
	return e.Cause == "stopped" || e.Cause == "restarted" || e.Cause == "recycled" || e.Cause == "reloaded"
}

// describe is an exit in a few words, with the last thing the process said, unless it was told to say where it hangs.
func (e *Exit) describe() string {
	d := e.Cause
	switch {
	case strings.HasPrefix(e.Detail, e.Cause+": "): // signal: killed
		d = e.Detail
	case e.Detail != "":
		d += ": " + e.Detail
	}
	if e.Cause == "hung" { // its last lines are then where its threads were, of which the very last says nothing
		return d
	}
	for _, line := range slices.Backward(e.Stderr) {
		if line = strings.TrimSpace(line); line != "" {
			return d + "; its last line: " + line
		}
	}
	return d
}

// deathCause says how a process ended that nobody asked to: exited, signal, or oom_killed if the signal was the kernel's for want of memory.
func (p *process) deathCause() string {
	switch {
	case p.oomKilled:
		return "oom_killed"
	case strings.HasPrefix(p.status, "signal: "):
		return "signal"
	}
	return "exited"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
