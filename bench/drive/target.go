package drive

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/bench/load"
	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// statusTimeout is how long the server may take to describe itself.
const statusTimeout = 10 * time.Second

// target is what is loaded, and the connections to it.
type target struct {
	clients      []*client.Client
	status       supervisor.Status
	pool, action string
	check        load.Check
	checked      string // what answers are held against
	unknown      string // why the cost could not be told, if it could not
	ways         ways
}

// aim connects, chooses what to call and sees that one request succeeds.
func aim(ctx context.Context, cfg *Config) (_ *target, err error) {
	t := &target{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	var opts []client.DialOption
	if cfg.Address != "" {
		opts = append(opts, client.WithAddress(cfg.Address))
	}
	if cfg.Ring >= 0 {
		opts = append(opts, client.WithRing(cfg.Ring))
	}
	for range max(1, cfg.Connections) {
		c, err := client.Dial(ctx, opts...)
		if err != nil {
			return nil, err
		}
		t.clients = append(t.clients, c)
	}
	if err := t.look(ctx); err != nil {
		return nil, err
	}
	if t.pool, t.action, err = choose(t.status.Pools, cfg.Pool, cfg.Action); err != nil {
		return nil, err
	}
	t.check, t.checked = load.Anything, "nothing"
	if t.action == "echo" && cfg.Body == nil {
		t.check, t.checked = load.Echoed, "the request"
	}
	p := load.NewPayload(max(load.MinSize, slices.Min(append([]int{1 << 30}, cfg.Sizes...))), 0)
	if _, err := t.calls(cfg)[0](ctx, p.Bytes); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *target) close() {
	for _, c := range t.clients {
		_ = c.Close()
	}
}

// look asks the server for its status.
func (t *target) look(ctx context.Context) error {
	reply, err := t.clients[0].Call(ctx, supervisor.ControlPool, "status", nil, client.WithTimeout(statusTimeout))
	if err != nil {
		return err
	}
	t.status = supervisor.Status{}
	return reply.Decode(&t.status)
}

// choose returns the pool and the action that are meant where they are not named.
func choose(pools []supervisor.PoolStatus, pool, action string) (string, string, error) {
	if pool == "" {
		if len(pools) != 1 {
			names := make([]string, 0, len(pools))
			for _, p := range pools {
				names = append(names, p.Name)
			}
			return "", "", ipc.Errorf(ipc.InvalidArgument, "no_pool", "the server has %d pools; name one of %s", len(pools), strings.Join(names, ", "))
		}
		pool = pools[0].Name
	}
	if action != "" {
		return pool, action, nil
	}
	for _, p := range pools {
		switch {
		case p.Name != pool:
		case slices.Contains(p.Actions, "echo"):
			return pool, "echo", nil
		case len(p.Actions) == 1:
			return pool, p.Actions[0], nil
		case len(p.Actions) == 0: // not loaded yet: the first request says so better
		default:
			return "", "", ipc.Errorf(ipc.InvalidArgument, "no_action", "pool %s has no action echo; name one of %s", pool, strings.Join(p.Actions, ", "))
		}
	}
	return pool, "echo", nil
}

// workers counts those of the pool.
func (t *target) workers() int {
	for _, p := range t.status.Pools {
		if p.Name == t.pool {
			return len(p.Workers)
		}
	}
	return 0
}

// calls are what each connection does for a request.
func (t *target) calls(cfg *Config) []load.Call {
	calls := make([]load.Call, len(t.clients))
	for i, c := range t.clients {
		switch {
		case cfg.Body != nil:
			calls[i] = t.whole(c, cfg)
		default:
			calls[i] = t.tensor(c, cfg)
		}
	}
	return calls
}

// tensor sends the payload as a tensor of bytes, as an app sends a frame of video.
func (t *target) tensor(c *client.Client, cfg *Config) load.Call {
	return func(ctx context.Context, payload []byte) ([]byte, error) {
		return t.ask(ctx, c, cfg, payload)
	}
}

// inPlace sends the payload from where it lies in a connection's arena, and has echo's answer written beside it.
func (t *target) inPlace(l *lot, cfg *Config) load.Call {
	return func(ctx context.Context, payload []byte) ([]byte, error) {
		p := l.find(payload)
		if t.action != "echo" {
			return t.ask(ctx, p.client, cfg, payload)
		}
		return t.ask(ctx, p.client, cfg, payload, client.WithOutputs(p.slot))
	}
}

// ask makes one request with the payload as its tensor.
func (t *target) ask(ctx context.Context, c *client.Client, cfg *Config, payload []byte, opts ...client.CallOption) ([]byte, error) {
	x := client.Tensor{Name: "x", DType: "uint8", Shape: []uint64{uint64(len(payload))}, Data: payload}
	opts = append(opts, client.WithTensors(x), client.WithTimeout(cfg.Timeout))
	if t.action != "echo" {
		return t.drain(c.Stream(ctx, t.pool, t.action, nil, opts...))
	}
	r, err := c.Call(ctx, t.pool, t.action, nil, opts...)
	if err != nil {
		return nil, err
	}
	t.ways.note(r.Arena)
	if len(r.Tensors) != 1 {
		return nil, nil
	}
	return r.Tensors[0].Data, nil
}

// whole sends the body that was asked for, and takes all of the answer, be it in chunks or not.
func (t *target) whole(c *client.Client, cfg *Config) load.Call {
	opts := append(slices.Clone(cfg.Options), client.WithTimeout(cfg.Timeout))
	return func(ctx context.Context, _ []byte) ([]byte, error) {
		return t.drain(c.Stream(ctx, t.pool, t.action, cfg.Body, opts...))
	}
}

// drain takes an answer to its end.
func (t *target) drain(replies func(func(*client.Reply, error) bool)) ([]byte, error) {
	arena := false
	for r, err := range replies {
		if err != nil {
			return nil, err
		}
		arena = r.Arena
	}
	t.ways.note(arena)
	return nil, nil
}
