package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// pythonDir has the Python half; the harness runs in the directory above it.
const pythonDir = "python"

// pythonPatience is how long a Python peer may take to start.
const pythonPatience = 90 * time.Second

// pythonEnv makes every Python process compute in one thread, and keeps the peers from phoning home.
var pythonEnv = []string{
	"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PYTHONWARNINGS=ignore",
	"RAY_USAGE_STATS_ENABLED=0", "RAY_DISABLE_IMPORT_WARNING=1", "RAY_DEDUP_LOGS=0", "PYTRITON_NO_TELEMETRY=1", "LITSERVE_DISABLE_TELEMETRY=1", "DO_NOT_TRACK=1",
}

// pythonEnv has the peers leave their files where they are removed.
func (h *harness) pythonEnv() []string { return append([]string{"TMPDIR=" + h.dir}, pythonEnv...) }

// pythons is the environment with the peers.
type pythons struct {
	exe     string
	missing map[string]string // why a peer cannot run, by its name; not asked a second time
}

// newPythons looks which of the peers are installed.
func newPythons(exe string) (*pythons, error) {
	exe, err := filepath.Abs(exe)
	if err != nil {
		return nil, err
	}
	py := &pythons{exe, map[string]string{}}
	for _, t := range peers {
		if t.needs == "" {
			continue
		}
		probe := exec.Command(exe, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)", t.needs)
		err := probe.Run()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			py.missing[t.name] = py.whyNot(t)
		case err != nil:
			return nil, fmt.Errorf("-python %s: %w", exe, err)
		}
	}
	if why := py.missing["ringmaster"]; why != "" {
		return nil, fmt.Errorf("-python %s has no Ringmaster SDK: %s", exe, why)
	}
	return py, nil
}

// whyNot is the reason that the installation left, under the package's name in the registry.
func (py *pythons) whyNot(t peer) string {
	name := t.needs
	if name == "pytriton" {
		name = "nvidia-pytriton"
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(py.exe), "..", "peers", name+".failed")); err == nil {
		return "not installed: " + strings.TrimSpace(string(b))
	}
	return "the package " + name + " is not installed"
}

// runPython measures each Python peer in all its cells, with one server for them all: some take ten seconds to start. One that cannot is listed with the reason.
func (h *harness) runPython(ctx context.Context, p plan, repeat int, r *report) error {
	if h.python == nil {
		return nil
	}
	for i := range peers {
		t := &peers[(i+repeat)%len(peers)]
		var cs []cell
		for _, c := range p.cells {
			if t.python && t.applies(c) && p.selected(t.name+"/"+c.name()) {
				cs = append(cs, c)
			}
		}
		if len(cs) == 0 || h.python.missing[t.name] != "" {
			continue
		}
		err := h.peerInPython(ctx, p, t, cs, repeat, r)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && t.name == "ringmaster":
			return fmt.Errorf("%s in Python: %w", t.name, err)
		case err != nil:
			h.python.missing[t.name] = err.Error()
			fmt.Fprintf(h.progress, "%d %-20s not run: %v\n", repeat+1, t.name, err)
		}
	}
	return nil
}

func (h *harness) peerInPython(ctx context.Context, p plan, t *peer, cs []cell, repeat int, r *report) (err error) {
	log, err := os.Create(filepath.Join(h.dir, t.name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w; it said: %s", err, lastLine(log.Name()))
		}
	}()
	at, server := filepath.Join(h.dir, "s"), 0
	if t.server {
		command := []string{h.exe, "server", "ringmaster-python", at, h.python.exe}
		if t.name != "ringmaster" {
			if at, err = freePort(); err != nil {
				return err
			}
			command = []string{h.python.exe, filepath.Join(pythonDir, "serve.py"), t.name, at, filepath.Join(h.dir, "run")}
		}
		s, err := h.startInTime(ctx, log, command...)
		if err != nil {
			return fmt.Errorf("server: %w", err)
		}
		defer func() {
			if endErr := s.end(); err == nil && endErr != nil && t.name == "ringmaster" {
				err = endErr
			}
		}()
		server = s.pid()
	}
	for _, c := range cs {
		spec := h.spec(p, t, c)
		spec.Socket = at
		arg, err := json.Marshal(spec)
		if err != nil {
			return err
		}
		s, err := sampleOf(ctx, p, t, c, server, []string{h.python.exe, filepath.Join(pythonDir, "client.py"), string(arg)}, h.pythonEnv(), log)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
		h.keep(r, s, repeat)
	}
	return nil
}

// startInTime is start for a process of Python's, which is killed if it is not ready in time.
func (h *harness) startInTime(ctx context.Context, log *os.File, command ...string) (*process, error) {
	ctx, kill := context.WithCancel(ctx)
	late := time.AfterFunc(pythonPatience, kill)
	p, err := start(ctx, log, h.pythonEnv(), command...)
	if !late.Stop() {
		err = errors.Join(fmt.Errorf("it was not ready after %v", pythonPatience), err)
	}
	if err != nil {
		kill()
		return nil, err
	}
	context.AfterFunc(ctx, kill)
	return p, nil
}

// freePort is one that nobody listens at, just now.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port), nil
}

// lastLine is the end of a log.
func lastLine(path string) string {
	b, _ := os.ReadFile(path)
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	line := string(lines[len(lines)-1])
	return line[:min(len(line), 300)]
}

// absent is a peer that was not run.
type absent struct {
	Transport string `json:"transport"`
	Reason    string `json:"reason"`
}

// missing lists the peers that should have been run and were not.
func (h *harness) missing(p plan) []absent {
	var all []absent
	for _, t := range peers {
		if !t.python {
			continue
		}
		wanted := false
		for _, c := range p.cells {
			wanted = wanted || t.applies(c) && p.selected(t.name+"/"+c.name())
		}
		switch {
		case !wanted:
		case h.python == nil:
			all = append(all, absent{t.name + " (Python)", "no Python environment was named"})
		case h.python.missing[t.name] != "":
			all = append(all, absent{t.name, h.python.missing[t.name]})
		}
	}
	return all
}
