package worker

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// crash ends the process in one of the ways in which processes end. body.code is the status of an exit.
func crash(_ context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"how": "kill"}`)
	how := a.choice("how", "kill", "segv", "abort", "panic", "exit")
	code := a.integer("code", 1, 0, 255)
	if a.err != nil {
		return nil, a.err
	}
	switch how {
	case "kill":
		dieOf(unix.SIGKILL)
	case "segv":
		dieOf(unix.SIGSEGV)
	case "abort":
		dieOf(unix.SIGABRT)
	case "panic":
		go panic("crash: asked to panic") // on a goroutine of its own, where nobody recovers
	case "exit":
		os.Exit(code)
	}
	select {} // the end is near
}
