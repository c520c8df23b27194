package auth

import (
	"fmt"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
)

// Verdict says whether a request would be let through, limits aside, and why.
type Verdict struct {
	Allowed bool   `json:"allowed"`
	Who     string `json:"who"`
	Pool    string `json:"pool"`
	Action  string `json:"action"`
	Why     string `json:"why"`
	Roles   []Held `json:"roles"` // that it has
	By      *Held  `json:"by"`    // the first one that allows it; nil: none, or none is needed
}

// ExplainPeer says whether a process of this machine may ask for an action of a pool.
func (a *Auth) ExplainPeer(peer chain.Peer, pool, action string) Verdict {
	p := a.policy.Load()
	id := a.identity(p, &peer)
	switch {
	case id.all && p.open:
		return id.verdict(pool, action, true, "without `auth:` root, the server's own user and the members of the socket's group may do everything")
	case id.all:
		return id.verdict(pool, action, true, "root and the server's own user may do everything; `owner: false` under `auth` would change that")
	case p.open:
		return id.verdict(pool, action, false, "without `auth:` only root, the server's own user and the members of the socket's group may do anything")
	}
	return id.explain(pool, action)
}

// ExplainToken says whether the bearer of a token may. false: there is no such token.
func (a *Auth) ExplainToken(name, pool, action string) (Verdict, bool) {
	for _, list := range a.policy.Load().tokens {
		for _, t := range list {
			switch {
			case t.name != name:
			case t.expired(time.Now()):
				return t.verdict(pool, action, false, "the token has expired, at "+t.expires.Format(time.RFC3339)), true
			default:
				return t.explain(pool, action), true
			}
		}
	}
	return Verdict{}, false
}

func (id *identity) verdict(pool, action string, allowed bool, why string) Verdict {
	return Verdict{Allowed: allowed, Who: id.who, Pool: pool, Action: action, Why: why, Roles: id.told()}
}

func (id *identity) explain(pool, action string) Verdict {
	switch {
	case !id.known():
		return id.verdict(pool, action, false, "it has no role; `auth.users`, `auth.groups` or `auth.cgroups` would give it one")
	case free(pool, action):
		return id.verdict(pool, action, true, "who has any role may ask for that: it tells only what concerns themselves")
	}
	for _, h := range id.held {
		if h.role.allows(pool, action) != nil {
			v := id.verdict(pool, action, true, fmt.Sprintf("role %s allows it, which %s gives", h.role.name, h.from))
			by := h.told()
			v.By = &by
			return v
		}
	}
	return id.verdict(pool, action, false, fmt.Sprintf("of its roles (%s) none allows that; an `allow` of one of them under `auth.roles` would, or another role", id.roleNames()))
}
