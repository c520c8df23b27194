package ipc

import (
	"context"
	"testing"
	"time"
)

// relay is a connection whose requests are passed on over another one, at whose end is a script.
type relay struct {
	asker *asking   // who asks
	inner *asking   // who passes on
	peer  Transport // who answers
	serve *serving
	outer pair
}

func newRelay(t *testing.T, outer pair) *relay {
	t.Helper()
	r := &relay{outer: outer}
	between := ringPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	r.peer = between.answering
	r.inner = ask(t, between.asking, Events{})
	r.serve = serve(t, outer.answering, ServeConfig{Lead: always}, passOn(r.inner))
	r.asker = ask(t, outer.asking, Events{})
	return r
}

// passOn returns a handler that asks somebody else.
func passOn(to *asking) handlerFunc {
	return func(ctx context.Context, req *Request, w *Responder) {
		mine := *req // StartContext numbers what it sends
		call, err := to.StartContext(ctx, &mine, nil, new(Call))
		if err != nil {
			_ = w.Fail(err)
			return
		}
		w.Forward(call)
	}
}

// begin asks, and returns the call when the request has reached the script.
func (r *relay) begin(t *testing.T, req *Request) (call *Call, id uint64) {
	t.Helper()
	req.Pool, req.Action, req.Credit = "p", "a", 8
	call, err := r.asker.Start(req, nil)
	if err != nil {
		t.Fatal(err)
	}
	passed, ok := hear(t, r.peer).(*Request)
	if !ok {
		t.Fatal("no request came")
	}
	return call, passed.ID
}

func TestForward(t *testing.T) {
	ended := func(t *testing.T, call *Call, body string) {
		t.Helper()
		if got, err := call.Recv(bounded(t)); err != nil || !got.End || string(got.Body) != body {
			t.Errorf("%+v, %v", got, err)
		}
	}
	failed := func(t *testing.T, call *Call, code Code, reason string) {
		t.Helper()
		_, err := call.Recv(bounded(t))
		wantError(t, err, code, reason)
	}
	for _, tt := range []struct {
		name string
		req  Request
		do   func(t *testing.T, r *relay, call *Call, id uint64)
	}{
		{"the END", Request{}, func(t *testing.T, r *relay, call *Call, id uint64) {
			say(t, r.peer, &Reply{ID: id, End: true, Body: Body{1}})
			ended(t, call, "\x01")
		}},
		{"chunks", Request{}, func(t *testing.T, r *relay, call *Call, id uint64) {
			for i := range byte(3) {
				say(t, r.peer, &Reply{ID: id, Body: Body{i}})
				if got, err := call.Recv(bounded(t)); err != nil || got.End || got.Body[0] != i {
					t.Fatalf("%+v, %v", got, err)
				}
			}
			say(t, r.peer, &Reply{ID: id, End: true, Body: Body{9}})
			ended(t, call, "\x09")
		}},
		{"an error", Request{}, func(t *testing.T, r *relay, call *Call, id uint64) {
			say(t, r.peer, &Reply{ID: id, End: true, Err: Errorf(Aborted, "why", "not")})
			failed(t, call, Aborted, "why")
		}},
		{"the peer dies", Request{}, func(t *testing.T, r *relay, call *Call, _ uint64) {
			gone := Errorf(Unavailable, "gone", "gone")
			r.inner.die(gone, func(uint64) *Error { return gone })
			failed(t, call, Unavailable, "gone")
		}},
		{"the time is up", Request{Timeout: time.Millisecond}, func(t *testing.T, r *relay, call *Call, id uint64) {
			failed(t, call, DeadlineExceeded, "deadline")
			if c, ok := hear(t, r.peer).(Cancel); !ok || c.ID != id {
				t.Errorf("the peer was told %+v", c)
			}
		}},
		{"it is cancelled", Request{}, func(t *testing.T, r *relay, call *Call, id uint64) {
			call.Cancel("cancelled")
			if c, ok := hear(t, r.peer).(Cancel); !ok || c.ID != id || c.Reason != "cancelled" {
				t.Errorf("the peer was told %+v", c)
			}
		}},
		{"the requester goes", Request{}, func(t *testing.T, r *relay, _ *Call, id uint64) {
			_ = r.outer.asking.Close()
			_ = r.outer.answering.Close() // a worker's ring does not tell
			for told := false; !told; {
				c, ok := hear(t, r.peer).(Cancel)
				if !ok {
					t.Fatalf("the peer was told %+v", c)
				}
				told = c.ID == id
			}
			_ = r.serve.wait()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onEach(t, pairOptions{}, func(t *testing.T, p pair) {
				r := newRelay(t, p)
				for range 20 { // others are parked beside it
					if _, err := r.asker.Start(&Request{Pool: "p", Action: "a"}, nil); err != nil {
						t.Fatal(err)
					}
					hear(t, r.peer)
				}
				call, id := r.begin(t, &tt.req)
				tt.do(t, r, call, id)
			})
		})
	}
}

// A requester that makes no room for its answers keeps neither the goroutine that receives them nor anybody else waiting.
func TestForwardToAFullRing(t *testing.T) {
	checkLeaks(t)
	r := newRelay(t, clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20}))
	const calls = 8
	body := make(Body, 0, 40<<10)
	body = append(body, 0xc5, 0x9c, 0x00) // bin of 0x9c00 bytes
	body = body[:3+0x9c00]
	stuck := make(chan struct{})
	r.asker.events.Reply = func() { <-stuck } // its reader does not go on
	var all []*Call
	for range calls {
		call, id := r.begin(t, &Request{})
		all = append(all, call)
		say(t, r.peer, &Reply{ID: id, End: true, Body: body})
	}
	other, err := r.inner.Start(&Request{Pool: "p", Action: "a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	say(t, r.peer, &Reply{ID: hear(t, r.peer).(*Request).ID, End: true})
	if _, err := other.Recv(bounded(t)); err != nil {
		t.Error(err)
	}
	close(stuck)
	for _, call := range all {
		if got, err := call.Recv(bounded(t)); err != nil || len(got.Body) != len(body) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// Whatever comes when, a request that is forwarded ends once.
func TestForwardAndCancelAtTheSameTime(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		r := newRelay(t, p)
		ends := make(chan struct{})
		go func() { // the peer: answers at once, whatever else it hears
			defer close(ends)
			for {
				b, err := r.peer.Recv()
				if err != nil {
					return
				}
				if m, _ := Decode(b); m != nil {
					if req, ok := m.(*Request); ok {
						_, _ = r.peer.Send(encodeMessage(&Reply{ID: req.ID, End: true}))
					}
				}
			}
		}()
		for i := range 300 {
			call, err := r.asker.Start(&Request{Pool: "p", Action: "a"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				call.Cancel("cancelled")
			} else if _, err := call.Recv(bounded(t)); err != nil {
				t.Fatal(err)
			}
		}
		_ = p.asking.Close()
		_ = p.answering.Close()
		_ = r.serve.wait()
		_ = r.inner.tr.Close()
		_ = r.peer.Close()
		await(t, ends, "the peer")
	})
}
