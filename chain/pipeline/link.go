package pipeline

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Link is the link. It may be used by many.
type Link struct {
	most   int // immutable: bytes of a message
	meters *meters
	plans  atomic.Pointer[map[string]*plan] // what it points to is immutable
}

// New makes the link, for messages of at most maxMessage bytes (0: 64 MiB); it does nothing before [Link.Configure].
func New(maxMessage int) *Link {
	if maxMessage == 0 {
		maxMessage = ipc.DefaultMaxMessage
	}
	l := &Link{most: maxMessage, meters: newMeters()}
	l.plans.Store(&map[string]*plan{})
	return l
}

// Configure makes requests that come from now on go by cfg; those that run go on as they began. pools are the names there are. An error, a [*FieldError], changes nothing.
func (l *Link) Configure(cfg Config, pools []string) error {
	plans, err := cfg.compile(pools)
	if err != nil {
		return err
	}
	l.plans.Store(&plans)
	return nil
}

// Link is the [chain.Link].
func (l *Link) Link(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		p := (*l.plans.Load())[req.Pool]
		if p == nil {
			return next(ctx, req)
		}
		if !slices.Contains(p.actions, req.Action) {
			return nil, ipc.Errorf(ipc.NotFound, "unknown_action", "pipeline %s has no action %q; it has %s", p.name, req.Action, strings.Join(p.actions, ", "))
		}
		return l.begin(ctx, p, next, req), nil
	}
}

// Collectors are what the link has counted, for Prometheus.
func (l *Link) Collectors() []prometheus.Collector { return l.meters.collectors() }

// Status describes a pipeline.
type Status struct {
	Name    string
	Actions []string
	Steps   []string // in the file's order
}

// Status describes every pipeline, in order of name.
func (l *Link) Status() []Status {
	plans := *l.plans.Load()
	list := make([]Status, 0, len(plans))
	for _, name := range slices.Sorted(maps.Keys(plans)) {
		s := Status{Name: name, Actions: plans[name].actions}
		for i := range plans[name].steps {
			s.Steps = append(s.Steps, plans[name].steps[i].Name)
		}
		list = append(list, s)
	}
	return list
}
