package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// multiplex is one exchange that carries many requests side by side: its client sends them one after the other, and their answers go back as they come.
type multiplex struct {
	x     *exchange
	ctx   context.Context // of all its requests
	end   context.CancelCauseFunc
	calls sync.WaitGroup

	writing sync.Mutex // one answer at a time

	mu   sync.Mutex
	open map[string]context.CancelCauseFunc // guarded by mu: by what the client calls them
	now  int                                // guarded by mu: requests that are open
}

// multiplex begins to carry requests; finish ends it.
func (x *exchange) multiplex(ctx context.Context) *multiplex {
	m := &multiplex{x: x, open: map[string]context.CancelCauseFunc{}}
	m.ctx, m.end = context.WithCancelCause(ctx)
	return m
}

// untilLeaving has whoever reads the body find its deadline passed once the server drains, until stop is called.
func (x *exchange) untilLeaving() (stop func()) {
	quiet, joined := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(joined)
		select {
		case <-x.web.srv.leaving:
			_ = x.out.SetReadDeadline(time.Now()) // fails only where the read will, too
		case <-quiet:
		}
	}()
	return func() {
		close(quiet)
		<-joined
	}
}

// start runs a request under a name by which it can be cancelled; "" is none. It refuses what is too much, and a name that is taken.
func (m *multiplex) start(name string, run func(ctx context.Context)) *ipc.Error {
	most := m.x.web.srv.cfg.MaxInFlight
	m.mu.Lock()
	defer m.mu.Unlock()
	_, taken := m.open[name]
	switch {
	case taken:
		return ipc.Errorf(ipc.InvalidArgument, "duplicate_id", "request id %s is already open on this stream", outline([]byte(name)))
	case m.now >= most:
		e := ipc.Errorf(ipc.ResourceExhausted, "too_many_requests", "%d requests are open on this stream, the most it may have; wait for some to end", most)
		e.RetryAfter = connectPause
		return e
	}
	ctx, cancel := context.WithCancelCause(m.ctx)
	if m.now++; name != "" {
		m.open[name] = cancel
	}
	m.calls.Go(func() {
		defer cancel(nil)
		run(ctx)
	})
	return nil
}

// over makes a request's name free again, before its last answer goes out. It is to be called once for each that was started.
func (m *multiplex) over(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now--
	delete(m.open, name)
}

// cancel ends the interest in a request. A name that nobody has is ignored: its request may just have ended.
func (m *multiplex) cancel(name string) {
	m.mu.Lock()
	cancel := m.open[name]
	m.mu.Unlock()
	if cancel != nil {
		cancel(context.Canceled)
	}
}

// write sends one answer, by a function that reports whether that went well. If not, all requests are cancelled: their client does not listen.
func (m *multiplex) write(send func() bool) bool {
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.ctx.Err() != nil && errors.Is(context.Cause(m.ctx), errNotTaken) {
		return false
	}
	if send() {
		return true
	}
	m.end(errNotTaken)
	return false
}

// finish waits for what is open, which is cancelled if why is not nil.
func (m *multiplex) finish(why error) {
	if why != nil {
		m.end(why)
	}
	m.calls.Wait()
	m.end(nil)
}
