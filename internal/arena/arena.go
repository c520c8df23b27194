// Package arena keeps what a server has lent to its clients of shared memory for large tensors: whose it is, how much there may be, and who still uses it. It neither maps the memory nor sends it to anybody.
//
//	Store ── Client ──── Set ────────── Region ◀──── Use
//	 all     a process   a connection   one memfd    one request
//
// A region lives as long as its set names it or a request uses it. A request uses what it names from its arrival until its requester has the answer and no worker has it any more, whichever comes last. When a
// region ends, the workers that have it attached are told (its [Holder]s), and its memfd is closed. Its bytes are given back to the store at once if its client has given it up, and else when nobody has the memory any more (remains.go).
package arena

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/ringmasterd/ringmaster/shm"
)

// ErrNothing is what an arena of no bytes is refused with.
var ErrNothing = errors.New("an arena of 0 bytes is none; ask for 1 or more")

// QuotaError says that there is no room for an arena.
type QuotaError struct {
	Asked uint64
	Limit string // which one was met
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("there is no room for an arena of %d bytes: %s", e.Asked, e.Limit)
}

// Limits are how much there may be.
type Limits struct {
	Client  int64 // bytes of one process's regions; 0: there are no arenas
	Total   int64 // bytes of all regions
	Regions int   // of one process
	Files   int   // regions of all: each takes a descriptor
}

// Usage is how much there is.
type Usage struct {
	Regions int   `json:"regions" msgpack:"regions"`
	Bytes   int64 `json:"bytes" msgpack:"bytes"`
	Limit   int64 `json:"limit" msgpack:"limit"`
}

// Store is a server's. Its regions' numbers are never used again.
type Store struct {
	limits Limits // immutable

	mu      sync.Mutex
	last    uint64         // guarded by mu: number of the region made last
	used    Usage          // guarded by mu
	clients map[ID]*Client // guarded by mu; those that have regions
	left    leftovers
}

// New makes a store that has lent nothing.
func New(l Limits) *Store {
	return &Store{limits: l, used: Usage{Limit: l.Total}, clients: map[ID]*Client{}}
}

// Most is how many bytes one client may have; 0: none.
func (s *Store) Most() int64 { return s.limits.Client }

// Usage returns how much is lent now.
func (s *Store) Usage() Usage {
	s.left.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// ID tells processes apart.
type ID struct {
	UID uint32
	PID int32
}

// Client is a process that asks.
type Client struct {
	store   *Store
	id      ID
	bytes   int64 // guarded by store.mu
	regions int   // guarded by store.mu
}

// Client returns a process, with what it still has of connections that have ended.
//
// Preconditions: nobody else uses one of the same process that has no regions.
func (s *Store) Client(id ID) *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[id]; c != nil {
		return c
	}
	return &Client{store: s, id: id}
}

// take takes the room for a region of size bytes, and returns its number.
func (c *Client) take(size uint64) (uint64, *QuotaError) {
	id, refused := c.try(size)
	if refused != nil && c.store.left.look() { // something has come back
		return c.try(size)
	}
	return id, refused
}

func (c *Client) try(size uint64) (uint64, *QuotaError) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	full := func(format string, args ...any) (uint64, *QuotaError) {
		return 0, &QuotaError{size, fmt.Sprintf(format, args...)}
	}
	l := s.limits
	switch {
	case l.Client == 0:
		return full("this server has none (`arenas: {client: 0}`); send tensors in the message")
	case size > uint64(l.Client-c.bytes):
		return full("this process has %d of the %d bytes it may have (`arenas.client`)", c.bytes, l.Client)
	case size > uint64(l.Total-s.used.Bytes):
		return full("%d of the %d bytes for all processes are taken (`arenas.total`)", s.used.Bytes, l.Total)
	case c.regions >= l.Regions:
		return full("this process has %d arenas, the most one may have; make larger ones", c.regions)
	case s.used.Regions >= l.Files:
		return full("%d arenas are open, the most this server has descriptors for", s.used.Regions)
	}
	c.bytes += int64(size)
	c.regions++
	s.clients[c.id] = c
	s.used.Bytes += int64(size)
	s.used.Regions++
	s.last++
	return s.last, nil
}

// give ends what take began.
func (c *Client) give(size uint64) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.bytes -= int64(size)
	if c.regions--; c.regions == 0 {
		delete(s.clients, c.id)
	}
	s.used.Bytes -= int64(size)
	s.used.Regions--
}

// Set is the regions that the requests of one connection may name.
type Set struct {
	client *Client // immutable

	mu      sync.Mutex
	regions map[uint64]*Region // guarded by mu
}

// Set makes an empty set.
func (c *Client) Set() *Set { return &Set{client: c, regions: map[uint64]*Region{}} }

// Make makes a region of at least so many bytes. The error is [ErrNothing], a [*QuotaError], or the kernel's.
func (s *Set) Make(bytes uint64) (*Region, error) {
	if bytes == 0 {
		return nil, ErrNothing
	}
	size, ok := shm.ArenaBytes(bytes)
	if !ok {
		return nil, &QuotaError{bytes, "no machine has so much"}
	}
	id, refused := s.client.take(size)
	if refused != nil {
		return nil, refused
	}
	file, err := shm.CreateArena(size)
	if err != nil {
		s.client.give(size)
		return nil, err
	}
	r := &Region{ID: id, Bytes: size, File: file, client: s.client, refs: 1, holders: map[Holder]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regions[id] = r
	return r, nil
}

// Detach takes a region out of the set: its client will not name it again. One that is not there is ignored.
func (s *Set) Detach(id uint64) {
	s.mu.Lock()
	r := s.regions[id]
	delete(s.regions, id)
	s.mu.Unlock()
	if r != nil {
		r.release(true)
	}
}

// Close takes every region out of the set: the connection is gone, though perhaps not the client, which may still look at what it has.
func (s *Set) Close() {
	s.mu.Lock()
	all := s.regions
	s.regions = map[uint64]*Region{}
	s.mu.Unlock()
	for _, r := range all {
		r.release(false)
	}
}

// Holder is somebody who has to know of a region's end, because he has told a worker of it.
type Holder interface {
	// Detach is called once, when the region ends. It must not block, and not call Forget.
	Detach(region uint64)
}

// Region is one arena.
type Region struct {
	ID    uint64   // immutable
	Bytes uint64   // immutable
	File  *os.File // immutable: the memfd, open while the region is held

	client *Client // immutable

	mu      sync.Mutex
	refs    int                 // guarded by mu: its set, and requests that use it
	givenUp bool                // guarded by mu: its client has given it up, and looks at it no more
	holders map[Holder]struct{} // guarded by mu
}

// Attach has h told of the region's end, until it says Forget. Preconditions: the region is held by a use.
func (r *Region) Attach(h Holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holders[h] = struct{}{}
}

// Forget ends what Attach began.
func (r *Region) Forget(h Holder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.holders, h)
}

// hold adds a reference. Preconditions: there is one, so that it stays.
func (r *Region) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refs++
}

// release drops a reference; the last one ends the region. givenUp says that its client looks at it no more.
func (r *Region) release(givenUp bool) {
	r.mu.Lock()
	r.refs--
	r.givenUp = r.givenUp || givenUp
	last, empty, holders := r.refs == 0, r.givenUp, r.holders
	if last {
		r.holders = nil // a Forget that comes now has nothing to do
	}
	r.mu.Unlock()
	if !last {
		return
	}
	for h := range holders {
		h.Detach(r.ID)
	}
	if !empty {
		r.leave()
		return
	}
	// Who has a descriptor of it, or a mapping that he keeps, would otherwise hold memory that nobody counts.
	_ = shm.EmptyArena(r.File, r.Bytes)
	r.client.give(r.Bytes)
}
