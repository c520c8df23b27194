package auth

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Auth is the link, and the gate that the front door asks before there is a request.
type Auth struct {
	policy  atomic.Pointer[policy]
	counts  *counts
	remote  bool // immutable: clients may come by TCP
	denials *prometheus.CounterVec
}

// New makes the link. remote says that clients may come by TCP, where each request needs a token. An error is a [*FieldError].
func New(cfg Config, remote bool) (*Auth, error) {
	a := &Auth{counts: newCounts(), remote: remote, denials: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringmaster_auth_denials_total", Help: "Connections and requests that were refused by who asked, by reason."}, []string{"reason"})}
	for _, reason := range []string{"denied", "peer", "rate_limited", "unauthenticated"} {
		a.denials.WithLabelValues(reason)
	}
	_, err := a.Configure(cfg)
	return a, err
}

// Check reports what [New] would find wrong with a configuration.
func Check(cfg Config) error {
	_, err := compile(&cfg, thisHost, newCounts())
	return err
}

// Configure makes the link do what a new configuration says, from the next request on, and returns what brings the old one back. What has been counted goes on. An error, a [*FieldError], changes nothing.
func (a *Auth) Configure(cfg Config) (undo func(), _ error) {
	p, err := compile(&cfg, thisHost, a.counts)
	if err != nil {
		return nil, err
	}
	old := a.policy.Swap(p)
	return func() {
		if _, err := a.Configure(old.cfg); err != nil { // a name of it is no user's any more: what it was compiled to holds
			a.policy.Store(old)
		}
	}, nil
}

// Collectors are the link's metrics.
func (a *Auth) Collectors() []prometheus.Collector { return []prometheus.Collector{a.denials} }

// WantsCGroup reports whether it matters in which control group a peer is.
func (a *Auth) WantsCGroup() bool { return len(a.policy.Load().cgroups) > 0 }

// Admit decides about a process that has connected to the Unix socket; plain is what the socket's own rule says. sure: it may ask without a token. One that is not sure must show a token soon.
func (a *Auth) Admit(peer chain.Peer, plain *ipc.Error) (sure bool, _ *ipc.Error) {
	p := a.policy.Load()
	switch {
	case p.open && plain != nil:
		return false, a.refuse(plain)
	case p.open, a.identity(p, &peer).known():
		return true, nil
	case len(p.tokens) > 0:
		return false, nil
	}
	where := ""
	if peer.CGroup != "" {
		where = " (its control group is " + peer.CGroup + ")"
	}
	return false, a.refuse(ipc.Errorf(ipc.PermissionDenied, "peer", "%s%s has no role here; `auth.users`, `auth.groups` or `auth.cgroups` would give it one", a.identity(p, &peer).who, where))
}

// Authenticate says why a request with this authorization header is nobody's; nil: it is somebody's, and what they may do is decided when the request is known.
func (a *Auth) Authenticate(peer chain.Peer, authorization string) *ipc.Error {
	p := a.policy.Load()
	if p.open && peer.Standing != chain.Remote {
		return nil
	}
	id, e := a.asks(p, &peer, authorization, time.Now())
	switch {
	case e != nil:
		return a.refuse(e)
	case !id.known():
		return a.refuse(missing(id))
	}
	return nil
}

// Link is the [chain.Link].
func (a *Auth) Link(next chain.Handler) chain.Handler {
	return func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		authorization := req.Headers[Header]
		if authorization != "" {
			delete(req.Headers, Header)
		}
		p := a.policy.Load()
		if p.open && !a.remote && req.Pool != controlPool {
			return next(ctx, req)
		}
		peer, ok := chain.PeerFrom(ctx)
		if !ok || p.open && peer.Standing != chain.Remote && !free(req.Pool, req.Action) {
			return next(ctx, req)
		}
		id, room, e := a.admitted(ctx, p, &peer, authorization, req)
		if e != nil {
			return nil, a.refuse(e)
		}
		req.Principal = id.name
		if peer.Standing == chain.Remote {
			req.Client = id.client
		}
		switch {
		case free(req.Pool, req.Action):
			return a.about(ctx, id, peer, req, next)
		case room == nil:
			return next(ctx, req)
		}
		replies, err := next(ctx, req)
		if err != nil {
			room.inFlight.Add(-1)
			return nil, err
		}
		return &counted{Replies: replies, room: room}, nil
	}
}

// admitted returns who asks, and the room that the request takes of a role's limits, or why it may not.
func (a *Auth) admitted(ctx context.Context, p *policy, peer *chain.Peer, authorization string, req *ipc.Request) (id *identity, room *limits, e *ipc.Error) {
	span := trace.Begin(ctx, "auth")
	defer func() { span.End(e) }()
	var now time.Time
	if p.timed {
		now = time.Now()
	}
	if id, e = a.asks(p, peer, authorization, now); e != nil {
		return nil, nil, e
	}
	room, e = id.admit(req, now)
	return id, room, e
}

// asks returns who makes a request with this authorization header.
func (a *Auth) asks(p *policy, peer *chain.Peer, authorization string, now time.Time) (*identity, *ipc.Error) {
	text, kind := parseCredential(authorization)
	switch {
	case kind == bearer && !p.open:
		t := p.find(text)
		if t == nil {
			return nil, unauthenticated("this token is not known here: it may have been taken back; `ringmaster auth token NAME` makes a new one, and its hash belongs under `auth.tokens`")
		}
		if t.expired(now) {
			return nil, unauthenticated("the token %s has expired, at %s; ask for a new one (`ringmaster auth token %s`)", t.name, t.expires.Format(time.RFC3339), t.name)
		}
		return &t.identity, nil
	case kind == broken && !p.open:
		return nil, unauthenticated("the authorization begins like a token and is none: it must be `Bearer ` and %d characters; it may have been cut off", tokenLength)
	case peer.Standing == chain.Remote:
		return nil, unauthenticated("a request by TCP needs a token: `Authorization: Bearer %s…` by HTTP, a header %s with the same value in frames; `ringmaster auth token NAME` makes one", tokenPrefix, Header)
	}
	return a.identity(p, peer), nil
}

// identity returns who a process is, which its connection remembers.
func (a *Auth) identity(p *policy, peer *chain.Peer) *identity {
	if peer.Memo == nil {
		return p.identify(*peer, a.counts)
	}
	if id, ok := peer.Memo.Load().(*identity); ok && id.policy == p {
		return id
	}
	id := p.identify(*peer, a.counts)
	peer.Memo.Store(id)
	return id
}

// refuse counts a refusal.
func (a *Auth) refuse(e *ipc.Error) *ipc.Error {
	a.denials.WithLabelValues(e.Reason).Inc()
	return e
}

func unauthenticated(format string, args ...any) *ipc.Error {
	return ipc.Errorf(ipc.PermissionDenied, "unauthenticated", format, args...)
}

// missing is of an identity without any role.
func missing(id *identity) *ipc.Error {
	return unauthenticated("%s has no role here, and the request has no token; `auth.users`, `auth.groups` or `auth.cgroups` would give a role, `ringmaster auth token NAME` makes a token", id.who)
}

// denied says what is missing. It is the same for pools that exist and for others.
func (id *identity) denied(pool, action string) *ipc.Error {
	if !id.known() {
		return missing(id)
	}
	return ipc.Errorf(ipc.PermissionDenied, "denied", "%s may not ask pool %q for %q: of its roles (%s) none allows that; an `allow` of one of them under `auth.roles` would, or another role", id.who, pool, action, id.roleNames())
}

// rateLimited says which limit was met.
func (id *identity) rateLimited(h *held, r refusal) *ipc.Error {
	var what string
	switch r.limit {
	case "rate":
		what = fmt.Sprintf("%g requests a second (%d at once)", h.role.Rate, h.role.burst())
	case "in_flight":
		what = fmt.Sprintf("%d requests in flight", h.role.InFlight)
	case "cost":
		what = fmt.Sprintf("%d bytes of requests a second", h.role.Cost)
	}
	e := ipc.Errorf(ipc.ResourceExhausted, "rate_limited", "%s asks for more than %s, the limit of role %s; wait, or raise `auth.roles.%s.%s`", id.who, what, h.role.name, h.role.name, r.limit)
	e.RetryAfter = r.wait
	return e
}

// counted watches a request's replies for its end, where requests in flight are limited.
type counted struct {
	ipc.Replies
	room *limits
	once atomic.Bool
}

// Recv implements [ipc.Replies].
func (c *counted) Recv(ctx context.Context) (*ipc.Reply, error) {
	reply, err := c.Replies.Recv(ctx)
	if err != nil || reply.End {
		c.end()
	}
	return reply, err
}

// Announce implements [ipc.Announcer].
func (c *counted) Announce(w *ipc.Responder) bool { return ipc.Announce(c.Replies, w) }

// Cancel implements [ipc.Replies].
func (c *counted) Cancel(reason string) {
	c.Replies.Cancel(reason)
	c.end()
}

func (c *counted) end() {
	if !c.once.Swap(true) {
		c.room.inFlight.Add(-1)
	}
}
