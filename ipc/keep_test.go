package ipc

import (
	"context"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/ringmasterd/ringmaster/internal/budget"
)

// A peer that does not end a call keeps nothing of its client's request in memory once that is over: the client is not charged for it any more.
func TestAbandonedRequestsAreForgotten(t *testing.T) {
	for name, abandon := range map[string]func(t *testing.T, call *Call, r *charged){
		"cancelled": func(_ *testing.T, call *Call, _ *charged) { call.Cancel("cancelled") },
		"the client goes": func(_ *testing.T, _ *Call, r *charged) {
			_ = r.outer.asking.Close()
			_ = r.outer.answering.Close()
		},
		"no room for its reply": func(t *testing.T, call *Call, r *charged) {
			say(t, r.peer, &Reply{ID: 1, Body: append(Body{0xc6, 0, 0x0e, 0, 0}, make(Body, 0xe0000)...)})
			_, err := call.Recv(bounded(t))
			wantError(t, err, ResourceExhausted, "memory_full")
		},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			r := newCharged(t)
			call, err := r.asker.Start(&Request{Pool: "p", Action: "a", Body: Body{0x92, 1, 2}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := hear(t, r.peer).(*Request); !ok {
				t.Fatal("no request came")
			}
			sent := await(t, r.sent, "the request")
			abandon(t, call, r)
			for deadline := time.Now().Add(patience); sent.Value() != nil; runtime.GC() {
				if time.Now().After(deadline) {
					t.Fatal("the request's message is still in memory")
				}
			}
			if n := len(r.inner.AppendOpen(nil)); n != 1 {
				t.Errorf("the peer has %d calls", n)
			}
		})
	}
}

// charged is a connection of a client that is charged for what it sends, passed on over another one to a script.
type charged struct {
	asker, inner *asking
	peer         Transport
	outer        pair
	sent         chan weak.Pointer[byte] // to the message of each request
}

func newCharged(t *testing.T) *charged {
	o := pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20}
	between := ringPair(t, o)
	r := &charged{peer: between.answering, inner: ask(t, between.asking, Events{}), outer: clientRingPair(t, o), sent: make(chan weak.Pointer[byte], 1)}
	account := budget.New(1 << 20).User().Account(8)
	serve(t, r.outer.answering, ServeConfig{Lead: always, Account: account}, func(ctx context.Context, req *Request, w *Responder) {
		mine := *req
		r.sent <- weak.Make(&req.Body[0])
		call, err := r.inner.StartContext(ctx, &mine, nil, new(Call))
		if err != nil {
			_ = w.Fail(err)
			return
		}
		w.Forward(call)
	})
	r.asker = ask(t, r.outer.asking, Events{})
	return r
}
