package ipc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringmasterd/ringmaster/internal/budget"
)

// allowance is a budget and one client's account in it.
type allowance struct {
	*budget.Budget
	account *budget.Account
}

func allow(size int64, requests int) allowance {
	b := budget.New(size)
	return allowance{b, b.User().Account(requests)}
}

// wantNothingHeld fails the test if somebody is still charged. Preconditions: everything that was charged has ended.
func (a allowance) wantNothingHeld(t *testing.T) {
	t.Helper()
	if a.Used() != 0 || a.account.Held() != 0 {
		t.Errorf("%d bytes are held, %d by the client", a.Used(), a.account.Held())
	}
}

// onCharged runs a test on the transports whose messages Serve charges to clients.
func onCharged(t *testing.T, limit int, test func(*testing.T, pair)) {
	for _, i := range implementations[1:] {
		t.Run(i.name, func(t *testing.T) {
			checkLeaks(t)
			test(t, i.open(t, pairOptions{askingLimit: limit, answeringLimit: limit}))
		})
	}
}

// A request for which there is no room is refused without being kept; the connection's cancels and other requests go on, and what was refused fits once there is room again.
func TestARequestThatFindsNoRoom(t *testing.T) {
	onCharged(t, 4<<20, func(t *testing.T, p pair) {
		room := allow(8<<20, 100)
		begun := make(chan struct{}, 10)
		var refused atomic.Int64
		s := serve(t, p.answering, ServeConfig{Account: room.account, Refused: func(*Error) { refused.Add(1) }}, func(ctx context.Context, req *Request, w *Responder) {
			if req.Action == "hang" {
				begun <- struct{}{}
				<-ctx.Done()
			}
			_ = w.End(&Reply{})
		})
		peer := p.asking
		large := make([]byte, 3<<20)
		say(t, peer, &Request{ID: 1, Action: "hang", Context: large})
		await(t, begun, "the first request")
		if held := room.account.Held(); held < 3<<20 || held > 3<<20+1<<17 {
			t.Errorf("a request of 3 MiB holds %d bytes", held)
		}
		say(t, peer, &Request{ID: 2, Context: large})
		r := hear(t, peer).(*Reply)
		wantError(t, r.Err, ResourceExhausted, "memory_full")
		if r.ID != 2 || r.Err.RetryAfter <= 0 || refused.Load() != 1 {
			t.Errorf("%+v, %d refused", r, refused.Load())
		}
		say(t, peer, &Request{ID: 3})
		if r := hear(t, peer).(*Reply); r.ID != 3 || r.Err != nil {
			t.Errorf("a small request: %+v", r)
		}
		say(t, peer, Cancel{ID: 1})
		if r := hear(t, peer).(*Reply); r.ID != 1 {
			t.Errorf("the cancelled one: %+v", r)
		}
		for id := uint64(4); ; id++ { // the handler of 1 returns in its own time
			say(t, peer, &Request{ID: id, Context: large})
			if r := hear(t, peer).(*Reply); r.Err == nil {
				break
			}
		}
		_ = peer.Close()
		_ = s.wait()
		room.wantNothingHeld(t)
	})
}

// Where there is no room at all, small messages that are not requests still get through: they are what makes room.
func TestCancelsNeedNoRoom(t *testing.T) {
	onCharged(t, 1<<20, func(t *testing.T, p pair) {
		room := allow(100<<10, 100)
		s := serve(t, p.answering, ServeConfig{Account: room.account}, func(ctx context.Context, _ *Request, w *Responder) {
			<-ctx.Done()
			_ = w.End(&Reply{})
		})
		peer := p.asking
		open := uint64(0)
		for { // fill it
			say(t, peer, &Request{ID: open + 1})
			say(t, peer, Ping{ID: 9})
			if _, ok := hear(t, peer).(Ping); !ok {
				break
			}
			open++
		}
		_ = hear(t, peer).(Ping)
		for id := uint64(1); id <= open; id++ {
			say(t, peer, Cancel{ID: id})
			if r := hear(t, peer).(*Reply); r.ID != id {
				t.Errorf("%+v", r)
			}
		}
		_ = peer.Close()
		_ = s.wait()
		room.wantNothingHeld(t)
	})
}

// A large message that is nothing a client has reason to send is not worth its bytes.
func TestALargeMessageThatIsNoRequest(t *testing.T) {
	onCharged(t, 1<<20, func(t *testing.T, p pair) {
		room := allow(100<<10, 100)
		s := serve(t, p.answering, ServeConfig{Account: room.account}, echoAll)
		peer := p.asking
		say(t, peer, Cancel{ID: 1, Reason: string(make([]byte, 60<<10))})
		hearError(t, peer, 0, ResourceExhausted, "memory_full")
		wantError(t, s.wait(), ResourceExhausted, "memory_full")
		room.wantNothingHeld(t)
	})
}

func TestTooManyRequestsOfOneClient(t *testing.T) {
	checkLeaks(t)
	room := allow(64<<20, 3)
	hang := func(ctx context.Context, _ *Request, w *Responder) {
		<-ctx.Done()
		_ = w.End(&Reply{})
	}
	var peers []*Socket
	var served []*serving
	for range 2 {
		a, b := connPair(t)
		peers = append(peers, NewSocket(a, 1<<20, 0))
		served = append(served, serve(t, NewSocket(b, 1<<20, 0), ServeConfig{Account: room.account}, hang))
	}
	say(t, peers[0], &Request{ID: 1})
	say(t, peers[0], &Request{ID: 2})
	say(t, peers[0], Ping{ID: 1})
	_ = hear(t, peers[0]).(Ping)
	say(t, peers[1], &Request{ID: 1})
	say(t, peers[1], &Request{ID: 2})
	hearError(t, peers[1], 2, ResourceExhausted, "too_many_requests")
	say(t, peers[0], Cancel{ID: 2})
	if r := hear(t, peers[0]).(*Reply); r.ID != 2 {
		t.Errorf("%+v", r)
	}
	say(t, peers[1], &Request{ID: 2}) // its place is free before its END can be seen
	say(t, peers[1], Ping{ID: 1})
	_ = hear(t, peers[1]).(Ping)
	for i, s := range served {
		_ = peers[i].Close()
		_ = s.wait()
	}
	room.wantNothingHeld(t)
}

// through is a Handler that passes requests on to a Caller, as a server does, once for each element of gate.
type through struct {
	caller *Caller
	gate   chan struct{} // nil: always open
	ended  chan error    // how requests failed, as many as it holds
}

func (h *through) serve(ctx context.Context, req *Request, w *Responder) {
	call, err := h.caller.Start(req, nil)
	if err != nil {
		_ = w.Fail(err)
		return
	}
	for {
		if h.gate != nil {
			select {
			case <-h.gate:
			case <-ctx.Done():
			}
		}
		r, err := call.Recv(ctx)
		switch {
		case err != nil:
			_ = w.Fail(err)
			select {
			case h.ended <- err:
			default: // nobody asks
			}
			return
		case r.End:
			_ = w.End(r)
			return
		}
		if err := w.Send(ctx, r); err != nil {
			call.Cancel(AsError(err).Reason)
			_ = w.Fail(err)
			return
		}
	}
}

// relayed is a client, a server that charges it, and a worker.
func relayed(t *testing.T, room allowance, gate chan struct{}, work handlerFunc) (client *asking, front *serving, h *through) {
	t.Helper()
	wa, wb := connPair(t)
	serve(t, NewSocket(wb, 64<<20, 0), ServeConfig{}, work)
	h = &through{caller: ask(t, NewSocket(wa, 64<<20, 0), Events{}).Caller, gate: gate, ended: make(chan error, 1)}
	ca, cb := connPair(t)
	front = serve(t, NewSocket(cb, 64<<20, 0), ServeConfig{Account: room.account}, h.serve)
	return ask(t, NewSocket(ca, 64<<20, 0), Events{}), front, h
}

func sizedBody(n int) Body {
	return append(binary.BigEndian.AppendUint32([]byte{0xc6}, uint32(n)), make([]byte, n)...)
}

// A stream many times larger than its client's share passes, whatever the size of its chunks, while its reader takes them: credit keeps what waits small.
func TestAStreamLargerThanItsShare(t *testing.T) {
	checkLeaks(t)
	room := allow(16<<20, 100)
	client, front, _ := relayed(t, room, nil, func(ctx context.Context, req *Request, w *Responder) {
		size := 2 << 20
		if req.Action == "small" {
			size = 1000
		}
		chunk := sizedBody(size)
		for range 32 {
			if w.Send(ctx, &Reply{Body: chunk}) != nil {
				break
			}
		}
		_ = w.End(&Reply{})
	})
	for _, action := range []string{"large", "small"} {
		call, err := client.Start(&Request{Action: action, Credit: 64}, nil)
		if err != nil {
			t.Fatal(err)
		}
		chunks := 0
		for {
			r, err := call.Recv(bounded(t))
			if err != nil {
				t.Fatalf("%s: %v after %d chunks", action, err, chunks)
			}
			if r.End {
				break
			}
			chunks++
		}
		if chunks != 32 {
			t.Errorf("%s: %d chunks", action, chunks)
		}
	}
	client.die(errOwner, func(uint64) *Error { return errOwner })
	_ = front.wait()
	room.wantNothingHeld(t)
}

// A worker whose replies grow large when nobody takes them: the call ends, its worker is told, and others go on.
func TestRepliesThatFindNoRoom(t *testing.T) {
	checkLeaks(t)
	room := allow(8<<20, 100)
	gate := make(chan struct{})
	cancelled := make(chan error, 1)
	client, front, h := relayed(t, room, gate, func(ctx context.Context, req *Request, w *Responder) {
		if req.Action == "echo" {
			_ = w.End(&Reply{Body: req.Body})
			return
		}
		chunk := sizedBody(3 << 20)
		var err error
		for err == nil {
			err = w.Send(ctx, &Reply{Body: chunk})
		}
		cancelled <- context.Cause(ctx)
		_ = w.Fail(err)
	})
	call, err := client.Start(&Request{Action: "flood", Credit: 64}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := await(t, cancelled, "the worker to be told"); !errors.Is(err, context.Canceled) {
		t.Errorf("the worker's action ended with %v", err)
	}
	close(gate)
	for err == nil {
		_, err = call.Recv(bounded(t))
	}
	wantError(t, err, ResourceExhausted, "slow_reader")
	wantError(t, await(t, h.ended, "the request's end"), ResourceExhausted, "slow_reader")
	if _, err := unary(bounded(t), client.Caller, &Request{Action: "echo", Body: sizedBody(100)}); err != nil {
		t.Errorf("another request: %v", err)
	}
	client.die(errOwner, func(uint64) *Error { return errOwner })
	_ = front.wait()
	room.wantNothingHeld(t)
}

// One answer that is larger than the room there is.
func TestAnAnswerThatFindsNoRoom(t *testing.T) {
	checkLeaks(t)
	room := allow(1<<20, 100)
	client, front, _ := relayed(t, room, nil, func(_ context.Context, _ *Request, w *Responder) { _ = w.End(&Reply{Body: sizedBody(1 << 20)}) })
	_, err := unary(bounded(t), client.Caller, &Request{})
	wantError(t, err, ResourceExhausted, "memory_full")
	if AsError(err).RetryAfter <= 0 {
		t.Error("no retry_after")
	}
	client.die(errOwner, func(uint64) *Error { return errOwner })
	_ = front.wait()
	room.wantNothingHeld(t)
}

// Many calls, cancelled, refused and ended in every order, leave nothing charged.
func TestNothingStaysCharged(t *testing.T) {
	checkLeaks(t)
	room := allow(1<<20, 50)
	client, front, _ := relayed(t, room, nil, func(ctx context.Context, _ *Request, w *Responder) {
		chunk := sizedBody(20 << 10)
		for range 5 {
			if w.Send(ctx, &Reply{Body: chunk}) != nil {
				break
			}
		}
		_ = w.End(&Reply{Body: chunk})
	})
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			for i := range 30 {
				call, err := client.Start(&Request{Credit: uint32(g), Body: sizedBody(g * 4 << 10)}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for range i % 7 {
					if _, err := call.Recv(bounded(t)); err != nil {
						break
					}
				}
				call.Cancel("cancelled")
			}
		})
	}
	all.Wait()
	client.die(errOwner, func(uint64) *Error { return errOwner })
	_ = front.wait()
	room.wantNothingHeld(t)
}

// A message that has begun must go on; one that has not may take its time.
func TestAMessageThatStopsHalfWay(t *testing.T) {
	whole := rawFrame(encodeMessage(&Request{ID: 1, Context: make([]byte, 300<<10)}))
	for _, c := range []struct {
		name  string
		step  int           // bytes at a time
		pause time.Duration // between them
		ends  bool          // the connection does
	}{
		{"it stops", len(whole) - 1, time.Hour, true},
		{"it stops after its length", 4, time.Hour, true},
		{"a byte a second", 1, time.Second, true},
		{"64 KiB a while are progress", 64 << 10, 9 * time.Second, false},
		{"half of that is not", 32 << 10, 9 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				sock := NewSocket(b, 1<<20, 0)
				sock.SetReadTimeout(10 * time.Second)
				room := allow(8<<20, 10)
				ends := make(chan error, 1)
				go func() {
					ends <- Serve(context.Background(), sock, handlerFunc(echoAll), ServeConfig{Account: room.account})
				}()
				over := make(chan struct{})
				defer close(over)
				go func() {
					<-time.After(time.Hour) // an idle connection is nobody's business
					for rest := whole; len(rest) > 0; rest = rest[min(c.step, len(rest)):] {
						if _, err := a.Write(rest[:min(c.step, len(rest))]); err != nil {
							return
						}
						select {
						case <-time.After(c.pause):
						case <-over:
							return
						}
					}
				}()
				peer := NewSocket(a, 1<<20, 0)
				if c.ends {
					hearError(t, peer, 0, DeadlineExceeded, "deadline")
					wantError(t, <-ends, DeadlineExceeded, "deadline")
				} else {
					if r := hear(t, peer).(*Reply); r.Err != nil {
						t.Errorf("%+v", r)
					}
					<-time.After(time.Hour)
					say(t, peer, &Request{ID: 2})
					if r := hear(t, peer).(*Reply); r.ID != 2 {
						t.Errorf("%+v", r)
					}
					_ = a.Close()
					<-ends
				}
				_ = a.Close()
				room.wantNothingHeld(t)
			})
		})
	}
}

// A slow reader of a large message keeps its connection while it reads.
func TestASlowReaderThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := NewSocket(b, 16<<20, time.Second)
		message := bytes.Repeat([]byte{7}, 4<<20)
		sent := make(chan error, 1)
		go func() {
			_, err := s.Send(message)
			sent <- err
		}()
		start := time.Now()
		got := make([]byte, 4+len(message))
		for at := 0; at < len(got); at += 100 << 10 {
			<-time.After(900 * time.Millisecond)
			if _, err := io.ReadFull(a, got[at:min(len(got), at+100<<10)]); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-sent; err != nil || !bytes.Equal(got[4:], message) {
			t.Error(err)
		}
		if time.Since(start) < 10*time.Second {
			t.Error("the reader was not slow")
		}
		go func() {
			_, err := s.Send(message)
			sent <- err
		}()
		_, _ = io.ReadFull(a, got[:leastProgress-1])
		if err := <-sent; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a reader that stopped: %v", err)
		}
		_ = a.Close()
	})
}

// What takes more memory decoded than its bytes is limited in number.
func TestTooManyOfSmallThings(t *testing.T) {
	headers := map[string]string{}
	for i := range maxHeaders + 1 {
		headers[string(rune('a'+i))] = ""
	}
	for name, req := range map[string]*Request{
		"headers":    {ID: 1, Headers: headers},
		"tensors":    {ID: 1, Tensors: make([]Tensor, maxTensors+1)},
		"dimensions": {ID: 1, Tensors: []Tensor{{DType: "int8", Shape: make([]uint64, maxDims+1)}}},
	} {
		m, err := Decode(encodeMessage(req))
		wantError(t, err, InvalidArgument, "bad_message")
		if r, ok := m.(*Request); !ok || r.ID != 1 {
			t.Errorf("%s: it cannot be answered: %+v", name, m)
		}
	}
}
