package worker

import (
	"context"

	"golang.org/x/sys/unix"
)

// hang does not come back, whatever its caller wants: it burns a core, blocks, or stops the whole process (and blocks, should somebody let it go on).
func hang(_ context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"how": "block"}`)
	how := a.choice("how", "block", "spin", "stop")
	if a.err != nil {
		return nil, a.err
	}
	switch how {
	case "spin":
		for { //nolint:staticcheck // that it burns a core is the point
		}
	case "stop":
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	}
	select {}
}
