package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
)

const (
	maxHeader      = 64 << 10  // bytes of a request's headers
	maxStreams     = 128       // requests at a time on a connection of HTTP/2
	streamWindow   = 256 << 10 // bytes that such a connection, and each of its requests, may send ahead; they are the connection's own, like its buffers
	writePiece     = 64 << 10  // bytes that a client has to take in the write timeout
	idleConnection = 5 * time.Minute
)

// web serves the connections that speak HTTP, all by one [http.Server]: it brings the protocols, which the adapters' own files translate.
//
//	conn ─serve─▶ handed ─Accept─▶ http.Server ─▶ ServeHTTP ─▶ mux ─▶ an adapter ─▶ exchange ─▶ Handler
type web struct {
	srv    *server
	routes *routes
	grpc   *grpcFront
	http   *http.Server
	begun  time.Time
	handed chan *webConn // from conn.run to Accept
	closed chan struct{} // no more are taken
	once   sync.Once     // closes closed

	joined   sync.WaitGroup // Serve, Shutdown
	giveUp   context.CancelFunc
	shutdown context.Context // ends when nobody waits for connections to end
}

func newWeb(s *server) *web {
	w := &web{srv: s, begun: time.Now(), handed: make(chan *webConn), closed: make(chan struct{})}
	w.shutdown, w.giveUp = context.WithCancel(context.Background())
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	w.http = &http.Server{
		Handler:           w,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: min(s.cfg.MaxInFlight, maxStreams), MaxReceiveBufferPerConnection: streamWindow, MaxReceiveBufferPerStream: streamWindow},
		ReadHeaderTimeout: s.cfg.ReadTimeout,
		IdleTimeout:       idleConnection,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return s.base },
		ConnContext:       introduce,
		ConnState:         ended,
	}
	w.routes = newRoutes(w)
	w.grpc = newGRPC(w)
	return w
}

// start takes connections until drain.
func (w *web) start() {
	w.joined.Go(func() { _ = w.http.Serve(handover{w}) })
}

// drain lets connections end once what they ask for is answered, and takes no more.
func (w *web) drain() {
	w.joined.Go(func() { _ = w.http.Shutdown(w.shutdown) })
}

// stop ends what drain began. Preconditions: all connections have ended.
func (w *web) stop() {
	w.giveUp()
	_ = w.http.Close()
	w.joined.Wait()
}

// serve has a connection served until it has ended, and its last request.
func (w *web) serve(c *conn) error {
	wc := &webConn{Conn: c.raw, conn: c, gone: make(chan struct{})}
	wc.quiet.L = &wc.mu
	c.mu.Lock()
	c.web = wc
	c.mu.Unlock()
	select {
	case w.handed <- wc:
	case <-w.closed:
		return errDraining
	}
	<-wc.gone
	wc.join()
	return nil
}

// handover is the listener through which the [http.Server] gets connections that were let in already.
type handover struct{ w *web }

// Accept implements [net.Listener].
func (h handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.w.handed:
		return c, nil
	case <-h.w.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h handover) Close() error {
	h.w.once.Do(func() { close(h.w.closed) })
	return nil
}

// Addr implements [net.Listener].
func (h handover) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// webConn is a connection that speaks HTTP.
type webConn struct {
	net.Conn
	conn    *conn
	actions soleActions
	gone    chan struct{} // closed when the http.Server is done with it

	mu     sync.Mutex
	open   int       // guarded by mu: requests whose handlers have not returned, which may outlive a connection of HTTP/2
	active bool      // guarded by mu: a request has come whose answer is not wholly written, though its handler may have returned
	over   bool      // guarded by mu: no more begin
	quiet  sync.Cond // open is 0
}

type webConnKey struct{}

// introduce puts into the context of a connection's requests whose they are.
func introduce(ctx context.Context, c net.Conn) context.Context {
	wc := c.(*webConn)
	return context.WithValue(chain.WithPeer(ctx, wc.conn.peer), webConnKey{}, wc)
}

// ended hears from the [http.Server] how its connections are.
func ended(c net.Conn, state http.ConnState) {
	wc := c.(*webConn)
	switch state {
	case http.StateClosed, http.StateHijacked:
		close(wc.gone)
	default:
		wc.mu.Lock()
		defer wc.mu.Unlock()
		wc.active = state == http.StateActive
	}
}

// begin counts a request, or reports that it came too late.
func (c *webConn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.open++
	return true
}

func (c *webConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open--; c.open == 0 {
		c.quiet.Broadcast()
	}
}

// join waits for the requests that are open, and lets no more begin.
func (c *webConn) join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.over = true; c.open > 0; {
		c.quiet.Wait()
	}
}

// busy reports whether a request is open, or its answer not wholly written. A nil webConn's is not.
func (c *webConn) busy() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open > 0 || c.active
}

// Write implements [net.Conn]. A client that takes less than 64 KiB in the write timeout loses the connection.
func (c *webConn) Write(p []byte) (int, error) {
	done := 0
	for {
		piece := p[done:min(len(p), done+writePiece)]
		_ = c.SetWriteDeadline(time.Now().Add(c.conn.srv.cfg.WriteTimeout)) // fails only where the write will, too
		n, err := c.Conn.Write(piece)
		if done += n; err != nil || done == len(p) {
			return done, err
		}
	}
}

// ServeHTTP implements [http.Handler].
func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(webConnKey{}).(*webConn)
	if !c.begin() {
		panic(http.ErrAbortHandler) // the connection has gone
	}
	defer c.end()
	if c.conn.remote() && w.page(rw, r) {
		return
	}
	if e := c.conn.prove(r.Header.Get("Authorization")); e != nil {
		w.exchange(rw, r).refuse(e)
		return
	}
	if speaksGRPC(r) {
		w.grpc.serve(rw, r)
		return
	}
	w.routes.ServeHTTP(rw, r)
}

// late reports whether an error is a deadline's of a connection.
func late(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
