package ipc

import (
	"context"
	"sync/atomic"
	"testing"
)

// reuser is a [Reuser] that tells what it is told.
type reuser struct {
	t      *testing.T
	ended  atomic.Int32
	reused chan struct{} // receives for each Reuse
}

func (r *reuser) Ended(*Error) { r.ended.Add(1) }

func (r *reuser) Reuse() {
	if r.ended.Load() != 1 {
		r.t.Errorf("the call has ended %d times when its memory is to be used again", r.ended.Load())
	}
	r.reused <- struct{}{}
}

func TestMemoryOfACallIsUsedAgainOnce(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, echoAll)
		c := ask(t, p.asking, Events{})
		var room Call
		r := &reuser{t: t, reused: make(chan struct{}, 4)}
		for n := range 500 {
			call, err := c.StartContext(context.Background(), &Request{Body: Body{byte(n & 0x7f)}}, r, &room)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := call.Recv(bounded(t))
			if err != nil || reply.Body[0] != byte(n&0x7f) {
				t.Fatalf("call %d: %v, %v", n, reply, err)
			}
			if len(r.reused) > 0 {
				t.Fatal("its memory was to be used again before the requester had let go of it")
			}
			call.Release()
			await(t, r.reused, "Reuse")
			r.ended.Store(0)
			room = Call{} // for the next one
		}
		if len(r.reused) > 0 {
			t.Error("Reuse was called twice for one call")
		}
	})
}

// What the peer may still use, and what ended otherwise than with an END that was taken, is left alone.
func TestMemoryOfACallIsNotUsedAgain(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, c *asking, peer Transport, call *Call){
		"cancelled": func(t *testing.T, _ *asking, peer Transport, call *Call) {
			call.Cancel("cancelled")
			say(t, peer, &Reply{ID: 1, End: true})
		},
		"an error": func(t *testing.T, _ *asking, peer Transport, call *Call) {
			say(t, peer, &Reply{ID: 1, End: true, Err: Errorf(Internal, "exception", "no")})
			_, err := call.Recv(bounded(t))
			wantError(t, err, Internal, "exception")
		},
		"the peer dies": func(t *testing.T, c *asking, _ Transport, call *Call) {
			c.die(errOwner, func(uint64) *Error { return errOwner })
			_, err := call.Recv(bounded(t))
			wantError(t, err, Unavailable, "connection_lost")
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, pairOptions{}, func(t *testing.T, p pair) {
				c := ask(t, p.asking, Events{})
				r := &reuser{t: t, reused: make(chan struct{}, 1)}
				call, err := c.StartContext(context.Background(), &Request{}, r, new(Call))
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := hear(t, p.answering).(*Request); !ok {
					t.Fatal("no request came")
				}
				end(t, c, p.answering, call)
				c.die(errOwner, func(uint64) *Error { return errOwner }) // the caller is through with everything
				if n := r.ended.Load(); n != 1 {
					t.Errorf("it has ended %d times", n)
				}
				if len(r.reused) > 0 {
					t.Error("its memory was to be used again")
				}
			})
		})
	}
}
