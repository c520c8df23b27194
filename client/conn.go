package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

const (
	helloTimeout = 10 * time.Second
	writeTimeout = 30 * time.Second // a server that takes no request for so long is lost
	busyPause    = 5 * time.Millisecond
)

// conn is one connection's life: dialled, used by calls, drained or lost. [Client.connected] starts run; run ends when the connection does.
type conn struct {
	client *Client
	over   ipc.Transport // immutable: the ring, or the socket if the server gave none
	ring   *ipc.Ring     // immutable; nil: none
	lends  bool          // immutable: the server gives arenas
	caller *ipc.Caller

	opening chan struct{} // capacity 1: held by whoever opens an arena by itself
	known   atomic.Bool   // the server has seen the token

	mu      sync.Mutex
	open    int  // guarded by mu: calls the server has not finished with
	drained bool // guarded by mu: the server is about to go; hang up after the last call

	arenas []*Arena // guarded by mu: those that can be named, and have room for the client's own use
	own    []*Arena // guarded by mu: of them, those that the client opened by itself
	dead   bool     // guarded by mu: nothing can be named any more

	refused time.Time // guarded by opening: when the server last had no arena to give
}

// dial connects and exchanges hellos.
func dial(ctx context.Context, c *Client) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout,
		ipc.Errorf(ipc.DeadlineExceeded, "deadline", "the server at %s did not say hello within %v", c.path, helloTimeout))
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	defer context.AfterFunc(c.ctx, func() { abort(errClosed) })()

	raw, err := connect(ctx, c.network, c.path)
	if err != nil {
		return nil, err
	}
	sock := ipc.NewSocket(raw, ipc.DefaultMaxMessage, writeTimeout)
	interrupt := context.AfterFunc(ctx, func() { _ = raw.SetReadDeadline(time.Unix(1, 0)) })
	said, ring, err := hello(sock, c.ring)
	var refused *ipc.Error
	switch ended := !interrupt(); {
	case errors.As(err, &refused):
		err = refused
	case ended:
		err = ipc.AsError(context.Cause(ctx))
	case err != nil:
		err = ipc.Errorf(ipc.Unavailable, "connection_lost", "the server at %s hung up before its hello: %v", c.path, err)
	}
	conn := &conn{client: c, over: sock, ring: ring, opening: make(chan struct{}, 1)}
	if ring != nil {
		conn.over, conn.lends = ring, said.Arena > 0
	}
	if err != nil {
		conn.hangUp()
		conn.free()
		return nil, err
	}
	conn.caller = ipc.NewCaller(conn.over, ipc.Events{Drain: conn.drain})
	return conn, nil
}

// hello exchanges hellos, and asks for rings unless their size is 0.
func hello(sock *ipc.Socket, ring uint64) (*ipc.Hello, *ipc.Ring, error) {
	if ring == 0 {
		said, err := ipc.ClientHello(sock, version.SDK())
		return said, nil, err
	}
	return ipc.ClientHelloRing(sock, version.SDK(), ring)
}

// connect reaches the socket. A server whose backlog is full is tried again until ctx ends.
func connect(ctx context.Context, network, path string) (net.Conn, error) {
	var d net.Dialer
	for {
		raw, err := d.DialContext(ctx, network, path)
		switch {
		case err == nil:
			return raw, nil
		case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded): // the dialer's clock may be ahead of ctx's
			<-ctx.Done()
			return nil, ipc.AsError(context.Cause(ctx))
		case errors.Is(err, unix.ENOENT):
			return nil, ipc.Errorf(ipc.Unavailable, "no_server", "there is no socket at %s; is `ringmaster serve` running?", path)
		case errors.Is(err, unix.ECONNREFUSED):
			return nil, ipc.Errorf(ipc.Unavailable, "no_server", "nobody serves %s; is `ringmaster serve` running?", path)
		case errors.Is(err, unix.EACCES):
			return nil, ipc.Errorf(ipc.PermissionDenied, "peer", "no permission to use the socket at %s; join its group, or run as its owner", path)
		case !errors.Is(err, unix.EAGAIN):
			return nil, ipc.Errorf(ipc.Unavailable, "no_server", "connect to %s: %v", path, err)
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
		}
	}
}

// run receives until the connection ends and then ends the calls that are still open.
func (c *conn) run() {
	err := c.caller.Run()
	c.hangUp()
	c.client.forget(c)
	end := c.lost(err)
	c.caller.Close(end, func(uint64) *ipc.Error { return end })
	c.endArenas()
	c.free() // nobody sends any more
}

// lost says why open calls end.
func (c *conn) lost(err error) *ipc.Error {
	var said *ipc.Error
	switch {
	case c.client.isClosed():
		return errClosed
	case errors.As(err, &said): // the server's last word, or its breach of the protocol
		return said
	case errors.Is(err, io.EOF):
		err = errors.New("it hung up")
	}
	return ipc.Errorf(ipc.Unavailable, "connection_lost", "the connection to the server at %s is gone (%v); the request may have run", c.client.path, err)
}

// unsent says why a call could not even begin.
func (c *conn) unsent(err error) *ipc.Error {
	if c.client.isClosed() {
		return errClosed
	}
	return ipc.Errorf(ipc.Unavailable, "connection_lost", "the server at %s hangs up before it takes the request (%v); try again", c.client.path, err)
}

// start sends a request, which names arenas unless it is to go inline. sent is false if the connection is unusable and nothing went out.
func (c *conn) start(req *ipc.Request, inline bool) (call *ipc.Call, named, sent bool, err error) {
	c.mu.Lock()
	c.open++
	c.mu.Unlock()
	s, out := sendings.Get().(*sending), *req
	s.conn = c
	if inline {
		out.Outputs = nil
	} else {
		s.place(&out)
	}
	call, err = c.caller.StartContext(context.Background(), &out, s, &s.call)
	if err == nil {
		return call, len(s.uses) > 0, true, nil
	}
	s.Ended(nil)
	var e *ipc.Error
	if errors.As(err, &e) && e.Reason == "too_large" {
		return nil, false, true, err
	}
	return nil, false, false, fmt.Errorf("send: %w", err)
}

func (c *conn) ended() {
	c.mu.Lock()
	c.open--
	last := c.drained && c.open == 0
	c.mu.Unlock()
	if last {
		c.hangUp()
	}
}

// drain lets open calls end and sends new ones elsewhere.
func (c *conn) drain() {
	c.client.retire(c)
	c.mu.Lock()
	c.drained = true
	idle := c.open == 0
	c.mu.Unlock()
	if idle {
		c.hangUp()
	}
}

func (c *conn) hangUp() { _ = c.over.Close() }

// free unmaps the rings. Preconditions: hung up, and nobody sends or receives.
func (c *conn) free() {
	if c.ring != nil {
		_ = c.ring.Free() // fails only if it was not mapped
	}
}

// openArena asks the server for an arena.
func (c *conn) openArena(ctx context.Context, bytes uint64) (*Arena, error) {
	if !c.lends {
		return nil, ipc.Errorf(ipc.Unimplemented, "arena", "the server gives this connection no arenas: it is an older one, says `arenas: {client: 0}`, or had no rings to give; send tensors as they are")
	}
	region, size, file, err := c.caller.Attach(ctx, bytes)
	if err != nil {
		return nil, ipc.AsError(err)
	}
	memory, err := shm.OpenArena(int(file.Fd()), size)
	_ = file.Close()
	if err != nil {
		c.caller.Detach(region)
		return nil, ipc.Errorf(ipc.Unavailable, "arena", "the arena cannot be used: %v", err)
	}
	a := &Arena{conn: c, region: region, memory: memory, ranges: newRanges(size)}
	c.client.mu.Lock()
	if c.client.closed {
		c.client.mu.Unlock()
		_ = memory.Close()
		return nil, errClosed
	}
	c.client.arenas[a] = true
	c.client.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		a.lost = true
	} else {
		c.arenas = append(c.arenas, a)
	}
	return a, nil
}

const (
	leastArena  = 2 << 20         // bytes
	arenaAhead  = 4               // times what is needed, that a new arena has
	refusedFor  = 5 * time.Second // for so long a server that had no arena to give is not asked again
	ownArenas   = 64 << 20        // bytes that a connection's own arenas may have in all, unless WithArena says otherwise
	maxOwnParts = 8               // arenas of its own
)

// readyArena opens an arena of the client's own if the request has large tensors for which there is no room. What comes of it shows where the request is placed.
func (c *conn) readyArena(ctx context.Context, req *ipc.Request) {
	if c.client.arena == 0 || !c.lends || c.arenaFor(req) == 0 {
		return
	}
	select {
	case c.opening <- struct{}{}:
		defer func() { <-c.opening }()
	case <-ctx.Done():
		return
	}
	bytes := c.arenaFor(req) // another may have been here meanwhile
	if bytes == 0 || time.Since(c.refused) < refusedFor {
		return
	}
	a, err := c.openArena(ctx, bytes)
	if err != nil {
		if ctx.Err() == nil {
			c.refused = time.Now()
		}
		return
	}
	c.mu.Lock()
	c.own = append(c.own, a)
	dead := c.dead
	c.mu.Unlock()
	if dead {
		_ = a.Close()
	}
}

// arenaFor is how large an arena of the client's own should be, in bytes, for the request's large tensors to have room; 0: none is needed, or no more are to be had.
func (c *conn) arenaFor(req *ipc.Request) uint64 {
	need, largest := c.homeless(req)
	if need == 0 {
		return 0
	}
	c.mu.Lock()
	own := slices.Clone(c.own)
	c.mu.Unlock()
	taken := uint64(0)
	for _, a := range own {
		if a.fits(need) {
			return 0
		}
		taken += uint64(a.Size())
	}
	left := c.client.arena - min(taken, c.client.arena) // the server rounds up
	if left < largest || len(own) == maxOwnParts {
		return 0
	}
	return min(left, max(leastArena, arenaAhead*need, taken))
}

// homeless is how many bytes of an arena the request's large tensors take that lie in none, and the largest of them.
func (c *conn) homeless(req *ipc.Request) (need, largest uint64) {
	if !large(req) {
		return 0, 0
	}
	arenas := c.openArenas()
	for i := range req.Tensors {
		data := req.Tensors[i].Data
		if len(data) >= arenaThreshold && !slices.ContainsFunc(arenas, func(a *Arena) bool { return a.holds(data) }) {
			bytes := (uint64(len(data)) + rangeAlign - 1) &^ (rangeAlign - 1)
			need, largest = need+bytes, max(largest, bytes)
		}
	}
	return need, largest
}

// openArenas returns the arenas that a request may name.
func (c *conn) openArenas() []*Arena {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.arenas)
}

// dropArena forgets an arena that is being closed.
func (c *conn) dropArena(a *Arena) {
	c.client.mu.Lock()
	delete(c.client.arenas, a)
	c.client.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arenas = slices.DeleteFunc(c.arenas, func(other *Arena) bool { return other == a })
}

// endArenas says that nothing can be named any more, and closes what nobody else has. Preconditions: every call has ended.
func (c *conn) endArenas() {
	c.mu.Lock()
	arenas, own := c.arenas, c.own
	c.arenas, c.own, c.dead = nil, nil, true
	c.mu.Unlock()
	for _, a := range arenas {
		a.end()
	}
	for _, a := range own {
		_ = a.Close()
	}
}
