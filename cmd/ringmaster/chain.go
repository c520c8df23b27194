package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/ipc"
)

// callChain is what a request passes between the gateway and the supervisor: the links of package chain, with what the file says of each.
type callChain struct {
	trace   *trace.Tracer
	auth    *auth.Auth
	handler chain.Handler
}

// newCallChain puts the links before a supervisor's Call, in the order a request meets them.
func newCallChain(supervisor chain.Handler, file *config.File, log *slog.Logger) (*callChain, error) {
	c := &callChain{}
	var err error
	if c.trace, err = trace.New(file.Tracing, log); err != nil {
		return nil, err
	}
	if c.auth, err = auth.New(file.Auth, file.Listen != ""); err != nil {
		return nil, err
	}
	c.handler = chain.New(supervisor,
		c.trace.Link,
		c.auth.Link,
		c.trace.Reach, // the last one
	)
	return c, c.configure(file)
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
	return c.trace.Configure(file.Tracing)
}

// close ends what the links have started and stores what they keep. Preconditions: no request is in the chain.
func (c *callChain) close() error { return c.trace.Close() }

// collectors are what the links have counted, for /metrics.
func (c *callChain) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{c.trace}, c.auth.Collectors()...)
}
