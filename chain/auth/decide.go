package auth

import (
	"slices"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// controlPool is the server itself, as docs/protocol.md, section 7, says. No pattern names it.
const controlPool = "ringmaster"

// role is a [Role], compiled.
type role struct {
	name string
	Role
	rules []rule
}

// rule is a [Rule], compiled.
type rule struct {
	pools   patterns
	control bool // the server itself
	actions patterns
	weight  int
}

func newRole(name string, cfg Role) *role {
	r := &role{name: name, Role: cfg}
	for _, allow := range cfg.Allow {
		pools := slices.DeleteFunc(slices.Clone(allow.Pools), func(s string) bool { return s == controlPool })
		r.rules = append(r.rules, rule{pools: newPatterns(pools), control: len(pools) < len(allow.Pools), actions: newPatterns(allow.Actions), weight: max(1, allow.Weight)})
	}
	return r
}

// allows returns the first rule that allows an action of a pool; nil: none does.
func (r *role) allows(pool, action string) *rule {
	for i := range r.rules {
		if r.rules[i].allows(pool, action) {
			return &r.rules[i]
		}
	}
	return nil
}

func (r *rule) allows(pool, action string) bool {
	if pool != controlPool {
		return r.pools.match(pool) && r.actions.match(action)
	}
	return r.control && r.allowsControl(action)
}

// allowsControl reports whether a rule of the server itself allows an action: by its name, or, where that is about one pool, by action:pool. Who may see the status may see what tells less.
func (r *rule) allowsControl(action string) bool {
	if r.actions.match(action) {
		return true
	}
	name, _, one := strings.Cut(action, ":")
	if one {
		return r.allowsControl(name)
	}
	return (name == "health" || name == "version") && r.actions.match("status")
}

// asked is the action of a request as rules have it: of the server itself, where it is about one pool, with that one's name, as in restart:echo, so that a rule may allow it for some pools.
func asked(req *ipc.Request) (string, *ipc.Error) {
	if req.Pool != controlPool {
		return req.Action, nil
	}
	switch req.Action {
	case "restart", "drain", "health", "cache_clear": // of the one pool that they name; others are about the whole server, whatever they name
		pool, err := ipc.PoolNamed(req.Body)
		if err != nil {
			return "", ipc.AsError(err)
		}
		if pool != "" {
			return req.Action + ":" + pool, nil
		}
	}
	return req.Action, nil
}

// free reports whether an action is anybody's who is known: it tells only what concerns oneself.
func free(pool, action string) bool {
	return pool == controlPool && (action == "whoami" || action == "pools")
}

// may reports whether the identity may do something, limits aside.
func (id *identity) may(pool, action string) bool {
	if id.all {
		return true
	}
	for i := range id.held {
		if id.held[i].role.allows(pool, action) != nil {
			return true
		}
	}
	return false
}

// sees reports whether there may be something that the identity may do in a pool.
func (id *identity) sees(pool string) bool {
	if id.all {
		return true
	}
	for i := range id.held {
		for j := range id.held[i].role.rules {
			if id.held[i].role.rules[j].pools.match(pool) {
				return true
			}
		}
	}
	return false
}

// admit decides about a request: nil limits and no error let it go without more ado, limits are to be left when it has ended. It is refused for want of room only if every role that allows it has none.
func (id *identity) admit(req *ipc.Request, now time.Time) (*limits, *ipc.Error) {
	if id.all || free(req.Pool, req.Action) && id.known() {
		return nil, nil
	}
	action, e := asked(req)
	if e != nil {
		return nil, e
	}
	var full *held
	var least refusal
	for i := range id.held {
		h := &id.held[i]
		rule := h.role.allows(req.Pool, action)
		if rule == nil {
			continue
		}
		r := h.limits.take(h.role, rule.weight, req, now)
		if r.limit == "" {
			if h.role.InFlight > 0 {
				return h.limits, nil
			}
			return nil, nil
		}
		if full == nil || r.wait < least.wait {
			full, least = h, r
		}
	}
	if full != nil {
		return nil, id.rateLimited(full, least)
	}
	return nil, id.denied(req.Pool, action)
}
