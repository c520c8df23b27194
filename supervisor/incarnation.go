package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

const (
	cookieKey   = "RINGMASTER_COOKIE"
	cookieValue = "5f1d0c52b6e94be0a1f9-ringmaster-worker"

	maxHandshake = 4 << 10 // bytes of a worker's first line on stdout
	ringCapacity = 4 << 20 // bytes, each way
)

// incarnation is one worker process with its segment, from spawn to burial. Its slot's goroutine alone starts and buries it.
//
// The order of death is SHM.md's: the pidfd fires and the process group is killed (process.wait), bury closes the ring, Run drains what was committed, the calls that are left
// are settled, the goroutines joined, the memory unmapped.
type incarnation struct {
	log      *slog.Logger // immutable
	seg      *shm.Segment
	ring     *ipc.Ring
	caller   *ipc.Caller
	lifeline *os.File // our end; its closing tells the worker that we are gone
	attached *attachments
	out      *outputLog
	proc     *process // set when shaken delivers nil, or a worker was at least started
	client   *plugin.Client
	guard    *guard
	started  time.Time
	serial   uint64 // no other process of ours has it

	shaken chan error      // capacity 1: the handshake's outcome
	hello  chan *ipc.Hello // capacity 1: the worker is ready
	broken chan error      // capacity 1: the worker broke the protocol

	readers sync.WaitGroup // stdout, stderr
	run     sync.WaitGroup // caller.Run
	waiter  sync.WaitGroup // proc.wait

	// Guarded by the pool's mu.
	inFlight int                   // requests
	taken    int                   // places, and one more for each request in line: those of a batch have one
	actions  map[string]ipc.Action // what it said it can do; what it points to is immutable
	arenas   bool                  // it can do arenas; immutable while it is given requests, like ahead
	ahead    int                   // how many requests it may be sent ahead
	line     []ipc.Client          // whose those are that it was sent ahead and has not come to, in their order
	ended    uint64                // requests that it was given and has no more
	closed   bool                  // nothing is sent behind the request that it was given last
	last     ipc.Client            // whose that is
	changed  time.Time             // when it was given that of another client than before
	served   uint64                // requests that it ended
	lastEnd  time.Time             // of them
	alone    bool                  // it has a request that shares it with no other
	probing  bool                  // processes before it answered nothing: it is given one request at a time until it answers

	// How calls end that the process had read when it died. Set before bury; blame before lost.
	lost  atomic.Pointer[ipc.Error]
	blame bool // they may be the reason: it was not told to go
}

// serials counts processes.
var serials atomic.Uint64

// launch describes the process to start.
type launch struct {
	argv      []string
	env       []string
	dir       string
	limit     int // bytes of a message
	handshake time.Duration
	log       *slog.Logger
	spawner   *spawner
	guard     *guard
	confine   *PoolConfig
}

// start begins an incarnation: segment, lifeline, process, handshake. The outcome of the handshake arrives on shaken.
func start(l launch) (*incarnation, error) {
	seg, err := shm.Create(shm.Geometry{S2W: ringCapacity, W2S: ringCapacity, Eventfd: true})
	if err != nil {
		return nil, err
	}
	ours, theirs, err := lifelinePair()
	if err != nil {
		seg.Shutdown()
		_ = seg.Destroy()
		return nil, fmt.Errorf("make the lifeline: %w", err)
	}
	seg.SetSupervisorState(shm.StateRun)
	inc := &incarnation{
		log: l.log, seg: seg, ring: ipc.SupervisorRing(seg, l.limit), lifeline: ours, attached: newAttachments(ours), guard: l.guard,
		out: &outputLog{log: l.log}, started: time.Now(), serial: serials.Add(1),
		shaken: make(chan error, 1), hello: make(chan *ipc.Hello, 1), broken: make(chan error, 1),
	}
	inc.caller = ipc.NewCaller(inc.ring, ipc.Events{Hello: inc.onHello})
	inc.run.Go(inc.receive)

	spawned := make(chan error, 1)
	inc.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
		VersionedPlugins: versions(),
		SkipHostEnv:      true,
		StartTimeout:     l.handshake,
		Logger:           hclog.NewNullLogger(), // what it would log comes back as errors
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, tmpDir string) (runner.Runner, error) {
			_ = os.Remove(tmpDir) // for sockets that do not exist here; removed at once, so that a killed supervisor leaves none behind
			spawn := func() error {
				defer theirs.Close()
				p, err := l.spawner.spawn(command{l.argv, append(cmd.Env, l.env...), l.dir, []*os.File{seg.File(), theirs, seg.Eventfd()}, l.confine})
				inc.proc = p
				spawned <- err
				return err
			}
			return &pluginRunner{inc: inc, spawn: spawn}, nil
		},
	})
	inc.waiter.Go(func() {
		_, err := inc.client.Start()
		if err == nil {
			inc.proc.watchMemory()
		}
		select {
		case spawned <- err: // failed before the process was to be started
			theirs.Close()
		default:
		}
		inc.shaken <- err
	})
	if err := <-spawned; err != nil || inc.proc == nil {
		inc.waiter.Wait()
		inc.discard()
		return nil, fmt.Errorf("start %s: %w", l.argv[0], err)
	}
	return inc, nil
}

func versions() map[int]plugin.PluginSet {
	v := map[int]plugin.PluginSet{}
	for i := ipc.MinVersion; i <= ipc.MaxVersion; i++ {
		v[i] = plugin.PluginSet{}
	}
	return v
}

func lifelinePair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "lifeline"), os.NewFile(uintptr(fds[1]), "lifeline"), nil
}

func (inc *incarnation) onHello(h *ipc.Hello) {
	select {
	case inc.hello <- h:
	default: // one at most is looked at
	}
}

// receive is the goroutine that reads the ring.
func (inc *incarnation) receive() {
	if err := inc.caller.Run(); !errors.Is(err, io.EOF) {
		inc.broken <- err
	}
}

// unread is how a call ends whose request the dead worker had not read: it never leaves this package, another worker gets the request.
var unread = ipc.Errorf(ipc.Aborted, "unread", "the worker died before it read the request")

// bury settles what a dead process leaves: calls whose request it had read end with inc.lost, the others with unread. Preconditions: the process has been reaped, nobody dispatches to it any more.
func (inc *incarnation) bury() {
	_ = inc.ring.Close()
	inc.run.Wait()
	inc.caller.Close(unread, func(sent uint64) *ipc.Error {
		if consumed, err := inc.ring.Consumed(sent); err == nil && !consumed {
			return unread
		}
		return inc.lost.Load()
	})
	inc.guard.remove(inc.proc.pid)
	inc.readers.Wait()
	inc.waiter.Wait()
	inc.client.Kill() // go-plugin's own clean-up; the process is dead, so it returns at once
	inc.discard()
}

// discard frees the memory and the lifeline.
func (inc *incarnation) discard() {
	_ = inc.ring.Close()
	inc.run.Wait()
	if err := inc.seg.Destroy(); err != nil {
		inc.log.Error("discard segment", "error", err)
	}
	inc.attached.bury()
	inc.lifeline.Close()
}

// pluginRunner lets go-plugin conduct the handshake with a process that is ours.
type pluginRunner struct {
	inc   *incarnation
	spawn func() error
	line  *io.PipeReader
}

// Start spawns the process and the goroutines that wait for it and read its output.
func (r *pluginRunner) Start(context.Context) error {
	if err := r.spawn(); err != nil {
		return err
	}
	inc := r.inc
	inc.guard.add(inc.proc.pid)
	line, w := io.Pipe()
	r.line = line
	inc.readers.Go(func() {
		defer inc.proc.stderr.Close()
		inc.out.copyFrom(inc.proc.stderr)
	})
	inc.readers.Go(func() {
		defer inc.proc.stdout.Close()
		// go-plugin gets the first line and no more: its scanner stops at 64 KiB, and a worker that prints on would then block for ever.
		br := bufio.NewReaderSize(inc.proc.stdout, maxHandshake)
		if first, _, err := br.ReadLine(); err == nil {
			_, _ = w.Write(append(first[:len(first):len(first)], '\n'))
		} else {
			<-inc.proc.exited // one that only closed its stdout fails by the handshake's timeout
		}
		w.Close()
		inc.out.copyFrom(br)
	})
	inc.waiter.Go(inc.proc.wait) // last: from its end on, bury waits for the others
	return nil
}

// Stdout yields the handshake line.
func (r *pluginRunner) Stdout() io.ReadCloser { return r.line }

// Stderr is empty for go-plugin: the log reads it.
func (r *pluginRunner) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Wait waits for the process to be reaped.
func (r *pluginRunner) Wait(context.Context) error {
	<-r.inc.proc.exited
	return nil
}

// Kill kills the process and waits for it to be reaped.
func (r *pluginRunner) Kill(context.Context) error {
	r.inc.proc.kill()
	<-r.inc.proc.exited
	return nil
}

// ID returns the pid.
func (r *pluginRunner) ID() string { return strconv.Itoa(r.inc.proc.pid) }

// Name returns the program.
func (r *pluginRunner) Name() string { return r.inc.proc.cmd.Path }

// Diagnose adds nothing: the last lines of stderr are in the status.
func (r *pluginRunner) Diagnose(context.Context) string { return "" }

// PluginToHost returns an address that cannot exist: only go-plugin's Kill ever dials it, and is to fail at once.
func (r *pluginRunner) PluginToHost(string, string) (network, addr string, err error) {
	return "unix", "/dev/null/none", nil
}

// HostToPlugin returns the address as it is.
func (r *pluginRunner) HostToPlugin(net, addr string) (string, string, error) { return net, addr, nil }
