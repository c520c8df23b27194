package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// harness starts processes and takes their samples. While one measures, it sleeps.
type harness struct {
	dir      string // for sockets
	exe      string
	progress io.Writer
}

func newHarness(profile string, progress io.Writer) (*harness, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if profile != "" {
		if profile, err = filepath.Abs(profile); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(profile, 0o755); err != nil {
			return nil, err
		}
		if err := os.Setenv(profileVariable, profile); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "peers")
	return &harness{dir: dir, exe: exe, progress: progress}, err
}

func (h *harness) close() { _ = os.RemoveAll(h.dir) }

// run measures what selected accepts of p, the transports in turn.
func (h *harness) run(ctx context.Context, p plan, selected func(string) bool, r *report) error {
	for repeat := range p.repeats {
		for _, c := range p.cells {
			for i := range transports {
				t := transports[(i+repeat)%len(transports)]
				if !c.applies(t) || !selected(t+"/"+c.Name) {
					continue
				}
				s, err := h.quiet(ctx, p, t, c)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", t, c.Name, err)
				}
				s.Repeat = repeat
				r.Samples = append(r.Samples, s)
				fmt.Fprintf(h.progress, "%d/%d %-20s %-8s %9.0f req/s  p50 %8.1f µs  p99 %8.1f µs  CPU %7.1f µs, %6.2f %%  others %4.1f %%  attempt %d\n",
					repeat+1, p.repeats, t, c.Name, s.PerSecond, s.P50, s.P99, s.CPU, s.CPUPercent, 100*s.Foreign, s.Attempts)
			}
		}
	}
	return nil
}

// quiet measures until other programs leave the machine alone meanwhile. If they never do, the quietest sample counts.
func (h *harness) quiet(ctx context.Context, p plan, transport string, c cell) (*sample, error) {
	var best *sample
	for attempt := 1; attempt <= p.attempts; attempt++ {
		s, err := h.measure(ctx, p, transport, c)
		if err != nil {
			return nil, err
		}
		if best == nil || s.Foreign < best.Foreign {
			best = s
		}
		best.Attempts = attempt
		if s.Foreign <= p.maxForeign {
			break
		}
		select {
		case <-time.After(time.Duration(attempt) * time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return best, nil
}

// measure takes one sample with processes of its own.
func (h *harness) measure(ctx context.Context, p plan, transport string, c cell) (_ *sample, err error) {
	spec := clientSpec{Transport: transport, Socket: filepath.Join(h.dir, "s"), Cell: c, WarmUp: p.warmUp, Measure: p.measure}
	if transport != "ringmaster-embedded" {
		server, err := h.start(ctx, "server", transport, spec.Socket, strconv.Itoa(c.Workers))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, server.end()) }()
		spec.Server = server.cmd.Process.Pid
	}
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if c.Clients > 0 {
		return h.measureIdle(ctx, p, spec, string(arg))
	}
	cmd := exec.CommandContext(ctx, h.exe, "client", string(arg))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	s := &sample{}
	return s, json.Unmarshal(out, s)
}

// measureIdle looks at processes that have nothing to do.
func (h *harness) measureIdle(ctx context.Context, p plan, spec clientSpec, arg string) (_ *sample, err error) {
	pids := tree(spec.Server)
	var clients []*process
	defer func() {
		for _, client := range clients {
			err = errors.Join(err, client.end())
		}
	}()
	for range spec.Cell.Clients {
		client, err := h.start(ctx, "client", arg)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
		pids = append(pids, client.cmd.Process.Pid)
	}
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(p.idle / 5); err != nil { // starting has its aftermath
		return nil, err
	}
	before, err := usageOf(pids)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := wait(p.idle); err != nil {
		return nil, err
	}
	after, err := usageOf(pids)
	if err != nil {
		return nil, err
	}
	s := &sample{Transport: spec.Transport, Cell: spec.Cell.Name, Compared: spec.Cell.Clients, Processes: len(pids)}
	s.use(after.since(before), time.Since(begin))
	return s, nil
}

// process is one that stands by until its standard input ends.
type process struct {
	cmd *exec.Cmd
	in  io.Closer
}

func (h *harness) start(ctx context.Context, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, h.exe, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, in}
	if err := awaitReady(out); err != nil {
		_ = p.end()
		return nil, fmt.Errorf("%s: %w", strings.Join(args[:1], " "), err)
	}
	return p, nil
}

func (p *process) end() error {
	p.in.Close()
	return p.cmd.Wait()
}

// machine describes where a run took place.
type machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func thisMachine() machine {
	m := machine{CPUs: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH}
	m.CPU = field("/proc/cpuinfo", "model name")
	m.Memory = field("/proc/meminfo", "MemTotal")
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = string(bytes.TrimSpace(b))
	return m
}

// field returns the value of the first line "name: value" of a file.
func field(path, name string) string {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// commit is the revision of the working tree, marked if it has changes.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return string(bytes.TrimSpace(out))
}
