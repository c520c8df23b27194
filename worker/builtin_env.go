package worker

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ringmasterd/ringmaster/ipc"
)

// env shows what the process was given: its pid, its open files, and the environment variables in body.names or else those that ringmaster sets.
func env(_ context.Context, req *Request) (*Reply, error) {
	a := parseArgs(req, `{"names": ["HOME"]}`)
	names := a.texts("names")
	if a.err != nil {
		return nil, a.err
	}
	if names == nil {
		names = []string{ipc.VersionsVariable, ipc.PoolVariable, ipc.SlotVariable, ipc.ConcurrencyVariable, ipc.MaxMessageVariable, ipc.DevicesVariable}
	}
	variables := map[string]string{}
	for _, name := range names {
		if v, ok := os.LookupEnv(name); ok {
			variables[name] = v
		}
	}
	return &Reply{Body: map[string]any{"pid": os.Getpid(), "env": variables, "fds": openFiles()}}, nil
}

// openFiles returns what each file descriptor of the process refers to.
func openFiles() map[string]string {
	const dir = "/proc/self/fd"
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return files
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil { // else it was the directory itself, closed by now
			files[e.Name()] = target
		}
	}
	return files
}
