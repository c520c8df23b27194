package gateway

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/internal/version"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// conn is one connection of a client.
//
//	greeting ─hellos──▶ open ──drain──▶ draining ──leave, no request open──▶ closed
//	    └───────────────────┴── hang-up, write timeout, cut off ────────────────▲
type conn struct {
	srv    *server
	raw    stream
	sock   *ipc.Socket
	peer   chain.Peer
	client *client
	sure   bool        // immutable: the peer may ask without a token
	proven atomic.Bool // it may not, and has shown one

	mu       sync.Mutex
	over     ipc.Transport // immutable once greeted: what messages travel over: sock, or a ring that came with the hello
	greeted  bool          // guarded by mu: the hello is answered, other frames may follow
	draining bool          // guarded by mu: the client has been told, or will be once greeted
	gone     bool          // guarded by mu: over is about to be freed
	web      *webConn      // guarded by mu: the connection, if it speaks HTTP

	speaking sync.WaitGroup // drain, while it uses over; added to under mu while not gone
}

// stream is a connection of the kernel's.
type stream interface {
	net.Conn
	syscall.Conn
}

func newConn(srv *server, raw stream, peer chain.Peer, sure bool, client *client) *conn {
	sock := ipc.NewSocket(raw, ipc.MaxHello, srv.cfg.WriteTimeout)
	return &conn{srv: srv, raw: raw, sock: sock, over: sock, peer: peer, sure: sure, client: client}
}

// run serves the client until it is gone, and returns why.
func (c *conn) run() error {
	defer c.close()
	if err := c.raw.SetReadDeadline(time.Now().Add(c.srv.cfg.helloTimeout)); err != nil {
		return err
	}
	if !c.sure {
		defer time.AfterFunc(c.srv.cfg.helloTimeout, c.expel).Stop()
	}
	if overhear(c.raw) == speaksHTTP {
		return c.srv.web.serve(c)
	}
	seg, err := c.greet()
	if err != nil {
		return err
	}
	c.sock.SetReadTimeout(c.srv.cfg.ReadTimeout)
	var arenas *arena.Set
	if seg != nil {
		ring := ipc.ServerRing(seg, c.sock, c.srv.cfg.ReadTimeout, c.srv.cfg.WriteTimeout)
		defer c.endRing(ring, seg.Geometry())
		c.over = ring
		arenas = c.client.arenas.Set()
		defer arenas.Close()
	}
	if err := c.open(); err != nil {
		return err
	}
	ctx := chain.WithPeer(c.srv.base, c.peer)
	return ipc.Serve(ctx, c.over, c, ipc.ServeConfig{
		MaxInFlight:  c.srv.cfg.MaxInFlight,
		StallTimeout: c.srv.cfg.StallTimeout,
		Draining:     c.srv.leaving,
		Account:      c.client.account,
		Admit:        c.unknown,
		Crew:         c.srv.crew,
		Lead:         func(*ipc.Request) bool { return true },
		Arenas:       arenas,
		Refused:      func(e *ipc.Error) { c.srv.refused.log(c.peer, e) },
	})
}

// greet exchanges hellos, before the connection's read deadline. The segment is the client's, who has it now, or nil.
func (c *conn) greet() (*shm.Segment, error) {
	theirs, err := ipc.ReadHello(c.sock)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = ipc.Refuse(c.sock, ipc.Errorf(ipc.DeadlineExceeded, "deadline", "no hello came within %v; a connection begins with one, see docs/protocol.md, section 7", c.srv.cfg.helloTimeout))
	}
	if err != nil {
		return nil, err
	}
	seg := c.rings(theirs)
	err = ipc.AnswerHello(c.sock, theirs, ipc.Hello{
		SDK:         version.SDK(),
		MaxMessage:  uint64(c.srv.cfg.MaxMessage),
		MaxInFlight: uint64(min(c.srv.cfg.MaxInFlight, c.srv.cfg.Clients.InFlight)),
		Arena:       c.srv.lends(seg != nil),
	}, seg)
	if seg != nil {
		err = errors.Join(err, seg.ClosePassed())
	}
	if err == nil {
		err = c.raw.SetReadDeadline(time.Time{})
	}
	if err != nil && seg != nil {
		c.unused(seg)
		seg = nil
	}
	return seg, err
}

// open lets others speak to the client. Preconditions: c.over is what it will be, and nobody else has looked at it.
func (c *conn) open() error {
	c.mu.Lock()
	c.greeted = true
	drained := c.draining
	c.mu.Unlock()
	if drained {
		return ipc.SendSignal(c.over, ipc.KindDrain)
	}
	return nil
}

// ServeRequest implements [ipc.Handler] by the protocol's adapter.
func (c *conn) ServeRequest(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
	c.mu.Lock()
	draining := c.draining
	c.mu.Unlock()
	if draining {
		_ = w.Fail(errDraining)
		return
	}
	if !c.sure {
		if e := c.prove(req.Headers[authorizationHeader]); e != nil {
			_ = w.Fail(e)
			return
		}
	}
	req.Client, req.Protocol = c.client.id, "native"
	native{c.srv.handler}.ServeRequest(ctx, req, w)
}

// drain tells the client that the server is about to go. From now on new requests are refused.
func (c *conn) drain() {
	c.mu.Lock()
	c.draining = true
	listens := c.greeted && !c.gone
	if listens {
		c.speaking.Add(1)
	}
	c.mu.Unlock()
	if listens {
		defer c.speaking.Done()
		_ = ipc.SendSignal(c.over, ipc.KindDrain)
	}
}

// leave hangs up on a client that has not even said hello, or speaks HTTP and asks for nothing; others leave by server.leaving, or when web has answered them.
func (c *conn) leave() {
	c.mu.Lock()
	greeted, web := c.greeted, c.web
	c.mu.Unlock()
	if !greeted && !web.busy() {
		c.close()
	}
}

// close hangs up. It may be called more than once.
func (c *conn) close() { _ = c.sock.Close() }
