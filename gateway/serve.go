package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
	// lingering is how long an idle client that was told to drain has to hang up by itself, so that a request that crossed the news on its way is still answered.
	lingering = 200 * time.Millisecond
	// refuseTimeout is how long a client that is turned away has to say hello and take the reason, and maxParting how many may be doing so at a time.
	refuseTimeout = time.Second
	maxParting    = 64
	// cutting is how long requests that were cut off at the end of a drain have to tell their clients so.
	cutting = time.Second
)

var errDraining = ipc.Errorf(ipc.Unavailable, "draining", "the server is shutting down; try again when it is back")

// Serve lets clients in until ctx ends; then it stops listening, tells every client to drain, answers what is in flight for up to DrainTimeout, and returns nil when every connection and
// goroutine has ended. An error means that the listener broke; the drain happens all the same. ln is closed in any case.
func Serve(ctx context.Context, ln *Listener, backend Backend, cfg Config) error {
	return newServer(ctx, ln, backend, cfg.withDefaults()).run(ctx, ln)
}

func newServer(ctx context.Context, ln *Listener, backend Backend, cfg Config) *server {
	s := &server{
		cfg: cfg, door: ln.door, leaving: make(chan struct{}), conns: map[*conn]struct{}{},
		clients: newClients(cfg, ln.door.uid), refused: newRefusals(cfg.Logger), parting: make(chan struct{}, maxParting),
		meters: newMeters(),
	}
	s.meters.registry.MustRegister(cfg.Collectors...)
	cfg.Gauge.of(s.clients.memory)
	s.handler = chain.New(backend.Call, s.meters.link)
	s.base, s.cut = context.WithCancelCause(context.WithoutCancel(ctx))
	s.web = newWeb(s)
	return s
}

func (s *server) run(ctx context.Context, ln *Listener) error {
	defer s.cut(nil)
	s.web.start()
	defer s.web.stop()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	err := s.accept(ctx, ln)
	stop()
	_ = ln.Close()
	s.drain()
	return err
}

type server struct {
	cfg     Config
	door    door
	handler chain.Handler
	meters  *meters
	web     *web
	base    context.Context // parent of every request's
	cut     context.CancelCauseFunc
	leaving chan struct{}  // closed when connections are to end once no request is open on them
	joined  sync.WaitGroup // conn.run, conn.drain, turnAway
	clients *clients
	refused *refusals
	parting chan struct{} // holds an element for each connection that is being turned away

	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
}

// accept lets clients in until ctx ends (nil) or the listener breaks. Running out of descriptors or memory is no reason to stop: it pauses and tries again.
func (s *server) accept(ctx context.Context, ln net.Listener) error {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		raw, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			s.welcome(raw.(*net.UnixConn))
			continue
		case ctx.Err() != nil:
			continue
		case !passing(err):
			return fmt.Errorf("accept: %w", err)
		}
		if pause == 0 {
			s.cfg.Logger.Warn("cannot accept a connection, trying again", "error", err)
		}
		pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

// passing reports whether an error of accept may go away by itself.
func passing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// welcome starts a connection, or turns it away.
func (s *server) welcome(raw *net.UnixConn) {
	peer, err := peerOf(raw)
	if err != nil {
		s.cfg.Logger.Warn("a client is turned away", "error", err)
		_ = raw.Close()
		return
	}
	refusal := s.door.admit(peer)
	var client *client
	if refusal == nil {
		client, refusal = s.clients.enter(peer)
	}
	if refusal != nil {
		s.refused.log(peer, refusal)
		s.turnAway(raw, refusal)
		return
	}
	c := newConn(s, raw, peer, client)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	s.joined.Go(func() {
		err := c.run()
		s.clients.leave(client)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		s.logEnd(c, err)
	})
}

// turnAway tells a client why it may not stay, once it has said hello, so that it is ready to read. Where too many are being told already it is only shown the door: whoever
// knocks as fast as he can must not fill the house.
func (s *server) turnAway(raw *net.UnixConn, why *ipc.Error) {
	select {
	case s.parting <- struct{}{}:
	default:
		_ = raw.Close()
		return
	}
	s.joined.Go(func() {
		defer func() {
			_ = raw.Close()
			<-s.parting
		}()
		if raw.SetReadDeadline(time.Now().Add(refuseTimeout)) == nil {
			if overhear(raw) == speaksHTTP {
				refuseHTTP(raw, why)
				return
			}
			sock := ipc.NewSocket(raw, ipc.MaxHello, refuseTimeout)
			_, _ = sock.Recv()
			_ = ipc.Refuse(sock, why)
		}
	})
}

func (s *server) logEnd(c *conn, err error) {
	var e *ipc.Error
	if errors.As(err, &e) { // in breach of the protocol
		s.refused.log(c.peer, e)
	}
	s.cfg.Logger.Debug("client gone", "pid", c.peer.PID, "uid", c.peer.UID, "gid", c.peer.GID, "why", err)
}

// drain ends all connections. Preconditions: no more are accepted.
func (s *server) drain() {
	conns := s.all()
	for _, c := range conns {
		s.joined.Go(c.drain)
	}
	s.web.drain()
	gone := make(chan struct{})
	go func() {
		s.joined.Wait()
		close(gone)
	}()
	within := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-gone:
			return true
		case <-timer.C:
			return false
		}
	}
	if within(lingering) {
		return
	}
	close(s.leaving)
	for _, c := range conns {
		c.leave()
	}
	if within(s.cfg.DrainTimeout) {
		return
	}
	s.cfg.Logger.Warn("requests are still in flight at the end of the drain; they are cut off", "drain_timeout", s.cfg.DrainTimeout)
	s.cut(errDraining)
	if !within(cutting) {
		for _, c := range conns {
			c.close()
		}
		<-gone
	}
}

func (s *server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}
