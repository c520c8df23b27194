package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/internal/ballast"
	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
)

// How long a Supervisor waits, unless a test says otherwise.
const (
	handshakeTimeout = 10 * time.Second // from a worker's spawn to its handshake line
	hungGrace        = 5 * time.Second  // for the end of a request that was cancelled or whose deadline passed
	endGrace         = 2 * time.Second  // between drain or stop message, SIGTERM and SIGKILL
	tickEvery        = time.Second      // how often a running process is looked at that does not rest
)

// DefaultDrainTimeout is how long requests may take that run when the supervisor is told to end, unless [Config] says otherwise.
const DefaultDrainTimeout = 30 * time.Second

// Supervisor runs pools of workers. See the package's documentation for how its parts work together.
type Supervisor struct {
	cfg     Config   // immutable, with defaults; its pools are those it was made with
	devices []string // immutable
	begin   time.Time
	running atomic.Bool

	drainTimeout, handshakeTimeout, hungGrace, endGrace, tickEvery time.Duration // immutable
	backoffFirst, backoffMax                                       time.Duration // immutable

	withoutCgroups bool // immutable; for tests: as on a machine where none may be made

	spawner *spawner  // set by Run before any slot starts
	guard   *guard    // likewise
	vram    vramMeter // of the workers' processes
	gpus    gpuMeter  // of the machine

	reloading chan struct{}                    // capacity 1: held by Reload
	pools     atomic.Pointer[map[string]*pool] // what it points to is immutable

	mu   sync.Mutex
	end  context.Context // guarded by mu; set while goroutines may be started; ends when no process is wanted any more
	work sync.WaitGroup  // goroutines that launch has started; added to under mu

	answering sync.Mutex // held by the one look of Answer
}

// New makes a supervisor; nothing is started before Run. The error is a [*FieldError].
func New(cfg Config) (*Supervisor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Supervisor{cfg: cfg.withDefaults(), devices: machineDevices(), begin: time.Now(),
		handshakeTimeout: handshakeTimeout, hungGrace: hungGrace, endGrace: endGrace, tickEvery: tickEvery,
		backoffFirst: backoffFirst, backoffMax: backoffMax, reloading: make(chan struct{}, 1)}
	s.drainTimeout = s.cfg.DrainTimeout
	if err := s.checkExecutable(s.cfg.Pools); err != nil {
		return nil, err
	}
	pools := map[string]*pool{}
	for i := range s.cfg.Pools {
		pools[s.cfg.Pools[i].Name] = newPool(s, &s.cfg.Pools[i])
	}
	s.pools.Store(&pools)
	s.vram.every = vramEvery
	s.vram.launch = func(f func()) bool { return s.launch(func(context.Context) { f() }) }
	s.gpus.launch = s.vram.launch
	return s, nil
}

func (s *Supervisor) checkExecutable(pools []PoolConfig) error {
	for _, pc := range pools {
		if err := pc.checkMachine(s.cfg.Executable); err != nil {
			return err
		}
		if pc.Builtin != "" && s.cfg.Executable == "" {
			return &FieldError{pc.Name, "builtin", pc.Builtin, "builtin pools need Config.Executable, a ringmaster binary"}
		}
	}
	return nil
}

// Run keeps the pools' workers alive until ctx ends; then it lets the requests that run finish for up to [Config.DrainTimeout], stops the workers, and returns when every process and goroutine it started has
// ended. It may be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	if s.running.Swap(true) {
		return errors.New("supervisor: Run was called before")
	}
	defer ballast.Hold()()
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

	end, ended := context.WithCancel(context.Background()) // outlives ctx by the drain
	defer func() {
		s.mu.Lock()
		s.end = nil // nothing is started from now on
		s.mu.Unlock()
		ended()
		s.work.Wait()
	}()
	s.mu.Lock()
	s.end = end
	s.mu.Unlock()
	s.gpus.look() // so that they are known when somebody asks
	for _, p := range s.all() {
		for _, sl := range p.all() {
			p.begin(sl)
		}
	}
	<-ctx.Done()
	s.drainAll()
	return nil
}

// launch starts a goroutine that Run joins, and gives it a context that ends when no process is wanted any more. false: Run has ended, or has not begun.
func (s *Supervisor) launch(f func(end context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		return false
	}
	end := s.end
	s.work.Go(func() { f(end) })
	return true
}

// all returns the pools in order of name.
func (s *Supervisor) all() []*pool {
	pools := *s.pools.Load()
	all := make([]*pool, 0, len(pools))
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		all = append(all, pools[name])
	}
	return all
}

// drainAll drains every pool at once and kills what is left when the time is up.
func (s *Supervisor) drainAll() {
	ctx, cancel := context.WithTimeout(context.Background(), s.drainTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range s.all() {
		wg.Go(func() {
			if err := p.drain(ctx); err != nil {
				p.log.Warn("drain ran out of time; requests are cut off", "drain_timeout", s.drainTimeout)
			}
			for _, sl := range p.all() {
				sl.kill()
			}
		})
	}
	wg.Wait()
}

// WaitReady waits until every pool has a worker that can take requests. It fails when ctx ends or a pool's workers have all given up.
func (s *Supervisor) WaitReady(ctx context.Context) error {
	for _, p := range s.all() {
		if err := p.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Action returns what a pool's workers say of one of their actions; false: they have none of this name, or have said nothing yet.
func (s *Supervisor) Action(pool, action string) (ipc.Action, bool) {
	p := (*s.pools.Load())[pool]
	if p == nil {
		return ipc.Action{}, false
	}
	return p.action(action)
}

// Status describes every pool, in order of name.
func (s *Supervisor) Status() Status {
	st := Status{Version: version.Version, UptimeS: time.Since(s.begin).Seconds(), PID: os.Getpid(), Goroutines: runtime.NumGoroutine(), GPUs: s.gpus.look()}
	if s.cfg.Memory != nil {
		st.Memory.Used, st.Memory.Limit = s.cfg.Memory()
	}
	if s.cfg.Arenas != nil {
		st.Arenas = s.cfg.Arenas.Usage()
	}
	for _, p := range s.all() {
		st.Pools = append(st.Pools, p.status())
	}
	if s.cfg.OnStatus != nil {
		s.cfg.OnStatus(&st)
	}
	return st
}
