package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Config says which pools a [Supervisor] runs. The zero values of its fields are the defaults named beside them.
type Config struct {
	Pools      []PoolConfig
	MaxMessage int          // bytes, both ways; 0: 64 MiB
	Logger     *slog.Logger // nil: slog.Default()
	Executable string       // a ringmaster binary: serves builtin pools (`EXECUTABLE worker --builtin NAME`), guards process groups (`EXECUTABLE guard`) and confines workers (`EXECUTABLE confine`); "": no builtin pools, no guard, no rlimits, user or group

	DrainTimeout time.Duration // for the requests that run when the supervisor is told to end; 0: 30 s

	Arenas *arena.Store // what the status tells of arenas; nil: nothing

	// OnReload answers the control request `reload`, after reading the configuration again and giving it to [Supervisor.Reload]; nil: there is nothing to read, and the request is refused.
	OnReload func(context.Context) (ReloadAnswer, error)

	// Memory tells, for the status, how many bytes the requests and replies of clients take, and how many they may; nil: that is not known.
	Memory func() (used, limit int64)

	// OnStatus adds to a status what others know; nil: nothing.
	OnStatus func(*Status)

	// Control answers control requests that are not the supervisor's own affair, by action, for one pool or for all (""). What it returns becomes the answer's body.
	Control map[string]func(ctx context.Context, pool string) (any, error)
}

// PoolConfig describes workers that serve the same model or code and are interchangeable.
type PoolConfig struct {
	Name         string
	Command      []string          // argv of a worker; exclusive with Builtin
	Builtin      string            // name of a builtin action set; exclusive with Command
	Dir          string            // working directory; "": the supervisor's
	Env          map[string]string // added to the worker's environment
	EnvPass      []string          // variables of the supervisor that workers inherit besides the usual ones: NAME, PREFIX* or *
	Workers      int               // slots; 0: 1
	Concurrency  int               // requests in one worker at a time; 0: 1
	Devices      Devices
	Balance      Balance       // "": least-connection
	Weights      []int         // for balance: weighted, one per slot
	AffinityWait time.Duration // for balance: hash, how long a request waits for the worker that it belongs to while another is free; 0: 500 ms, negative: not at all
	Queue        int           // requests that may wait for a worker; 0: 256, -1: none
	Timeout      time.Duration // a request's deadline if it brings none; 0: 60 s
	StartTimeout time.Duration // from spawn to ready; 0: 5 min
	HangTimeout  time.Duration // without a reply, though the requester would take one: the request is cancelled, and a worker that does not end it is killed; 0: only the deadline counts
	Grace        time.Duration // from a request's cancellation or deadline until a worker that has not ended it is killed; 0: 5 s
	Replace      Replace       // "": auto
	Limits       Limits
	Rlimits      map[string]uint64 // soft and hard limits by setrlimit(2)'s names: as, core (if not given: 0), data, fsize, memlock, nofile, nproc, stack; [Unlimited] takes one away
	User, Group  string            // whom workers run as, names or numbers; "": as the supervisor. Needs root
	CPUs         []int             // that workers run on; nil: wherever the supervisor may
	Actions      map[string]ActionConfig
}

// ActionConfig is what is to be done about one of the workers' actions.
type ActionConfig struct {
	Batch Batch
}

// Batch says how requests for an action are gathered, to be answered by one call of a worker that can. The zero value does not gather.
type Batch struct {
	Max   int           // requests in one call, from 2 on
	Delay time.Duration // that a request waits for others although there is a place in a worker; not where a worker is idle and nobody else waits
}

// Replace says in which order a worker is replaced by another that takes its place.
type Replace string

// The orders there are.
const (
	ReplaceAuto Replace = "auto"        // start-first for workers without devices, else stop-first
	StartFirst  Replace = "start-first" // the new one is ready before the old one goes; for a while there are both
	StopFirst   Replace = "stop-first"  // the old one is gone before the new one starts
)

// Balance names a way to choose among the workers that can take a request.
type Balance string

// The balances there are.
const (
	LeastConnection Balance = "least-connection" // fewest in flight; ties go round
	RoundRobin      Balance = "round-robin"
	Weighted        Balance = "weighted" // smooth weighted round robin by Weights
	Hash            Balance = "hash"     // the same worker for the requests of a session, else of a client; see [PoolConfig.AffinityWait]
)

// Devices says which GPUs a pool's workers see. The zero value is auto.
type Devices struct {
	None bool  // CUDA_VISIBLE_DEVICES is set empty
	List []int // dealt out to the slots in turn; nil (and not None): auto, every GPU of the machine dealt out likewise, or the variable left alone where there is none
}

// Limits recycle a worker between requests; a zero field is no limit. Each is lowered by up to a tenth at random, so that workers do not go all at once.
type Limits struct {
	RSS      uint64        // bytes
	VRAM     uint64        // bytes of the GPUs' memory, as nvidia-smi tells
	Requests uint64        // answered by one process
	Lifetime time.Duration // of one process
	Idle     time.Duration // since one that has answered requests ended its last
}

// ControlPool is the pool name under which the supervisor itself answers requests.
const ControlPool = "ringmaster"

// DefaultTimeout is the deadline of a request that brings none, to a pool that has no other.
const DefaultTimeout = 60 * time.Second

const (
	defaultQueue        = 256
	defaultStartTimeout = 5 * time.Minute
	maxSlots            = 1024
	maxConcurrency      = 65536
	maxQueue            = 1 << 20
	minMessage          = 64 << 10
	maxMaxMessage       = 1 << 30
	maxDrainTimeout     = 24 * time.Hour
	maxBatchDelay       = time.Second
	defaultAffinityWait = 500 * time.Millisecond
	maxAffinityWait     = time.Hour
)

// FieldError is a bad value in a [Config]: which field, the value, and what would be right.
type FieldError struct {
	Pool  string // "" for a field outside of pools
	Field string // as in ringmaster.yaml
	Value any
	Want  string
}

func (e *FieldError) Error() string {
	where := e.Field
	if e.Pool != "" {
		where = fmt.Sprintf("pools.%s.%s", e.Pool, e.Field)
	}
	return fmt.Sprintf("%s: %v: %s", where, e.Value, e.Want)
}

// Validate checks the configuration; the error is a [*FieldError].
func (c *Config) Validate() error {
	if c.MaxMessage != 0 && (c.MaxMessage < minMessage || c.MaxMessage > maxMaxMessage) {
		return &FieldError{"", "max_message", c.MaxMessage, "use a size from 64KiB to 1GiB"}
	}
	if c.DrainTimeout < 0 || c.DrainTimeout > maxDrainTimeout {
		return &FieldError{"", "drain_timeout", c.DrainTimeout, "use a duration up to 24h, such as 30s"}
	}
	if len(c.Pools) == 0 {
		return &FieldError{"", "pools", "(none)", "name at least one pool, for example `echo: {builtin: echo}`"}
	}
	seen := map[string]bool{}
	for i := range c.Pools {
		p := &c.Pools[i]
		if seen[p.Name] {
			return &FieldError{"", "pools", p.Name, "there are two pools of this name"}
		}
		seen[p.Name] = true
		if err := p.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (p *PoolConfig) validate() error {
	bad := func(field string, value any, want string) error { return &FieldError{p.Name, field, value, want} }
	switch {
	case !validName(p.Name):
		return &FieldError{"", "pools", fmt.Sprintf("%q", p.Name), "a pool's name is 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit"}
	case p.Name == ControlPool:
		return &FieldError{"", "pools", p.Name, "this name is reserved for control requests; choose another"}
	case len(p.Command) == 0 && p.Builtin == "":
		return bad("command", "(none)", "give `command: [program, argument…]` or `builtin: NAME`")
	case len(p.Command) > 0 && p.Builtin != "":
		return bad("builtin", p.Builtin, "give either `command` or `builtin`, not both")
	case len(p.Command) > 0 && p.Command[0] == "":
		return bad("command", `""`, "the program's name is empty")
	case p.Workers < 0 || p.Workers > maxSlots:
		return bad("workers", p.Workers, fmt.Sprintf("use 1 to %d", maxSlots))
	case p.Concurrency < 0 || p.Concurrency > maxConcurrency:
		return bad("concurrency", p.Concurrency, fmt.Sprintf("use 1 to %d", maxConcurrency))
	case p.Queue < -1 || p.Queue > maxQueue:
		return bad("queue", p.Queue, fmt.Sprintf("use 0 to %d", maxQueue))
	case p.Timeout < 0:
		return bad("timeout", p.Timeout, "use a positive duration such as 60s")
	case p.StartTimeout < 0:
		return bad("start_timeout", p.StartTimeout, "use a positive duration such as 5m")
	case p.HangTimeout < 0:
		return bad("hang_timeout", p.HangTimeout, "use a positive duration such as 30s")
	case p.Grace < 0:
		return bad("grace", p.Grace, "use a positive duration such as 5s")
	case !slices.Contains([]Replace{"", ReplaceAuto, StartFirst, StopFirst}, p.Replace):
		return bad("replace", string(p.Replace), "use auto, start-first or stop-first")
	case p.Limits.Lifetime < 0:
		return bad("limits.lifetime", p.Limits.Lifetime, "use a positive duration such as 24h")
	case p.Limits.Idle < 0:
		return bad("limits.idle", p.Limits.Idle, "use a positive duration such as 10m")
	}
	for _, d := range p.Devices.List {
		if d < 0 {
			return bad("devices", d, "device numbers begin at 0")
		}
	}
	switch p.Balance {
	case "", LeastConnection, RoundRobin, Hash:
	case Weighted:
		if len(p.Weights) != max(1, p.Workers) {
			return bad("weights", p.Weights, fmt.Sprintf("balance: weighted needs one weight for each of the %d workers", max(1, p.Workers)))
		}
		for _, w := range p.Weights {
			if w < 1 || w > 1000 {
				return bad("weights", w, "use weights from 1 to 1000")
			}
		}
	default:
		return bad("balance", string(p.Balance), "use least-connection, round-robin, weighted or hash")
	}
	if p.AffinityWait > 0 && p.Balance != Hash {
		return bad("affinity_wait", p.AffinityWait, "it is for `balance: hash`; set that, or remove the key")
	}
	if p.AffinityWait > maxAffinityWait {
		return bad("affinity_wait", p.AffinityWait, fmt.Sprintf("use a duration up to %v, such as 500ms", maxAffinityWait))
	}
	if err := p.validateActions(); err != nil {
		return err
	}
	return p.validateConfinement()
}

func (p *PoolConfig) validateActions() error {
	for _, name := range slices.Sorted(maps.Keys(p.Actions)) {
		b, field := p.Actions[name].Batch, "actions."+name+".batch"
		switch {
		case name == "":
			return &FieldError{p.Name, "actions", `""`, "an action has a name"}
		case b == Batch{}:
		case b.Max < 2 || b.Max > ipc.MaxBatch:
			return &FieldError{p.Name, field + ".max", b.Max, fmt.Sprintf("use 2 to %d", ipc.MaxBatch)}
		case b.Delay < 0 || b.Delay > maxBatchDelay:
			return &FieldError{p.Name, field + ".delay", b.Delay, fmt.Sprintf("use a duration up to %v, such as 2ms", maxBatchDelay)}
		case p.Queue < 0:
			return &FieldError{p.Name, field, b.Max, "requests are gathered in the queue; give the pool one, or remove `queue: 0`"}
		}
	}
	return nil
}

// withDefaults returns a copy in which every default is filled in.
func (c Config) withDefaults() Config {
	if c.MaxMessage == 0 {
		c.MaxMessage = ipc.DefaultMaxMessage
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
	pools := make([]PoolConfig, len(c.Pools))
	for i, p := range c.Pools {
		p.Workers = max(1, p.Workers)
		p.Concurrency = max(1, p.Concurrency)
		switch p.Queue {
		case 0:
			p.Queue = defaultQueue
		case -1:
			p.Queue = 0
		}
		if p.Timeout == 0 {
			p.Timeout = DefaultTimeout
		}
		if p.StartTimeout == 0 {
			p.StartTimeout = defaultStartTimeout
		}
		if p.Balance == "" {
			p.Balance = LeastConnection
		}
		switch {
		case p.AffinityWait < 0 || p.Balance != Hash:
			p.AffinityWait = 0
		case p.AffinityWait == 0:
			p.AffinityWait = defaultAffinityWait
		}
		if p.Replace == "" {
			p.Replace = ReplaceAuto
		}
		pools[i] = p
	}
	c.Pools = pools
	return c
}

func validName(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case i > 0 && (r == '-' || r == '_' || r == '.'):
		default:
			return false
		}
	}
	return true
}
