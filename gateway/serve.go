package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Config tunes [Serve]. The zero values of its fields are the defaults named beside them.
type Config struct {
	MaxMessage     int           // bytes, both ways; 0: 64 MiB
	MaxInFlight    int           // open requests per connection; 0: 1024
	MaxConnections int           // at a time; 0: 1024, or half of the descriptors this process may open if that is less
	StallTimeout   time.Duration // how long a client may leave its replies unread; 0: 10 s
	WriteTimeout   time.Duration // how long one write to a client may take; 0: 10 s
	DrainTimeout   time.Duration // how long requests in flight may take once ctx has ended; 0: 30 s
	Logger         *slog.Logger  // nil: slog.Default()

	helloTimeout time.Duration // how long a client may take to say hello; 0: 10 s
}

func (c Config) withDefaults() Config {
	def := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = ipc.DefaultMaxMessage
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 1024
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = min(1024, maxDescriptors()/2) // workers need some, too
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	def(&c.StallTimeout, 10*time.Second)
	def(&c.WriteTimeout, 10*time.Second)
	def(&c.DrainTimeout, 30*time.Second)
	def(&c.helloTimeout, 10*time.Second)
	return c
}

// maxDescriptors is how many files this process may have open.
func maxDescriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}

const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
	// lingering is how long an idle client that was told to drain has to hang up by itself, so that a request that crossed the news on its way is still answered.
	lingering = 200 * time.Millisecond
	// cutting is how long requests that were cut off at the end of a drain have to tell their clients so.
	cutting = time.Second
)

var errDraining = ipc.Errorf(ipc.Unavailable, "draining", "the server is shutting down; try again when it is back")

// Serve lets clients in until ctx ends; then it stops listening, tells every client to drain, answers what is in flight for up to DrainTimeout, and returns nil when every connection and
// goroutine has ended. An error means that the listener broke; the drain happens all the same. ln is closed in any case.
func Serve(ctx context.Context, ln *Listener, backend Backend, cfg Config) error {
	s := &server{cfg: cfg.withDefaults(), door: ln.door, leaving: make(chan struct{}), conns: map[*conn]struct{}{}}
	s.handler = chain(backend.Call, logged(s.cfg.Logger))
	s.base, s.cut = context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.cut(nil)

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
	handler Handler
	base    context.Context // parent of every request's
	cut     context.CancelCauseFunc
	leaving chan struct{}  // closed when connections are to end once no request is open on them
	joined  sync.WaitGroup // conn.run, conn.drain

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

// welcome starts a connection, or turns it away if there are too many.
func (s *server) welcome(raw *net.UnixConn) {
	c := newConn(s, raw)
	s.mu.Lock()
	full := len(s.conns) >= s.cfg.MaxConnections
	if !full {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		s.joined.Go(func() {
			c.turnAway(ipc.Errorf(ipc.ResourceExhausted, "too_many_connections", "%d connections are open, the most this server takes; close some, or share one", s.cfg.MaxConnections))
			c.close()
		})
		return
	}
	s.joined.Go(func() {
		err := c.run()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		s.logEnd(c, err)
	})
}

func (s *server) logEnd(c *conn, err error) {
	level := slog.LevelDebug
	var e *ipc.Error
	if errors.As(err, &e) { // refused, or in breach of the protocol
		level = slog.LevelWarn
	}
	s.cfg.Logger.Log(s.base, level, "client gone", "pid", c.peer.PID, "uid", c.peer.UID, "gid", c.peer.GID, "why", err)
}

// drain ends all connections. Preconditions: no more are accepted.
func (s *server) drain() {
	conns := s.all()
	for _, c := range conns {
		s.joined.Go(c.drain)
	}
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
