package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/internal/version"
)

// How long a Supervisor waits, unless a test says otherwise.
const (
	drainTimeout     = 30 * time.Second // for the requests that run when it is told to end
	handshakeTimeout = 10 * time.Second // from a worker's spawn to its handshake line
	hungGrace        = 5 * time.Second  // for the end of a request that was cancelled or whose deadline passed
	endGrace         = 2 * time.Second  // between drain or stop message, SIGTERM and SIGKILL
	tickEvery        = time.Second      // how often a running process is looked at
)

// Supervisor runs pools of workers. See the package's documentation for how its parts work together.
type Supervisor struct {
	cfg     Config           // immutable, with defaults
	pools   map[string]*pool // immutable
	devices []string         // immutable
	begin   time.Time
	running atomic.Bool

	drainTimeout, handshakeTimeout, hungGrace, endGrace, tickEvery time.Duration // immutable
	backoffFirst, backoffMax                                       time.Duration // immutable

	withoutCgroups bool // immutable; for tests: as on a machine where none may be made

	spawner *spawner // set by Run before any slot starts
	guard   *guard   // likewise
}

// New makes a supervisor; nothing is started before Run. The error is a [*FieldError].
func New(cfg Config) (*Supervisor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Supervisor{cfg: cfg.withDefaults(), pools: map[string]*pool{}, devices: machineDevices(), begin: time.Now(),
		drainTimeout: drainTimeout, handshakeTimeout: handshakeTimeout, hungGrace: hungGrace, endGrace: endGrace, tickEvery: tickEvery,
		backoffFirst: backoffFirst, backoffMax: backoffMax}
	for _, pc := range s.cfg.Pools {
		if err := pc.checkMachine(s.cfg.Executable); err != nil {
			return nil, err
		}
		if pc.Builtin != "" && s.cfg.Executable == "" {
			return nil, &FieldError{pc.Name, "builtin", pc.Builtin, "builtin pools need Config.Executable, a ringmaster binary"}
		}
		p := newPool(pc, s.cfg.Logger)
		for i := range pc.Workers {
			p.slots = append(p.slots, &slot{pool: p, index: i, sup: s, kick: make(chan struct{}, 1), state: stateStarting})
		}
		s.pools[pc.Name] = p
	}
	return s, nil
}

// Run keeps the pools' workers alive until ctx ends; then it lets the requests that run finish for up to 30 s, stops the workers, and returns when every process and goroutine it started has
// ended. It may be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	if s.running.Swap(true) {
		return errors.New("supervisor: Run was called before")
	}
	mark := rand.Text()
	var groups *cgroups
	if !s.withoutCgroups {
		groups = openCgroups(s.cfg.Logger)
	}
	defer groups.close()
	var err error
	if s.guard, err = startGuard(s.cfg.Executable, mark, groups.path(), s.cfg.Logger); err != nil {
		return err
	}
	defer s.guard.stop()
	s.spawner = startSpawner(s.cfg.Executable, groups, mark)
	defer s.spawner.stop()

	var slots sync.WaitGroup
	defer slots.Wait()
	end, ended := context.WithCancel(context.Background()) // outlives ctx by the drain
	defer ended()
	for _, p := range s.pools {
		for _, sl := range p.slots {
			slots.Go(func() { sl.run(end) })
		}
	}
	<-ctx.Done()
	s.drainAll()
	return nil
}

// drainAll drains every pool at once and kills what is left when the time is up.
func (s *Supervisor) drainAll() {
	ctx, cancel := context.WithTimeout(context.Background(), s.drainTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range s.pools {
		wg.Go(func() {
			if err := p.drain(ctx); err != nil {
				s.cfg.Logger.Warn("drain ran out of time; requests are cut off", "pool", p.cfg.Name)
			}
			for _, sl := range p.slots {
				sl.want(func(sl *slot) { sl.killed = true })
			}
		})
	}
	wg.Wait()
}

// WaitReady waits until every pool has a worker that can take requests. It fails when ctx ends or a pool's workers have all given up.
func (s *Supervisor) WaitReady(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(s.pools)) {
		if err := s.pools[name].waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Status describes every pool, in order of name.
func (s *Supervisor) Status() Status {
	st := Status{Version: version.Version, UptimeS: time.Since(s.begin).Seconds(), PID: os.Getpid()}
	for _, name := range slices.Sorted(maps.Keys(s.pools)) {
		st.Pools = append(st.Pools, s.pools[name].status())
	}
	return st
}
