package client

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/ringmasterd/ringmaster/internal/address"
	"github.com/ringmasterd/ringmaster/ipc"
)

// Client calls a server. It is safe for use by any number of goroutines.
type Client struct {
	network, path string             // immutable
	token         string             // immutable: goes with each request; "": none
	ring          uint64             // immutable: bytes of each ring to ask for; 0: none
	arena         uint64             // immutable: bytes of the arena that a connection asks for when it has a large tensor; 0: none
	ctx           context.Context    // immutable; ends with Close
	cancel        context.CancelFunc // immutable

	dialing chan struct{}  // capacity 1: held by whoever connects
	runs    sync.WaitGroup // conn.run; added to under mu while not closed

	mu     sync.Mutex
	conn   *conn              // guarded by mu; the one that new calls use; nil: the next call connects
	conns  map[*conn]struct{} // guarded by mu; all that live
	arenas map[*Arena]bool    // guarded by mu; all that are mapped
	inline map[string]bool    // guarded by mu; pools whose workers cannot do arenas
	closed bool               // guarded by mu
}

var errClosed = ipc.Errorf(ipc.Cancelled, "client_closed", "the client was closed")

// Dial connects to the server. Without [WithAddress] it is the one at $RINGMASTER_SOCKET, $RUNTIME_DIRECTORY/ringmaster.sock, $XDG_RUNTIME_DIR/ringmaster/ringmaster.sock or
// /run/ringmaster/ringmaster.sock, whichever is set first; without [WithToken] the token is $RINGMASTER_TOKEN, if that is set. ctx limits the connecting only.
func Dial(ctx context.Context, opts ...DialOption) (*Client, error) {
	cfg := dialConfig{ring: ringCapacity, arena: ownArenas, token: os.Getenv("RINGMASTER_TOKEN")}
	for _, o := range opts {
		o(&cfg)
	}
	network, path, err := address.ForClient(cfg.address)
	if err != nil {
		return nil, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "%v", err)
	}
	c := &Client{network: network, path: path, token: cfg.token, ring: cfg.ring, arena: cfg.arena, dialing: make(chan struct{}, 1), conns: map[*conn]struct{}{}, arenas: map[*Arena]bool{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if _, err := c.connected(ctx); err != nil {
		c.cancel()
		return nil, err
	}
	return c, nil
}

// Close ends every open call with CANCELLED/client_closed and hangs up. It returns when all goroutines of the client have ended, and unmaps its arenas: nobody may use their tensors' bytes any more.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	for conn := range c.conns {
		conn.hangUp()
	}
	c.mu.Unlock()
	c.cancel()
	c.runs.Wait()
	return c.unmapArenas()
}

// unmapArenas closes what is still open of arenas. Preconditions: there is no connection any more.
func (c *Client) unmapArenas() error {
	c.mu.Lock()
	arenas := slices.Collect(maps.Keys(c.arenas))
	c.mu.Unlock()
	var errs []error
	for _, a := range arenas {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}

// connected returns the connection that new calls use, after connecting if there is none. One goroutine connects at a time; the others wait for it.
func (c *Client) connected(ctx context.Context) (*conn, error) {
	if conn, err := c.current(); conn != nil || err != nil {
		return conn, err
	}
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, ipc.AsError(context.Cause(ctx))
	case <-c.ctx.Done():
		return nil, errClosed
	}
	if conn, err := c.current(); conn != nil || err != nil {
		return conn, err
	}
	conn, err := dial(ctx, c)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.hangUp()
		conn.free()
		return nil, errClosed
	}
	c.conn = conn
	c.conns[conn] = struct{}{}
	c.runs.Go(conn.run)
	return conn, nil
}

func (c *Client) current() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	return c.conn, nil
}

// retire makes the next call connect anew.
func (c *Client) retire(old *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == old {
		c.conn = nil
	}
}

func (c *Client) forget(old *conn) {
	c.retire(old)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, old)
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
