package auth

import (
	"context"
	"io"
	"maps"
	"slices"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Who is the answer to the control action whoami: who the server takes somebody for, and what they may do.
type Who struct {
	Identity   string `json:"identity" msgpack:"identity"` // as messages have it
	UID        *int64 `json:"uid" msgpack:"uid"`           // nil: by TCP, nobody knows
	PID        int32  `json:"pid" msgpack:"pid"`
	CGroup     string `json:"cgroup,omitempty" msgpack:"cgroup,omitempty"`
	Token      string `json:"token,omitempty" msgpack:"token,omitempty"`
	Everything bool   `json:"everything" msgpack:"everything"`
	Roles      []Held `json:"roles" msgpack:"roles"`
}

// Held is a role that somebody has.
type Held struct {
	Role     string    `json:"role" msgpack:"role"`
	From     string    `json:"from" msgpack:"from"` // the key that gives it
	Allow    []Allowed `json:"allow" msgpack:"allow"`
	Rate     float64   `json:"rate,omitempty" msgpack:"rate,omitempty"` // requests a second
	Burst    int       `json:"burst,omitempty" msgpack:"burst,omitempty"`
	InFlight int       `json:"in_flight,omitempty" msgpack:"in_flight,omitempty"`
	Cost     int64     `json:"cost,omitempty" msgpack:"cost,omitempty"` // bytes a second
}

// Allowed is a rule of a role.
type Allowed struct {
	Pools   []string `json:"pools" msgpack:"pools"`
	Actions []string `json:"actions" msgpack:"actions"`
	Weight  int      `json:"weight,omitempty" msgpack:"weight,omitempty"`
}

func (h held) told() Held {
	r := h.role
	t := Held{Role: r.name, From: h.from, Rate: r.Rate, InFlight: r.InFlight, Cost: r.Cost, Allow: []Allowed{}}
	if r.Rate > 0 {
		t.Burst = r.burst()
	}
	for _, a := range r.Allow {
		t.Allow = append(t.Allow, Allowed(a))
	}
	return t
}

func (id *identity) told() []Held {
	roles := []Held{}
	for _, h := range id.held {
		roles = append(roles, h.told())
	}
	return roles
}

func (id *identity) roleNames() string {
	names := make([]string, len(id.held))
	for i, h := range id.held {
		names[i] = h.role.name
	}
	return named("", names)[1:]
}

// about answers what is free: whoami here, pools by what the supervisor says, less what is not the asker's.
func (a *Auth) about(ctx context.Context, id *identity, peer chain.Peer, req *ipc.Request, next chain.Handler) (ipc.Replies, error) {
	if req.Action == "pools" {
		replies, err := next(ctx, req)
		if err != nil || id.all {
			return replies, err
		}
		return &theirs{Replies: replies, id: id}, nil
	}
	who := Who{Identity: id.who, PID: peer.PID, CGroup: peer.CGroup, Token: id.token, Everything: id.all, Roles: id.told()}
	if peer.Standing != chain.Remote {
		uid := int64(peer.UID)
		who.UID = &uid
	}
	body, err := ipc.Marshal(who)
	if err != nil {
		return nil, err
	}
	return &answer{body: body}, nil
}

// answer is one reply that is there already.
type answer struct {
	body ipc.Body
	told bool
}

// Recv implements [ipc.Replies].
func (r *answer) Recv(context.Context) (*ipc.Reply, error) {
	if r.told {
		return nil, io.EOF
	}
	r.told = true
	return &ipc.Reply{End: true, Body: r.body}, nil
}

// Cancel implements [ipc.Replies].
func (*answer) Cancel(string) {}

// theirs leaves of a list of pools what its reader may use.
type theirs struct {
	ipc.Replies
	id *identity
}

// Recv implements [ipc.Replies].
func (r *theirs) Recv(ctx context.Context) (*ipc.Reply, error) {
	reply, err := r.Replies.Recv(ctx)
	if err != nil || len(reply.Body) == 0 {
		return reply, err
	}
	var list ipc.PoolList
	if err := reply.Body.Decode(&list); err != nil {
		return nil, err
	}
	list.Pools = slices.DeleteFunc(list.Pools, func(p ipc.PoolEntry) bool { return !r.id.sees(p.Name) })
	for i := range list.Pools {
		p := &list.Pools[i]
		p.Actions = slices.DeleteFunc(p.Actions, func(action string) bool { return !r.id.may(p.Name, action) })
		maps.DeleteFunc(p.Signatures, func(action string, _ ipc.Signature) bool { return !r.id.may(p.Name, action) })
	}
	mine := *reply
	if mine.Body, err = ipc.Marshal(list); err != nil {
		return nil, err
	}
	return &mine, nil
}
