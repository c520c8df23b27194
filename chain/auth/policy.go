package auth

import (
	"fmt"
	"maps"
	"math"
	"os/user"
	"slices"
	"strconv"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// host is what a configuration's names are looked up in.
type host struct {
	user, group func(name string) (id string, err error)
}

var thisHost = host{
	user: func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	},
	group: func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	},
}

// policy is a configuration that can be asked. It is immutable.
type policy struct {
	cfg       Config
	open      bool // there is no configuration
	owner     bool // the owner and root may do everything
	roles     map[string]*role
	users     map[uint32][]grant
	names     map[uint32]string // of users, as the configuration has them
	everybody []grant
	groups    map[uint32][]grant
	cgroups   []cgroup
	tokens    map[uint64][]*token // by the beginning of their hashes
	timed     bool                // what may be done depends on when it is
}

// grant is a role, and the key that gives it.
type grant struct {
	role *role
	from string // such as auth.users.alice
}

// cgroup are the roles of a control group.
type cgroup struct {
	key    string
	grants []grant
}

// token is a bearer's.
type token struct {
	hash    digest
	name    string
	expires time.Time // zero: never
	identity
}

// identity is who asks, by one policy. It is immutable, but for what its limits count.
type identity struct {
	policy *policy
	who    string // as messages have it
	name   string // the same for ever
	token  string // its name, if it is a token's
	all    bool   // it may do everything
	held   []held
	client ipc.Client // who a token is to the queue, where the kernel names nobody
}

// held is a role that an identity has.
type held struct {
	grant
	limits *limits
}

// known reports whether there is anything that the identity may do.
func (id *identity) known() bool { return id.all || len(id.held) > 0 }

// compile makes a policy of a configuration, whose names are looked up now. An error is a [*FieldError].
func compile(cfg *Config, h host, counts *counts) (*policy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &policy{cfg: *cfg, open: !cfg.Given, owner: !cfg.NoOwner, users: map[uint32][]grant{}, names: map[uint32]string{}, groups: map[uint32][]grant{}, roles: map[string]*role{}, tokens: map[uint64][]*token{}}
	for name, r := range cfg.Roles {
		p.roles[name] = newRole(name, r)
		p.timed = p.timed || r.Rate > 0 || r.Cost > 0
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Users)) {
		grants := p.grants("auth.users."+name, cfg.Users[name])
		if name == "*" {
			p.everybody = grants
			continue
		}
		uid, err := number(name, h.user)
		if err != nil {
			return nil, &FieldError{"auth.users." + name, name, "there is no such user here; create it, or give a number"}
		}
		p.users[uid] = append(p.users[uid], grants...)
		if name != strconv.FormatUint(uint64(uid), 10) {
			p.names[uid] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Groups)) {
		gid, err := number(name, h.group)
		if err != nil {
			return nil, &FieldError{"auth.groups." + name, name, "there is no such group here; create it, or give a number"}
		}
		p.groups[gid] = append(p.groups[gid], p.grants("auth.groups."+name, cfg.Groups[name])...)
	}
	for _, key := range slices.Sorted(maps.Keys(cfg.CGroups)) {
		p.cgroups = append(p.cgroups, cgroup{key, p.grants("auth.cgroups."+key, cfg.CGroups[key])})
	}
	for i, name := range slices.Sorted(maps.Keys(cfg.Tokens)) {
		t := p.newToken(name, cfg.Tokens[name], counts)
		t.client = ipc.Client{UID: chain.NoID, PID: int32(-1 - i)}
		p.timed = p.timed || !t.expires.IsZero()
		p.tokens[t.hash.key()] = append(p.tokens[t.hash.key()], t)
	}
	return p, nil
}

func (p *policy) grants(from string, roles []string) []grant {
	list := make([]grant, len(roles))
	for i, name := range roles {
		list[i] = grant{p.roles[name], from}
	}
	return list
}

func (p *policy) newToken(name string, cfg Token, counts *counts) *token {
	t := &token{name: name, expires: cfg.Expires, identity: identity{policy: p, who: "token " + name, name: "token " + name, token: name}}
	t.hash, _ = parseHash(cfg.Hash) // Validate has seen it
	t.hold(p.grants("auth.tokens."+name, cfg.Roles), t.who, counts)
	return t
}

// number is an id, or the one of a name.
func number(name string, lookup func(string) (string, error)) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil && n < math.MaxUint32 {
		return uint32(n), nil
	}
	id, err := lookup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(id, 10, 32)
	return uint32(n), err
}

// identify finds out who a process of this machine is.
func (p *policy) identify(peer chain.Peer, counts *counts) *identity {
	subject := fmt.Sprintf("user %d", peer.UID) // also after a reload by which it has a name
	id := &identity{policy: p, who: subject, name: subject}
	if name := p.names[peer.UID]; name != "" {
		id.who += " (" + name + ")"
	}
	switch {
	case peer.Standing == chain.Remote:
		id.who = "a client at " + peer.Address
		return id
	case peer.Standing == chain.Self:
		id.who, id.all = "this server itself", true
	case p.open:
		id.all = peer.Standing >= chain.Member
	case p.owner:
		id.all = peer.Standing == chain.Owner
	}
	id.hold(p.users[peer.UID], subject, counts)
	id.hold(p.everybody, subject, counts)
	for _, gid := range slices.Sorted(maps.Keys(p.groups)) {
		if gid == peer.GID || slices.Contains(peer.Groups, gid) {
			id.hold(p.groups[gid], subject, counts)
		}
	}
	for _, c := range p.cgroups {
		if group, ok := under(c.key, peer.CGroup); ok {
			id.who += " in " + group
			id.hold(c.grants, group, counts)
		}
	}
	return id
}

// hold gives the identity roles that it does not have yet. Their limits are the subject's.
func (id *identity) hold(grants []grant, subject string, counts *counts) {
	for _, g := range grants {
		if !slices.ContainsFunc(id.held, func(h held) bool { return h.role == g.role }) {
			id.held = append(id.held, held{g, counts.of(subject, g.role)})
		}
	}
}

// find returns the token with this text, nil if there is none.
func (p *policy) find(text string) *token {
	hash := hashOf(text)
	for _, t := range p.tokens[hash.key()] {
		if t.hash.equal(&hash) {
			return t
		}
	}
	return nil
}

func (t *token) expired(now time.Time) bool { return !t.expires.IsZero() && !now.Before(t.expires) }
