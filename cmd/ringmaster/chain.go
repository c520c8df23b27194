package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/chain/cache"
	"github.com/ringmasterd/ringmaster/chain/pipeline"
	"github.com/ringmasterd/ringmaster/chain/resilience"
	"github.com/ringmasterd/ringmaster/chain/session"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// callChain is what a request passes between the gateway and the supervisor: the links of package chain, with what the file says of each.
type callChain struct {
	trace      *trace.Tracer
	auth       *auth.Auth
	handler    chain.Handler
	file       *config.File // that it was configured by last
	sessions   *session.Sessions
	cache      *cache.Cache
	pipelines  *pipeline.Link
	resilience *resilience.Link
}

// newCallChain puts the links before a supervisor's Call, in the order a request meets them.
func newCallChain(sup *supervisor.Supervisor, file *config.File, log *slog.Logger) (*callChain, error) {
	c := &callChain{pipelines: pipeline.New(file.Supervisor.MaxMessage)}
	var err error
	if c.trace, err = trace.New(file.Tracing, log); err != nil {
		return nil, err
	}
	if c.auth, err = auth.New(file.Auth, file.Listen != ""); err != nil {
		return nil, errors.Join(err, c.trace.Close())
	}
	if c.sessions, err = session.New(file.Sessions, log); err != nil {
		return nil, errors.Join(err, c.trace.Close())
	}
	if c.cache, err = cache.New(file.Cache, cache.Options{}); err != nil {
		return nil, errors.Join(err, c.sessions.Close(), c.trace.Close())
	}
	c.resilience = resilience.New(sup.Action, c.cache, log)
	c.handler = chain.New(sup.Call, c.trace.Link, c.auth.Link, c.sessions.Link, c.pipelines.Link, c.cache.Link, c.resilience.Link, chain.Silence, c.restarts, c.trace.Reach)
	return c, c.configure(file)
}

// restarts is the link that notices when a pool was given new workers because somebody said so: what its old ones answered is not taken for what the new ones would, nor what they are at now. How often a worker dies by itself does not matter.
func (c *callChain) restarts(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		replies, err := next(ctx, req) // it returns when that is done, or has failed half way
		if req.Pool != supervisor.ControlPool || req.Action != "restart" || err != nil && ipc.AsError(err).Code == ipc.NotFound {
			return replies, err
		}
		if pool, e := ipc.PoolNamed(req.Body); e == nil && pool != "" {
			c.cache.Clear(pool)
		}
		return replies, err
	}
}

// Call implements [gateway.Backend].
func (c *callChain) Call(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	return c.handler(ctx, req)
}

// admit has the link that knows who may do what do what the file says now, and returns what undoes that: whose right was taken back must not keep it until the pools have new workers.
func (c *callChain) admit(file *config.File) (undo func(), _ error) {
	return c.auth.Configure(file.Auth)
}

// configure has every link do what the file says now. An error changes nothing.
func (c *callChain) configure(file *config.File) error {
	if err := c.trace.Configure(file.Tracing); err != nil {
		return err
	}
	if err := c.sessions.Configure(file.Sessions); err != nil {
		return err
	}
	if err := c.cache.Configure(file.Cache); err != nil {
		return err
	}
	if err := c.pipelines.Configure(file.Pipelines, file.PoolNames()); err != nil {
		return err // there is none for a file that was read: reading checks them
	}
	c.file = file
	c.resilience.Configure(file.Resilience)
	return nil
}

// reloaded tells the links which pools may answer differently from now on.
func (c *callChain) reloaded(r supervisor.Reloaded) {
	for _, names := range [][]string{r.Added, r.Removed, r.Changed, slices.Collect(maps.Keys(r.Kept))} {
		for _, name := range names {
			c.cache.Clear(name)
		}
	}
}

// collectors are what the links have counted, for Prometheus.
func (c *callChain) collectors() []prometheus.Collector {
	return slices.Concat(c.auth.Collectors(), c.cache.Collectors(), []prometheus.Collector{c.sessions, c.trace}, c.pipelines.Collectors(), c.resilience.Collectors())
}

// status adds the pipelines to a status.
func (c *callChain) status(s *supervisor.Status) {
	for _, p := range c.pipelines.Status() {
		s.Pipelines = append(s.Pipelines, supervisor.PipelineStatus(p))
	}
}

// close ends what the links have started and stores what they keep. Preconditions: no request is in the chain.
func (c *callChain) close() error {
	c.cache.Close()
	c.resilience.Close()
	return errors.Join(c.sessions.Close(), c.trace.Close())
}
