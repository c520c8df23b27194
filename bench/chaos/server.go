package chaos

import (
	"context"
	_ "embed" // worker.py
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/supervisor"
	"github.com/ringmasterd/ringmaster/worker"
)

//go:embed worker.py
var pythonWorker []byte

// The pools of the server under test.
const (
	wide   = "wide"   // Go, several requests in a worker at a time
	narrow = "narrow" // Go, one at a time
	python = "python"
	extra  = "extra" // comes and goes with reloads
)

// poolYAML is a pool in ringmaster.yaml.
type poolYAML struct {
	Command     []string          `yaml:"command,omitempty"`
	Builtin     string            `yaml:"builtin,omitempty"`
	Workers     int               `yaml:"workers"`
	Concurrency int               `yaml:"concurrency"`
	Devices     string            `yaml:"devices"`
	Queue       int               `yaml:"queue"`
	Timeout     string            `yaml:"timeout,omitempty"`
	HangTimeout string            `yaml:"hang_timeout,omitempty"`
	Grace       string            `yaml:"grace,omitempty"`
	Limits      map[string]string `yaml:"limits"`
	Env         map[string]string `yaml:"env"`
}

// server is a running `ringmaster serve`.
type server struct {
	executable string
	dir        string // holds nothing but what is named here
	config     string // a file
	socket     string
	ledger     string // a file
	log        string // a file
	tmp        string // a directory: the server's TMPDIR
	pools      map[string]poolYAML
	level      string // of the log

	cmd     *exec.Cmd
	exited  chan struct{} // closed when it has ended
	err     error         // how; set before exited is closed
	control *client.Client
}

// newServer lays out the directory of a server.
func newServer(executable, dir, pythonPath, level string, hangTimeout bool) (*server, error) {
	s := &server{
		executable: executable, dir: dir, config: filepath.Join(dir, "ringmaster.yaml"), socket: filepath.Join(dir, "s"), ledger: filepath.Join(dir, "ledger"),
		log: filepath.Join(dir, "serve.log"), tmp: filepath.Join(dir, "tmp"), level: level, exited: make(chan struct{}),
	}
	pool := func(workers, concurrency int) poolYAML {
		p := poolYAML{
			Builtin: "chaos", Workers: workers, Concurrency: concurrency, Devices: "none", Queue: 256,
			Limits: map[string]string{"rss": strconv.Itoa(rssLimit>>20) + "MiB"},
			Env:    map[string]string{worker.LedgerVariable: s.ledger},
		}
		if hangTimeout {
			p.HangTimeout, p.Grace = "2s", "1s" // a machine that is busy with other things stops for a second, too
		}
		return p
	}
	s.pools = map[string]poolYAML{wide: pool(4, 8), narrow: pool(2, 1)}
	if pythonPath != "" {
		script := filepath.Join(dir, "worker.py")
		if err := os.WriteFile(script, pythonWorker, 0o600); err != nil {
			return nil, err
		}
		p := pool(2, 4)
		p.Builtin, p.Command = "", []string{pythonPath, script}
		p.Env["PYTHONDONTWRITEBYTECODE"] = "1"
		p.Env["OPENBLAS_NUM_THREADS"] = "1"
		s.pools[python] = p
	}
	if err := os.Mkdir(s.tmp, 0o700); err != nil {
		return nil, err
	}
	return s, s.configure(s.pools)
}

// rssLimit is a worker's, in bytes; leakMiB goes over it at once.
const (
	rssLimit = 320 << 20
	leakMiB  = 384
)

// configure writes the configuration file.
func (s *server) configure(pools map[string]poolYAML) error {
	b, err := yaml.Marshal(map[string]any{"pools": pools, "log": map[string]string{"level": s.level}})
	if err != nil {
		return err
	}
	return os.WriteFile(s.config, b, 0o600)
}

// supports asks the program whether it understands a pool's key.
func supports(ctx context.Context, executable, dir, key, value string) bool {
	file := filepath.Join(dir, "probe.yaml")
	defer func() { _ = os.Remove(file) }()
	if err := os.WriteFile(file, []byte("pools: {probe: {builtin: echo, "+key+": "+value+"}}\n"), 0o600); err != nil {
		return false
	}
	return exec.CommandContext(ctx, executable, "serve", "--check", "--config", file, "--socket", filepath.Join(dir, "s")).Run() == nil
}

// start starts the server as the leader of a session of its own, and waits until every worker is ready.
func (s *server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.executable, "serve", "--config", s.config, "--socket", s.socket)
	s.cmd.Env = append(os.Environ(), "TMPDIR="+s.tmp, "RINGMASTER_LOG_LEVEL=", "RINGMASTER_LOG_FORMAT=")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	go s.wait()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return poll(ctx, "the server to be ready", func() (bool, error) {
		select {
		case <-s.exited:
			return false, fmt.Errorf("the server ended: %w", s.err)
		default:
		}
		if s.control == nil {
			c, err := client.Dial(ctx, client.WithAddress(s.socket))
			if err != nil {
				return false, nil //nolint:nilerr // not yet
			}
			s.control = c
		}
		return s.allReady(ctx)
	})
}

// wait reaps the server.
func (s *server) wait() {
	s.err = s.cmd.Wait()
	close(s.exited)
}

// pid is the server's, and its session's.
func (s *server) pid() int { return s.cmd.Process.Pid }

// stop tells the server to end, and waits for it.
func (s *server) stop(within time.Duration) error {
	if s.control != nil {
		_ = s.control.Close()
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		return s.err
	case <-time.After(within):
		_ = s.cmd.Process.Kill()
		<-s.exited
		return fmt.Errorf("it did not end within %v of SIGTERM", within)
	}
}

// ask makes a control request.
func (s *server) ask(ctx context.Context, action, pool string, within time.Duration, result any) error {
	var body any
	if pool != "" {
		body = map[string]string{"pool": pool}
	}
	r, err := s.control.Call(ctx, supervisor.ControlPool, action, body, client.WithTimeout(within))
	if err != nil || result == nil {
		return err
	}
	return r.Decode(result)
}

func (s *server) status(ctx context.Context) (supervisor.Status, error) {
	var st supervisor.Status
	err := s.ask(ctx, "status", "", 10*time.Second, &st)
	return st, err
}

// workers returns a pool's slots.
func (s *server) workers(ctx context.Context, pool string) ([]supervisor.WorkerStatus, error) {
	st, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range st.Pools {
		if p.Name == pool {
			return p.Workers, nil
		}
	}
	return nil, fmt.Errorf("there is no pool %q", pool)
}

func (s *server) allReady(ctx context.Context) (bool, error) {
	st, err := s.status(ctx)
	if err != nil {
		return false, err
	}
	for _, p := range st.Pools {
		if ready(p.Workers) < len(p.Workers) || len(p.Workers) != s.pools[p.Name].Workers {
			return false, nil
		}
	}
	return len(st.Pools) == len(s.pools), nil
}

func ready(workers []supervisor.WorkerStatus) int {
	n := 0
	for _, w := range workers {
		if w.State == "ready" {
			n++
		}
	}
	return n
}

// logged returns the last lines of the server's log.
func (s *server) logged(lines int) string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

const pollEvery = 40 * time.Millisecond // a status is not free

var errTimeUp = errors.New("the time is up")

// poll waits until a condition holds that other processes make true.
func poll(ctx context.Context, what string, ok func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		done, err := ok()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for %s: %w", what, errTimeUp)
		case err != nil:
			return fmt.Errorf("wait for %s: %w", what, err)
		case done:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
