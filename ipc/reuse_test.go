package ipc

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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

// pooled is the memory of a call as those who ask keep it: used again for any other call. What it was asked for tells whether somebody is given the answer of another.
type pooled struct {
	calls *sync.Pool
	call  Call
	ended atomic.Int32
}

func (p *pooled) Ended(*Error) { p.ended.Add(1) }

func (p *pooled) Reuse() {
	calls := p.calls
	if p.ended.Load() != 1 {
		panic("memory is used again of a call that has not ended once")
	}
	*p = pooled{}
	calls.Put(p)
}

// A peer that ends what was not asked yet, and ends it again, meets requesters that leave at the moment of the END. The race detector sees who still looks at memory that is another's.
func TestMemoryIsNotUsedWhileSomebodyLooks(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		var peer sync.WaitGroup
		peer.Go(func() { endTwice(p.answering) })
		c := ask(t, p.asking, Events{})
		calls := &sync.Pool{New: func() any { return new(pooled) }}
		var asking sync.WaitGroup
		var answered atomic.Int64
		for g := range 8 {
			asking.Go(func() {
				for n := range 300 {
					askAndLeave(t, c.Caller, calls, byte(g), n, &answered)
				}
			})
		}
		asking.Wait()
		if answered.Load() == 0 {
			t.Error("nobody was answered")
		}
		c.die(errOwner, func(uint64) *Error { return errOwner })
		_ = p.answering.Close()
		peer.Wait()
	})
}

// endTwice answers each request with its own body, if that is small, after or before it ends one that it has not got, or has ended.
func endTwice(tr Transport) {
	for {
		b, err := tr.Recv()
		if err != nil {
			return
		}
		m, err := Decode(b)
		if err != nil {
			return
		}
		req, ok := m.(*Request)
		if !ok {
			continue
		}
		end := func(id uint64, body Body) {
			_ = send(tr, func(e *encoder) { e.reply(&Reply{ID: id, End: true, Body: body}) })
		}
		switch rand.IntN(8) {
		case 0:
			end(req.ID+1+rand.Uint64N(4), nil)
		case 1:
			end(req.ID-min(req.ID, rand.Uint64N(8)), nil)
		}
		body := req.Body
		if len(body) > 3 {
			body = nil
		}
		end(req.ID, body)
		if rand.IntN(8) == 0 {
			end(req.ID, Body{0xc2})
		}
	}
}

// askAndLeave asks once, and perhaps does not wait for the answer.
func askAndLeave(t *testing.T, c *Caller, calls *sync.Pool, who byte, n int, answered *atomic.Int64) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	how := rand.IntN(8)
	if how == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(300))*time.Microsecond)
		defer cancel()
	}
	body := Body{0xc4, 1, who}
	if how == 1 { // which may have to wait for room
		body = append(Body{0xc5, 0x60, 0x00}, make([]byte, 0x6000)...)
	}
	p := calls.Get().(*pooled)
	p.calls = calls
	call, err := c.StartContext(ctx, &Request{Body: body, Pool: strconv.Itoa(n)}, p, &p.call)
	if err != nil {
		wantLeft(ctx, t, err)
		return
	}
	switch how {
	case 2:
		call.Cancel("cancelled")
		return
	case 3:
		go cancel()
	case 4: // as who watches the peer
		for _, o := range c.AppendOpen(nil) {
			c.Recall(o.ID, "hang")
		}
	}
	r, err := call.Recv(ctx)
	if err != nil {
		wantLeft(ctx, t, err)
		return
	}
	if len(r.Body) == 3 && how != 1 && r.Body[2] != who {
		t.Errorf("%d was given %x", who, r.Body)
	}
	answered.Add(1)
	call.Release()
}

// wantLeft checks that a requester was told nothing but that it has left.
func wantLeft(ctx context.Context, t *testing.T, err error) {
	if ctx.Err() == nil && AsError(err).Reason != "deadline" {
		t.Error(err)
	}
}
