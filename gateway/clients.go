package gateway

import (
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/internal/budget"
	"github.com/ringmasterd/ringmaster/ipc"
)

// connectPause is after how long it makes sense to connect again where a connection was lacking.
const connectPause = time.Second

// clients knows who is connected, and keeps each client to its limits: whatever one opens, others find room.
//
// A client is a process, by the pid that the kernel recorded when it connected. A child that inherits a connection counts as its parent, as it should: it asks in its name. A pid that is used again while a
// connection of its former bearer lives on, in such a child, makes two processes one client; they share limits, nothing else. By TCP, where nobody knows the process, it is an address.
type clients struct {
	limits  Limits // immutable
	most    int    // immutable: connections of all
	spared  int    // immutable: of those, how many are kept for root and the server's own user
	own     uint32 // immutable: the server's own user
	memory  *budget.Budget
	lent    *arena.Store
	mu      sync.Mutex
	open    int                    // guarded by mu: connections of all
	rings   int64                  // guarded by mu: bytes of all connections' rings
	unnamed int32                  // guarded by mu: how many connections there have been whose process the kernel could not name
	byID    map[ipc.Client]*client // guarded by mu
	byUID   map[uint32]*owner      // guarded by mu
}

// client is a process with at least one connection.
type client struct {
	id          ipc.Client // immutable
	owner       *owner     // immutable
	account     *budget.Account
	arenas      *arena.Client
	connections int // guarded by clients.mu
}

// owner is a user with at least one connection.
type owner struct {
	account     *budget.User
	connections int // guarded by clients.mu
}

func newClients(cfg Config, own uint32) *clients {
	return &clients{
		limits: cfg.Clients, most: cfg.MaxConnections, spared: min(16, cfg.MaxConnections/16), own: own,
		memory: budget.New(cfg.Memory), lent: cfg.Lent, byID: map[ipc.Client]*client{}, byUID: map[uint32]*owner{},
	}
}

// enter counts a connection, or says why there is none to be had.
func (cs *clients) enter(p chain.Peer) (*client, *ipc.Error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	id := ipc.Client{UID: p.UID, PID: p.PID}
	if p.Address != "" {
		id.PID = addressID(p.Address)
	} else if id.PID <= 0 {
		cs.unnamed--
		if cs.unnamed > 0 { // it went round
			cs.unnamed = -1
		}
		id.PID = cs.unnamed
	}
	c, u := cs.byID[id], cs.byUID[id.UID]
	now := census{open: cs.open, most: cs.most, spared: cs.spared, limit: cs.limits.Connections, trusted: id.UID == 0 || id.UID == cs.own}
	if c != nil {
		now.client = c.connections
	}
	if u != nil {
		now.user = u.connections
	}
	if refusal := now.refusal(); refusal != nil {
		return nil, refusal
	}
	if u == nil {
		u = &owner{account: cs.memory.User()}
		cs.byUID[id.UID] = u
	}
	if c == nil {
		c = &client{id: id, owner: u, account: u.account.Account(cs.limits.InFlight), arenas: cs.lent.Client(arena.ID(id))}
		cs.byID[id] = c
	}
	cs.open++
	u.connections++
	c.connections++
	return c, nil
}

// addressID stands for a client's address where a process has its pid: the last bytes of it, and no pid.
func addressID(address string) int32 {
	from, err := netip.ParseAddrPort(address)
	if err != nil {
		return math.MinInt32
	}
	b, six := from.Addr().Unmap().As16(), int32(0)
	if from.Addr().Unmap().Is6() {
		six = 1 << 24
	}
	return math.MinInt32 | six | int32(b[13])<<16 | int32(b[14])<<8 | int32(b[15])
}

// leave ends what enter counted. Preconditions: no request of the connection is open.
func (cs *clients) leave(c *client) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.open--
	if c.connections--; c.connections == 0 {
		delete(cs.byID, c.id)
	}
	if c.owner.connections--; c.owner.connections == 0 {
		delete(cs.byUID, c.id.UID)
	}
}

// count returns how many connections are open, and of how many processes.
func (cs *clients) count() (connections, processes int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.open, len(cs.byID)
}

// census is who has how many connections when one more is asked for.
type census struct {
	client, user, open int
	most               int  // that may be open
	spared             int  // of those, for trusted ones only
	limit              int  // for one client
	trusted            bool // the user is root or the server's own
}

// refusal is the policy: nil, or why there is no connection to be had. Beside its fixed limit a client may have as many connections as are free, and a user other than the server's own three
// times as many: so there is always one for somebody who has none.
func (n census) refusal() *ipc.Error {
	free := n.most - n.open
	var e *ipc.Error
	switch {
	case n.client >= n.limit:
		e = ipc.Errorf(ipc.ResourceExhausted, "too_many_connections", "this process has %d connections open, the most one may have; share one between its requests, close some, or raise `clients.connections`", n.client)
	case free <= 0, !n.trusted && free <= n.spared:
		e = ipc.Errorf(ipc.ResourceExhausted, "too_many_connections", "%d connections are open, the most this server takes (%d of them are kept for its own user and root); close some, or share one", n.open, n.spared)
	case n.client > free:
		e = ipc.Errorf(ipc.ResourceExhausted, "too_many_connections", "this process has %d connections open and %d are free, which are left to others; close some, or share one", n.client, free)
	case !n.trusted && n.user > 3*free:
		e = ipc.Errorf(ipc.ResourceExhausted, "too_many_connections", "this user has %d connections open and %d are free, which are left to others; close some, or share one", n.user, free)
	default:
		return nil
	}
	e.RetryAfter = connectPause
	return e
}
