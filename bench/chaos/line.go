package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

// line is a connection to the server.
type line interface {
	// ask sends a request and hands each reply to take, whose error ends it and is returned. An error of the server's is an [*ipc.Error].
	ask(ctx context.Context, req *ipc.Request, streams bool, take func(*ipc.Reply) error) error
	// settle is called when every request has ended, and waits until the server has done with their memory.
	settle(ctx context.Context)
	close()
}

// lib is a connection of the client package's, with an arena.
type lib struct {
	c     *client.Client
	arena *yard
}

func dialLib(ctx context.Context, socket string, tally *Tally) (*lib, error) {
	c, err := client.Dial(ctx, client.WithAddress(socket))
	if err != nil {
		return nil, err
	}
	return &lib{c, newYard(ctx, c, tally)}, nil
}

func (l *lib) close() { _ = l.c.Close() }

func (l *lib) settle(ctx context.Context) { l.arena.settle(ctx) }

func (l *lib) ask(ctx context.Context, req *ipc.Request, streams bool, take func(*ipc.Reply) error) error {
	p := l.arena.lay(req)
	answered := false
	defer func() { l.arena.clear(p, answered) }()
	opts := []client.CallOption{client.WithTensors(p.tensors...), client.WithOutputs(p.slots...), client.WithTimeout(req.Timeout)}
	given := func(r *client.Reply) error {
		answered = r.Last
		return errors.Join(take(&ipc.Reply{End: r.Last, Headers: r.Headers, Body: r.Body, Tensors: r.Tensors}), l.arena.check(p, req, r.Tensors))
	}
	if !streams {
		r, err := l.c.Call(ctx, req.Pool, req.Action, req.Body, opts...)
		if err != nil {
			return err
		}
		return given(r)
	}
	for r, err := range l.c.Stream(ctx, req.Pool, req.Action, req.Body, append(opts, client.WithCredit(req.Credit))...) {
		if err == nil {
			err = given(r)
		}
		if err != nil {
			return err
		}
	}
	return take(&ipc.Reply{End: true})
}

// tardiness is how long after its deadline a request may go without an answer.
const tardiness = 10 * time.Second

// errUnanswered ends the wait for a request that the server has forgotten.
var errUnanswered = errors.New("unanswered")

// wire is a connection that looks at each message itself. It leaves deadlines to the server, and notices answers that nobody asked for.
type wire struct {
	sock   *ipc.Socket
	caller *ipc.Caller
	bound  time.Duration // after a request's deadline
	done   chan struct{}
}

// greet connects and says hello, and leaves it to the caller whether anything is read.
func greet(ctx context.Context, socket string) (*ipc.Socket, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	sock := ipc.NewSocket(raw, ipc.DefaultMaxMessage, time.Minute)
	if _, err := ipc.ClientHello(sock, "chaos"); err != nil {
		_ = sock.Close()
		return nil, err
	}
	return sock, nil
}

// dialWire connects. broke is told of answers that should not have come.
func dialWire(ctx context.Context, socket string, broke func(string)) (*wire, error) {
	sock, err := greet(ctx, socket)
	if err != nil {
		return nil, err
	}
	w := &wire{sock: sock, bound: tardiness, done: make(chan struct{})}
	w.caller = ipc.NewCaller(newWitness(sock, broke), ipc.Events{})
	go w.run()
	return w, nil
}

// run receives until the connection ends. close joins it.
func (w *wire) run() {
	defer close(w.done)
	err := w.caller.Run()
	_ = w.sock.Close()
	end := ipc.Errorf(ipc.Unavailable, "connection_lost", "the connection is gone: %v", err)
	w.caller.Close(end, func(uint64) *ipc.Error { return end })
}

func (w *wire) settle(context.Context) {} // it has no arena

func (w *wire) close() {
	_ = w.sock.Close()
	<-w.done
}

func (w *wire) ask(ctx context.Context, req *ipc.Request, _ bool, take func(*ipc.Reply) error) error {
	r := *req
	r.Outputs = nil
	ctx, cancel := context.WithTimeout(ctx, req.Timeout+w.bound)
	defer cancel()
	call, err := w.caller.Start(&r, nil)
	if err != nil {
		return err
	}
	for {
		reply, err := call.Recv(ctx)
		switch {
		case ctx.Err() != nil && err != nil:
			return errUnanswered
		case err != nil:
			return err
		}
		if err := take(reply); err != nil {
			call.Cancel("cancelled")
			return err
		}
		if reply.End {
			return nil
		}
	}
}

// witness is a transport that counts the answers to each request.
type witness struct {
	ipc.Transport
	broke func(string)

	mu   sync.Mutex
	open map[uint64]bool // guarded by mu: sent and not answered
	last uint64          // guarded by mu: the latest request's id
}

func newWitness(t ipc.Transport, broke func(string)) *witness {
	return &witness{Transport: t, broke: broke, open: map[uint64]bool{}}
}

// Send implements [ipc.Transport].
func (w *witness) Send(parts ...[]byte) (uint64, error) {
	if kind, n, ok := ipc.DecodeHead(parts[0]); ok && kind == ipc.KindRequest {
		w.mu.Lock()
		w.open[n] = true
		w.last = max(w.last, n)
		w.mu.Unlock()
	}
	return w.Transport.Send(parts...)
}

// Recv implements [ipc.Transport].
func (w *witness) Recv() ([]byte, error) {
	b, err := w.Transport.Recv()
	if err != nil {
		return nil, err
	}
	if m, err := ipc.Decode(b); err == nil {
		if r, ok := m.(*ipc.Reply); ok && r.ID != 0 {
			w.saw(r)
		}
	}
	return b, nil
}

func (w *witness) saw(r *ipc.Reply) {
	w.mu.Lock()
	open, last := w.open[r.ID], w.last
	if r.End {
		delete(w.open, r.ID)
	}
	w.mu.Unlock()
	switch {
	case open:
	case r.ID > last:
		w.broke(fmt.Sprintf("an answer came to request %d of a connection, which was never sent", r.ID))
	default:
		w.broke(fmt.Sprintf("duplicated: one more reply came to request %d of a connection after its END", r.ID))
	}
}
