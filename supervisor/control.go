package supervisor

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
)

// controlTimeout is the deadline of a control request that brings none: a restart waits for models to load.
const controlTimeout = 10 * time.Minute

// control answers the requests to the pool named [ControlPool].
func (s *Supervisor) control(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	name, err := ipc.PoolNamed(req.Body)
	if err != nil {
		return nil, err
	}
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = controlTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	pools, err := s.chosen(name)
	if err != nil {
		return nil, err
	}
	var result any
	switch req.Action {
	case "status":
		result = s.Status()
	case "pools":
		result = s.poolList()
	case "version":
		result = map[string]any{"version": version.Version}
	case "health":
		result = health(ctx, pools)
	case "restart":
		if name == "" {
			return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "restart needs a pool's name")
		}
		err = pools[0].restart(ctx)
	case "drain":
		for _, p := range pools {
			if err = p.drain(ctx); err != nil {
				break
			}
		}
	case "reload":
		if s.cfg.OnReload == nil {
			return nil, ipc.Errorf(ipc.Unimplemented, "reload", "this server has no configuration file to read again")
		}
		result, err = s.cfg.OnReload(ctx)
	default:
		answer := s.cfg.Control[req.Action]
		if answer == nil {
			return nil, ipc.Errorf(ipc.NotFound, "unknown_action", "pool %s has no action %q; it has %s", ControlPool, req.Action, strings.Join(s.controlActions(), ", "))
		}
		result, err = answer(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	body, err := ipc.Marshal(result)
	if err != nil {
		return nil, err
	}
	return &single{body: body}, nil
}

// poolList says which pools there are and what they can do; links on its way leave out what is not the asker's.
func (s *Supervisor) poolList() ipc.PoolList {
	list := ipc.PoolList{Pools: []ipc.PoolEntry{}}
	st := s.Status()
	for _, p := range st.Pools {
		list.Pools = append(list.Pools, ipc.PoolEntry{Name: p.Name, State: p.State, Actions: p.Actions, Signatures: p.Signatures})
	}
	for _, p := range st.Pipelines { // which are called like pools
		list.Pools = append(list.Pools, ipc.PoolEntry{Name: p.Name, State: "ready", Actions: p.Actions})
	}
	return list
}

// controlActions names the actions of the pool [ControlPool], sorted.
func (s *Supervisor) controlActions() []string {
	return slices.Sorted(slices.Values(slices.AppendSeq([]string{"drain", "health", "pools", "reload", "restart", "status", "version"}, maps.Keys(s.cfg.Control))))
}

// ReloadAnswer is the answer to a reload request.
type ReloadAnswer struct {
	Reloaded
	Keys         []string `json:"keys" msgpack:"keys"`                   // keys of the file, pools and pipelines aside, whose new values count from now on
	NeedsRestart []string `json:"needs_restart" msgpack:"needs_restart"` // keys of the file whose new values count only once the server is started anew
}

// chosen returns the named pool, or all of them in order of name for "".
func (s *Supervisor) chosen(name string) ([]*pool, error) {
	if name == "" {
		return s.all(), nil
	}
	p, err := s.pool(name)
	if err != nil {
		return nil, err
	}
	return []*pool{p}, nil
}

// healthTimeout bounds a health check that brings no deadline of its own.
const healthTimeout = 10 * time.Second

func health(ctx context.Context, pools []*pool) Health {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	h := Health{Pools: make([]PoolHealth, len(pools))}
	answers := make(chan struct{}, len(pools))
	for i, p := range pools {
		go func() {
			h.Pools[i] = p.health(ctx)
			answers <- struct{}{}
		}()
	}
	for range pools {
		<-answers
	}
	return h
}

// single is an answer of one reply that is there already.
type single struct {
	body ipc.Body
	done bool
}

// Recv implements [ipc.Replies].
func (r *single) Recv(context.Context) (*ipc.Reply, error) {
	if r.done {
		return nil, io.EOF
	}
	r.done = true
	return &ipc.Reply{End: true, Body: r.body}, nil
}

// Cancel implements [ipc.Replies].
func (r *single) Cancel(string) {}
