package ipc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// clogged is a transport whose peer reads nothing: Send waits for Close. A Send that was freed takes a while to return.
type clogged struct {
	freed   chan struct{} // closed by Close
	leaving chan struct{} // closed when a freed Send may return
}

func (c *clogged) Send(...[]byte) (uint64, error) {
	<-c.freed
	<-c.leaving
	return 0, io.ErrClosedPipe
}

func (c *clogged) Recv() ([]byte, error) {
	<-c.freed
	return nil, io.EOF
}

func (c *clogged) Close() error {
	close(c.freed)
	return nil
}

// After Close the transport's memory is unmapped: nobody may still be in a Send.
func TestCloseWaitsForWhoeverSends(t *testing.T) {
	for name, send := range map[string]func(*Caller, *Call) error{
		"start":  func(c *Caller, _ *Call) error { _, err := c.Start(&Request{}, nil); return err },
		"ping":   func(c *Caller, _ *Call) error { return c.Ping(context.Background()) },
		"drain":  func(c *Caller, _ *Call) error { return c.Drain() },
		"credit": func(_ *Caller, call *Call) error { _, err := call.Recv(context.Background()); return err },
		"cancel": func(_ *Caller, call *Call) error { call.Cancel("cancelled"); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &clogged{freed: make(chan struct{}), leaving: make(chan struct{})}
				c := NewCaller(tr, Events{})
				call := &Call{caller: c, id: 1, window: newWindow(1, false), queue: make(chan arrival, 2)}
				c.open[1], c.nextID = call, 1
				call.queue <- arrival{reply: &Reply{ID: 1}}
				sent := make(chan error)
				go func() { sent <- send(c, call) }()
				synctest.Wait() // it sends
				_ = tr.Close()
				closed := make(chan struct{})
				go func() {
					c.Close(errOwner, func(uint64) *Error { return errOwner })
					close(closed)
				}()
				synctest.Wait()
				select {
				case <-closed:
					t.Error("Close has returned while something is being sent")
				default:
				}
				close(tr.leaving)
				err := <-sent
				<-closed
				if name != "credit" && name != "cancel" && !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("%v, want %v", err, io.ErrClosedPipe)
				}
				if err := c.Drain(); !errors.Is(err, errOwner) {
					t.Errorf("sending after Close: %v, want %v", err, errOwner)
				}
			})
		})
	}
}

// A request that does not fit into what the peer leaves unread holds its sender up. Its timeout cannot end that, but whoever owns the peer can.
func TestARequestThatCannotBeSentIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &clogged{freed: make(chan struct{}), leaving: make(chan struct{})}
		close(tr.leaving)
		c := NewCaller(tr, Events{})
		begin := time.Now()
		sent := make(chan error)
		for _, timeout := range []time.Duration{0, time.Hour, time.Second, time.Minute} {
			go func() {
				_, err := c.Start(&Request{Timeout: timeout}, nil)
				sent <- err
			}()
		}
		synctest.Wait()
		due := map[time.Duration]int{}
		for _, o := range c.AppendOpen(nil) {
			if o.Sent || o.Held || o.Replies != 0 || !o.Abandoned.IsZero() {
				t.Errorf("%+v", o)
			}
			if o.Due.IsZero() {
				due[0]++
			} else {
				due[o.Due.Sub(begin)]++
			}
		}
		if want := map[time.Duration]int{0: 1, time.Second: 1, time.Minute: 1, time.Hour: 1}; !maps.Equal(due, want) {
			t.Errorf("due %v, want %v", due, want)
		}
		_ = tr.Close()
		for range 4 {
			if err := <-sent; !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		}
		if open := c.AppendOpen(nil); len(open) > 0 {
			t.Errorf("open %+v, although nothing was sent", open)
		}
	})
}

// What a call's owner can see of it from outside: progress, credit, and who has lost interest.
func TestAppendOpen(t *testing.T) {
	a, b := net.Pipe()
	c := NewCaller(NewSocket(a, 1<<20, 0), Events{})
	peer := NewSocket(b, 1<<20, 0)
	heard := make(chan []byte, 16)
	go func() {
		defer close(heard)
		for {
			m, err := peer.Recv()
			if err != nil {
				return
			}
			heard <- m
		}
	}()
	call, err := c.Start(&Request{Credit: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-heard
	one := func() OpenCall {
		t.Helper()
		open := c.AppendOpen(nil)
		if len(open) != 1 {
			t.Fatalf("open: %+v", open)
		}
		return open[0]
	}
	if o := one(); !o.Sent || o.End == 0 || o.Held || o.Replies != 0 || !o.Due.IsZero() {
		t.Errorf("at first %+v", o)
	}
	for range 2 {
		if err := c.deliver(&Reply{ID: call.id}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if o := one(); !o.Held || o.Replies != 2 {
		t.Errorf("without credit %+v", o)
	}
	if _, err := call.Recv(t.Context()); err != nil { // half the window: credit is granted
		t.Fatal(err)
	}
	<-heard
	if o := one(); o.Held || o.Replies != 2 {
		t.Errorf("with new credit %+v", o)
	}
	c.Recall(call.id, "hang_timeout")
	if m, err := Decode(<-heard); err != nil || m != (Cancel{call.id, "hang_timeout"}) {
		t.Errorf("a recall says %+v, %v", m, err)
	}
	if o := one(); o.Reason != "hang_timeout" || !o.Abandoned.IsZero() {
		t.Errorf("recalled %+v", o)
	}
	call.Cancel("cancelled")
	<-heard
	if o := one(); o.Reason != "cancelled" || o.Abandoned.IsZero() {
		t.Errorf("abandoned %+v", o)
	}
	if err := c.deliver(&Reply{ID: call.id, End: true}, 1); err != nil {
		t.Fatal(err)
	}
	if open := c.AppendOpen(nil); len(open) > 0 {
		t.Errorf("open after the END: %+v", open)
	}
	c.Recall(call.id, "late") // says nothing
	_ = a.Close()
	if m, ok := <-heard; ok {
		t.Errorf("heard %x after the end", m)
	}
}

// A caller that has seen the END may ask again at once: the place that its call had is free.
func TestDoneComesBeforeTheEND(t *testing.T) {
	for name, end := range map[string]func(*Caller){
		"reply": func(c *Caller) { _ = c.deliver(&Reply{ID: 1, End: true}, 1) },
		"close": func(c *Caller) { c.Close(errOwner, func(uint64) *Error { return errOwner }) },
	} {
		c := NewCaller(&clogged{}, Events{})
		call := &Call{caller: c, id: 1, window: newWindow(1, false), queue: make(chan arrival, 2)}
		call.done = endFunc(func(*Error) {
			if len(call.queue) > 0 {
				t.Errorf("%s: the END is there before done was called", name)
			}
		})
		c.open[1] = call
		end(c)
		if len(call.queue) != 1 {
			t.Errorf("%s: %d replies", name, len(call.queue))
		}
	}
}

// A message's own array takes one of the 64 levels.
func TestDepthOfABodyInItsMessage(t *testing.T) {
	nested := func(levels int) any {
		var v any
		for range levels {
			v = []any{v}
		}
		return v
	}
	deepest, err := Marshal(nested(maxDepth - 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []any{&Request{ID: 1, Body: deepest}, &Reply{ID: 1, Body: deepest}} {
		if _, err := Decode(encodeMessage(m)); err != nil {
			t.Errorf("%T with the deepest body there may be: %v", m, err)
		}
	}
	_, err = Marshal(nested(maxDepth))
	wantError(t, err, InvalidArgument, "bad_body")
	tooDeep := append(Body{0x91}, deepest...)
	wantError(t, tooDeep.Validate(), InvalidArgument, "bad_body")
	_, err = Marshal(tooDeep)
	wantError(t, err, InvalidArgument, "bad_body")
	if err := tooDeep.Decode(new(any)); err != nil { // it need not go into a message
		t.Error(err)
	}
}

// deaf is a transport whose peer takes everything and says nothing.
type deaf chan struct{} // closed by Close

func (deaf) Send(...[]byte) (uint64, error) { return 1, nil }

func (d deaf) Recv() ([]byte, error) {
	<-d
	return nil, io.EOF
}

func (d deaf) Close() error {
	close(d)
	return nil
}

// When a request's time is up its call says so, whatever its context, to the moment; one timer does for all.
func TestTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := make(deaf)
		c := NewCaller(tr, Events{})
		start := func(timeout time.Duration) *Call {
			ctx := t.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			call, err := c.StartContext(ctx, &Request{Pool: "p", Action: "a", Timeout: timeout, Credit: 2}, nil, new(Call))
			if err != nil {
				t.Fatal(err)
			}
			return call
		}
		begin := time.Now()
		patient := start(0)
		calls := map[time.Duration]*Call{}
		for _, timeout := range []time.Duration{time.Hour, time.Second, time.Minute, 61 * time.Second, 2 * time.Second} { // due later, earlier, in between
			calls[timeout] = start(timeout)
		}
		calls[2*time.Second].Cancel("cancelled")
		for _, timeout := range []time.Duration{time.Second, time.Minute, 61 * time.Second, time.Hour} {
			_, err := calls[timeout].Recv(context.Background())
			if e := AsError(err); e.Code != DeadlineExceeded || e.Reason != "deadline" {
				t.Errorf("%v: %v", timeout, err)
			}
			if took := time.Since(begin); took != timeout {
				t.Errorf("%v: told after %v", timeout, took)
			}
			if _, err := calls[timeout].Recv(context.Background()); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v", err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if _, err := patient.Recv(ctx); AsError(err).Code != DeadlineExceeded || time.Since(begin) != 25*time.Hour {
			t.Errorf("one without a limit: %v after %v", err, time.Since(begin))
		}
		_ = tr.Close()
		c.Close(Errorf(Unavailable, "closed", "closed"), func(uint64) *Error { return nil })
	})
}

// The queues of calls that have ended are used again, and bring nothing of them along.
func TestQueuesAreUsedAgain(t *testing.T) {
	p := socketPair(t, pairOptions{askingLimit: 1 << 16, answeringLimit: 1 << 16})
	serve(t, p.answering, ServeConfig{}, func(ctx context.Context, req *Request, w *Responder) {
		if req.Action == "wait" {
			<-ctx.Done()
			_ = w.Fail(ctx.Err())
			return
		}
		_ = w.End(&Reply{Body: req.Body})
	})
	c := ask(t, p.asking, Events{})
	for i := range 200 {
		body := Body{byte(i % 100)}
		ctx, cancel := context.WithCancel(t.Context())
		late, err := c.Start(&Request{Pool: "p", Action: "wait", Timeout: time.Duration(1+i%3) * time.Millisecond}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := unary(t.Context(), c.Caller, &Request{Pool: "p", Action: "at once", Body: body}); err != nil || !bytes.Equal(r.Body, body) {
			t.Fatalf("%d: %v %v", i, r, err)
		}
		if i%2 == 0 {
			cancel()
		}
		if _, err := late.Recv(ctx); err == nil {
			t.Fatal("what waits has answered")
		}
		cancel()
	}
}
