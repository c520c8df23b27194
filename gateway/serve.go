package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
	// waitingHands is how many goroutines wait for requests of all clients, with 4 to 8 KiB of stack each.
	waitingHands = 512
)

var errDraining = ipc.Errorf(ipc.Unavailable, "draining", "the server is shutting down; try again when it is back")

// Serve lets clients in until ctx ends; then it stops listening, tells every client to drain, answers what is in flight for up to DrainTimeout, and returns nil when every connection and
// goroutine has ended. An error means that a listener broke; the drain happens all the same. more are further listeners, of [ListenTCP]. All are closed in any case.
func Serve(ctx context.Context, ln *Listener, backend Backend, cfg Config, more ...*Listener) error {
	return newServer(ctx, ln, backend, cfg.withDefaults()).run(ctx, append(more, ln)...)
}

func newServer(ctx context.Context, ln *Listener, backend Backend, cfg Config) *server {
	s := &server{
		cfg: cfg, door: ln.door, leaving: make(chan struct{}), conns: map[*conn]struct{}{},
		clients: newClients(cfg, ln.door.uid), refused: newRefusals(cfg.Logger), parting: make(chan struct{}, maxParting),
		meters: newMeters(cfg.Collectors...), crew: ipc.NewCrew(waitingHands),
	}
	cfg.Gauge.of(s.clients.memory)
	s.handler = chain.New(backend.Call, s.refused.link, s.meters.link)
	s.base, s.cut = context.WithCancelCause(context.WithoutCancel(ctx))
	s.web = newWeb(s)
	return s
}

func (s *server) run(ctx context.Context, lns ...*Listener) error {
	defer s.cut(nil)
	s.web.start()
	defer s.web.stop()
	ctx, end := context.WithCancel(ctx) // when one listener breaks, all end
	defer end()
	errs := make([]error, len(lns))
	var accepting sync.WaitGroup
	for i, ln := range lns {
		accepting.Go(func() {
			defer end()
			stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
			errs[i] = s.accept(ctx, ln)
			stop()
			_ = ln.Close()
		})
	}
	accepting.Wait()
	s.drain()
	s.crew.Close()
	return errors.Join(errs...)
}

type server struct {
	cfg     Config
	door    door
	handler chain.Handler
	meters  *meters
	crew    *ipc.Crew // handles what comes in frames
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
func (s *server) accept(ctx context.Context, ln *Listener) error {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		raw, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			s.welcome(raw.(stream), ln.remote)
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
func (s *server) welcome(raw stream, remote bool) {
	peer, sure, refusal, err := s.meet(raw, remote)
	if err != nil {
		s.cfg.Logger.Warn("a client is turned away", "error", err)
		_ = raw.Close()
		return
	}
	var client *client
	if refusal == nil {
		client, refusal = s.clients.enter(peer)
	}
	if refusal != nil {
		s.refused.log(peer, refusal)
		s.turnAway(raw, refusal)
		return
	}
	c := newConn(s, raw, peer, sure, client)
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

// meet finds out who has connected, and whether they may stay.
func (s *server) meet(raw stream, remote bool) (peer chain.Peer, sure bool, refusal *ipc.Error, _ error) {
	gate := s.cfg.Gate
	if remote {
		return chain.Peer{UID: chain.NoID, GID: chain.NoID, Standing: chain.Remote, Address: raw.RemoteAddr().String(), Memo: new(atomic.Value)}, false, nil, nil
	}
	peer, unknown, err := peerOf(raw, gate != nil && gate.WantsCGroup())
	if err != nil {
		return peer, false, nil, err
	}
	if unknown != nil {
		if n, now := s.refused.due("cgroup", time.Now()); now {
			s.cfg.Logger.Warn("a client's control group cannot be told; it has no role by it", "pid", peer.PID, "error", unknown, "not_logged", n)
		}
	}
	peer.Standing, peer.Memo = s.door.standing(peer), new(atomic.Value)
	if refusal = s.door.admit(peer); gate == nil {
		return peer, true, refusal, nil
	}
	sure, refusal = gate.Admit(peer, refusal)
	return peer, sure, refusal, nil
}

// turnAway tells a client why it may not stay, once it has said hello, so that it is ready to read. Where too many are being told already it is only shown the door: whoever
// knocks as fast as he can must not fill the house.
func (s *server) turnAway(raw stream, why *ipc.Error) {
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
