package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
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
	caller *ipc.Caller

	mu      sync.Mutex
	open    int  // guarded by mu: calls the server has not finished with
	drained bool // guarded by mu: the server is about to go; hang up after the last call
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
	ring, err := hello(sock, c.ring)
	var refused *ipc.Error
	switch ended := !interrupt(); {
	case errors.As(err, &refused):
		err = refused
	case ended:
		err = ipc.AsError(context.Cause(ctx))
	case err != nil:
		err = ipc.Errorf(ipc.Unavailable, "connection_lost", "the server at %s hung up before its hello: %v", c.path, err)
	}
	conn := &conn{client: c, over: sock, ring: ring}
	if ring != nil {
		conn.over = ring
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
func hello(sock *ipc.Socket, ring uint64) (*ipc.Ring, error) {
	if ring == 0 {
		_, err := ipc.ClientHello(sock, version.SDK())
		return nil, err
	}
	_, r, err := ipc.ClientHelloRing(sock, version.SDK(), ring)
	return r, err
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

// start sends a request. sent is false if the connection is unusable and nothing went out.
func (c *conn) start(req *ipc.Request) (call *ipc.Call, sent bool, err error) {
	c.mu.Lock()
	c.open++
	c.mu.Unlock()
	call, err = c.caller.Start(req, func(*ipc.Error) { c.ended() })
	if err == nil {
		return call, true, nil
	}
	c.ended()
	var e *ipc.Error
	if errors.As(err, &e) && e.Reason == "too_large" {
		return nil, true, err
	}
	return nil, false, fmt.Errorf("send: %w", err)
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
