package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/ringmasterd/ringmaster/bench/usage"
)

// harness starts processes and takes their samples. While one measures, it sleeps.
type harness struct {
	dir      string // for sockets
	exe      string
	python   *pythons // nil: no Python peers
	progress io.Writer
}

func newHarness(python, profile string, progress io.Writer) (*harness, error) {
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
	if err != nil {
		return nil, err
	}
	h := &harness{dir: dir, exe: exe, progress: progress}
	if python != "" {
		h.python, err = newPythons(python)
	}
	return h, err
}

func (h *harness) close() { _ = os.RemoveAll(h.dir) }

// run measures what the plan asks for, the transports in turn.
func (h *harness) run(ctx context.Context, p plan, r *report) error {
	r.Repeats, r.Seconds = p.repeats, p.measure.Seconds()
	for repeat := range p.repeats {
		for _, c := range p.cells {
			for i := range peers {
				if err := h.one(ctx, p, &peers[(i+repeat)%len(peers)], c, repeat, r); err != nil {
					return err
				}
			}
		}
		if err := h.runPython(ctx, p, repeat, r); err != nil {
			return err
		}
	}
	r.Missing = append(r.Missing, h.missing(p)...)
	return nil
}

// one takes one sample of a transport in Go, with processes of its own.
func (h *harness) one(ctx context.Context, p plan, t *peer, c cell, repeat int, r *report) error {
	if c.Clients > 0 && repeat > 0 { // it takes long, and hardly varies
		return nil
	}
	if t.python || !t.applies(c) || !p.selected(t.name+"/"+c.name()) {
		return nil
	}
	s, err := h.measure(ctx, p, t, c)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", t.name, c.name(), err)
	}
	h.keep(r, s, repeat)
	return nil
}

func (h *harness) keep(r *report, s *sample, repeat int) {
	s.Repeat = repeat
	r.Samples = append(r.Samples, s)
	fmt.Fprintf(h.progress, "%d %-20s %-20s %9.0f req/s  p50 %9.1f µs  p99 %9.1f µs  CPU %8.1f µs, %6.2f %%  others %4.1f %%\n",
		repeat+1, s.Transport, s.Cell.name(), s.PerSecond, s.P50, s.P99, s.CPU, s.CPUPercent, 100*s.Others)
}

func (h *harness) measure(ctx context.Context, p plan, t *peer, c cell) (_ *sample, err error) {
	spec := h.spec(p, t, c)
	pids := 0
	var alone int64 // bytes of the server's own without a client
	if t.server {
		server, err := start(ctx, nil, nil, h.exe, "server", t.name, spec.Socket, strconv.Itoa(c.Workers))
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		defer func() { err = errors.Join(err, server.end()) }()
		pids = server.pid()
		if alone, err = usage.Private(pids); err != nil {
			return nil, err
		}
	}
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	s, err := sampleOf(ctx, p, t, c, pids, []string{h.exe, "client", string(arg)}, nil, nil)
	if s != nil {
		s.Alone = alone
	}
	return s, err
}

func (h *harness) spec(p plan, t *peer, c cell) clientSpec {
	return clientSpec{Transport: t.name, Socket: filepath.Join(h.dir, "s"), Action: actions[c.Scenario], Cell: c, WarmUp: p.warmUp.Seconds(), Measure: p.duration(c).Seconds()}
}

// sampleOf starts a client, or several that do nothing, and takes their sample together with that of the server's processes.
func sampleOf(ctx context.Context, p plan, t *peer, c cell, server int, client []string, env []string, log *os.File) (_ *sample, err error) {
	var clients []*process
	defer func() {
		for _, client := range clients {
			err = errors.Join(err, client.end())
		}
	}()
	for range max(1, c.Clients) {
		client, err := start(ctx, log, env, client...)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		clients = append(clients, client)
	}
	if c.Clients > 0 { // starting has its aftermath
		if err := wait(ctx, p.settle); err != nil {
			return nil, err
		}
	}
	var pids []int
	for _, client := range clients {
		pids = append(pids, usage.Tree(client.pid())...)
	}
	if server != 0 {
		pids = append(pids, usage.Tree(server)...)
	}
	before, err := usage.Of(pids...)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	s := &sample{Transport: t.name, Hops: t.hops, Cell: c, Processes: len(pids)}
	if c.Clients > 0 {
		s.Compared = c.Clients
		err = wait(ctx, p.idle)
	} else {
		err = s.ask(clients[0])
	}
	if err != nil {
		return nil, err
	}
	elapsed := time.Since(begin)
	after, err := usage.Of(pids...)
	if err != nil {
		return nil, err
	}
	if server != 0 {
		if s.Private, err = usage.Private(server); err != nil {
			return nil, err
		}
	}
	s.use(after.Since(before), elapsed)
	return s, nil
}

// ask has a client measure.
func (s *sample) ask(client *process) error {
	if _, err := io.WriteString(client.in, "go\n"); err != nil {
		return err
	}
	line, err := client.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the client ended without an answer: %w", err)
	}
	if err := json.Unmarshal(line, &s.outcome); err != nil {
		return err
	}
	s.PerSecond = float64(s.Requests) / s.Seconds
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sample is one measurement.
type sample struct {
	Transport string `json:"transport"`
	Hops      int    `json:"hops"`
	Cell      cell   `json:"cell"`
	Repeat    int    `json:"repeat"`
	outcome
	PerSecond  float64 `json:"req_s"`
	CPU        float64 `json:"cpu_us"`                 // for each request, all processes together
	Sleeps     float64 `json:"sleeps"`                 // likewise
	CPUPercent float64 `json:"cpu_percent_of_one_cpu"` // all processes together
	WakeUps    float64 `json:"wake_ups_per_s"`         // likewise
	Processes  int     `json:"processes"`
	Others     float64 `json:"others"`  // share of the machine that other programs took meanwhile
	Alone      int64   `json:"alone"`   // bytes of memory that were the server's own before there was a client
	Private    int64   `json:"private"` // and at the end
}

// use fills in what the processes used in a measurement.
func (s *sample) use(u usage.Usage, elapsed time.Duration) {
	if s.Requests > 0 {
		s.CPU = float64(u.CPU.Nanoseconds()) / 1e3 / float64(s.Requests)
		s.Sleeps = float64(u.Sleeps) / float64(s.Requests)
	}
	s.WakeUps = float64(u.Sleeps) / elapsed.Seconds()
	s.CPUPercent = 100 * u.CPU.Seconds() / elapsed.Seconds()
	s.Others = min(1, max(0, (u.Machine-u.CPU).Seconds()/elapsed.Seconds()/float64(runtime.NumCPU())))
}
