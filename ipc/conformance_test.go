package ipc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What Caller and Serve promise, on every transport there is.

func TestManyCallersShareATransport(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, echoAll)
		c := ask(t, p.asking, Events{})
		ctx := bounded(t)
		var group sync.WaitGroup
		for g := range 32 {
			group.Go(func() {
				r := rand.New(rand.NewPCG(uint64(g), 0))
				for i := range 50 {
					size := []int{0, 10, 300, 5000, 40000}[r.IntN(5)]
					body, err := Marshal(fmt.Sprint(g, "/", i, string(bytes.Repeat([]byte{'x'}, size))))
					if err != nil {
						t.Error(err)
						return
					}
					tensor := Tensor{Name: "x", DType: "uint8", Shape: []uint64{uint64(size)}, Data: bytes.Repeat([]byte{byte(g)}, size)}
					got, err := unary(ctx, c.Caller, &Request{Action: "echo", Headers: map[string]string{"g": fmt.Sprint(g)}, Body: body, Tensors: []Tensor{tensor}})
					if err != nil {
						t.Errorf("call %d of %d: %v", i, g, err)
						return
					}
					want := &Reply{ID: got.ID, End: true, Headers: map[string]string{"g": fmt.Sprint(g)}, Body: body, Tensors: []Tensor{tensor}}
					if !equalMessages(got, want) {
						t.Errorf("call %d of %d: got another's answer", i, g)
						return
					}
				}
			})
		}
		group.Wait()
	})
}

func TestMessagesLargerThanTheTransport(t *testing.T) {
	onEach(t, pairOptions{askingLimit: 8 << 20, answeringLimit: 8 << 20}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, echoAll)
		c := ask(t, p.asking, Events{})
		data := make([]byte, 6<<20)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		got, err := unary(bounded(t), c.Caller, &Request{Tensors: []Tensor{{Name: "frame", DType: "uint8", Shape: []uint64{1080, 1, uint64(len(data)) / 1080 / 1}, Data: data[:len(data)/1080*1080]}}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Tensors[0].Data, data[:len(data)/1080*1080]) {
			t.Error("6 MiB came back changed")
		}
	})
}

func TestStreamsKeepToTheirCredit(t *testing.T) {
	for _, credit := range []uint32{0, 1, 2, 32} {
		t.Run(fmt.Sprint(credit), func(t *testing.T) {
			onEach(t, pairOptions{}, func(t *testing.T, p pair) {
				watched := audit(p.answering)
				serve(t, watched, ServeConfig{}, echoAll)
				c := ask(t, p.asking, Events{})
				ctx := bounded(t)
				const streams, chunks = 8, 200
				body, err := Marshal(chunks)
				if err != nil {
					t.Fatal(err)
				}
				var group sync.WaitGroup
				for range streams {
					group.Go(func() {
						call, err := c.Start(&Request{Action: "count", Credit: credit, Body: body}, nil)
						if err != nil {
							t.Error(err)
							return
						}
						for i := 0; ; i++ {
							r, err := call.Recv(ctx)
							if err != nil {
								t.Error(err)
								return
							}
							if r.End {
								if i != chunks || !r.Empty() {
									t.Errorf("END %+v after %d chunks, want %d", r, i, chunks)
								}
								break
							}
							var got int
							if err := r.Body.Decode(&got); err != nil || got != i {
								t.Errorf("chunk %d says %d (%v)", i, got, err)
								return
							}
						}
						if _, err := call.Recv(ctx); !isEOF(err) {
							t.Errorf("after END: %v, want EOF", err)
						}
					})
				}
				group.Wait()
				if n := watched.violations.Load(); n > 0 {
					t.Errorf("%d chunks were sent without credit", n)
				}
				if n := watched.chunks.Load(); n != streams*chunks {
					t.Errorf("%d chunks were sent, want %d", n, streams*chunks)
				}
			})
		})
	}
}

func TestASlowReaderStallsNobodyElse(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, echoAll)
		c := ask(t, p.asking, Events{})
		ctx := bounded(t)
		body, err := Marshal(5000)
		if err != nil {
			t.Fatal(err)
		}
		slow, err := c.Start(&Request{Action: "count", Credit: 2, Body: body}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			if _, err := unary(ctx, c.Caller, &Request{Action: "echo", Body: body}); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for {
			r, err := slow.Recv(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.End {
				break
			}
			n++
		}
		if n != 5000 {
			t.Errorf("the slow reader got %d chunks, want 5000", n)
		}
	})
}

func TestCancelReachesTheHandler(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		started, cause := make(chan struct{}), make(chan error, 1)
		serve(t, p.answering, ServeConfig{}, func(ctx context.Context, _ *Request, w *Responder) {
			close(started)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			_ = w.Fail(context.Cause(ctx))
		})
		c := ask(t, p.asking, Events{})
		ended := make(chan struct{})
		call, err := c.Start(&Request{}, func(*Error) { close(ended) })
		if err != nil {
			t.Fatal(err)
		}
		await(t, started, "the handler")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = call.Recv(ctx)
		wantError(t, err, Cancelled, "cancelled")
		if err := await(t, cause, "the handler's context to end"); !errors.Is(err, context.Canceled) {
			t.Errorf("the handler's cause is %v, want %v", err, context.Canceled)
		}
		await(t, ended, "done: the handler's END")
		if _, err := call.Recv(t.Context()); !isEOF(err) {
			t.Errorf("Recv of an abandoned call: %v, want EOF", err)
		}
	})
}

func TestTheCallersDeadlineReachesTheHandler(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		cause := make(chan error, 1)
		serve(t, p.answering, ServeConfig{}, func(ctx context.Context, _ *Request, w *Responder) {
			<-ctx.Done()
			cause <- context.Cause(ctx)
			_ = w.Fail(context.Cause(ctx))
		})
		c := ask(t, p.asking, Events{})
		call, err := c.Start(&Request{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithDeadline(t.Context(), time.Now())
		defer cancel()
		_, err = call.Recv(ctx)
		wantError(t, err, DeadlineExceeded, "deadline")
		if err := await(t, cause, "the handler's context to end"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the handler's cause is %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

func TestTheRequestsTimeoutEndsIt(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, func(ctx context.Context, _ *Request, w *Responder) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the handler's context has no deadline")
			}
			<-ctx.Done()
			_ = w.Fail(ctx.Err())
		})
		c := ask(t, p.asking, Events{})
		_, err := unary(bounded(t), c.Caller, &Request{Timeout: time.Millisecond})
		wantError(t, err, DeadlineExceeded, "deadline")
	})
}

func TestCancelFreesAHandlerThatWaitsForCredit(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		sent := make(chan error, 1)
		serve(t, p.answering, ServeConfig{}, func(ctx context.Context, _ *Request, w *Responder) {
			var err error
			for err == nil {
				err = w.Send(ctx, &Reply{})
			}
			sent <- err
			_ = w.Fail(err)
		})
		c := ask(t, p.asking, Events{})
		ended := make(chan struct{})
		call, err := c.Start(&Request{Credit: 1}, func(*Error) { close(ended) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := call.Recv(bounded(t)); err != nil {
			t.Fatal(err)
		}
		call.Cancel("cancelled")
		wantError(t, await(t, sent, "Send to return"), Cancelled, "cancelled")
		await(t, ended, "done")
	})
}

// A call that nobody waits for goes on in the worker until it notices; what it still says concerns nobody.
func TestRepliesOfAnAbandonedCallAreDropped(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		var done atomic.Int64
		ended := make(chan struct{})
		call, err := c.Start(&Request{Credit: 2}, func(*Error) { done.Add(1); close(ended) })
		if err != nil {
			t.Fatal(err)
		}
		req := hear(t, p.answering).(*Request)
		call.Cancel("disconnected")
		call.Cancel("disconnected") // says it once
		if got := hear(t, p.answering); got != (Cancel{req.ID, "disconnected"}) {
			t.Errorf("heard %+v, want a cancel", got)
		}
		say(t, p.answering, &Reply{ID: req.ID})
		say(t, p.answering, &Reply{ID: req.ID})
		say(t, p.answering, &Reply{ID: req.ID, End: true})
		await(t, ended, "done")
		say(t, p.answering, &Reply{ID: req.ID, End: true}) // and once too often
		say(t, p.answering, &Reply{ID: req.ID + 1000})
		pingPong(t, c, p.answering)
		if n := done.Load(); n != 1 {
			t.Errorf("done was called %d times", n)
		}
	})
}

// pingPong makes sure that everything sent to c so far has been dealt with; the peer is a script.
func pingPong(t *testing.T, c *asking, answering Transport) {
	t.Helper()
	answered := make(chan error, 1)
	go func() { answered <- c.Ping(bounded(t)) }()
	ping, ok := hear(t, answering).(Ping)
	if !ok || ping.Answer {
		t.Fatalf("heard %+v, want a ping", ping)
	}
	say(t, answering, Ping{ID: ping.ID + 1, Answer: true}) // nobody's
	say(t, answering, Ping{ID: ping.ID, Answer: true})
	if err := await(t, answered, "the ping's answer"); err != nil {
		t.Error(err)
	}
}

func TestPingsAreAnswered(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		t.Run("by Serve", func(t *testing.T) {
			serve(t, p.answering, ServeConfig{}, echoAll)
			c := ask(t, p.asking, Events{})
			if err := c.Ping(bounded(t)); err != nil {
				t.Error(err)
			}
		})
	})
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		ask(t, p.asking, Events{})
		say(t, p.answering, Ping{ID: 77})
		if got := hear(t, p.answering); got != (Ping{77, true}) {
			t.Errorf("a Caller answered %+v", got)
		}
	})
}

func TestPingWithoutAnAnswer(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantError(t, c.Ping(ctx), Cancelled, "cancelled")
		waiting := make(chan error, 1)
		go func() { waiting <- c.Ping(bounded(t)) }()
		hear(t, p.answering)
		hear(t, p.answering)
		c.die(errOwner, func(uint64) *Error { return errOwner })
		if err := await(t, waiting, "the ping"); !errors.Is(err, errOwner) {
			t.Errorf("a ping that the end overtook: %v, want %v", err, errOwner)
		}
		if err := c.Ping(bounded(t)); !errors.Is(err, errOwner) {
			t.Errorf("a ping after the end: %v, want %v", err, errOwner)
		}
	})
}

func TestAPeerThatSendsWithoutCredit(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		if _, err := c.Start(&Request{Credit: 3}, nil); err != nil {
			t.Fatal(err)
		}
		req := hear(t, p.answering).(*Request)
		for range 4 {
			say(t, p.answering, &Reply{ID: req.ID})
		}
		wantError(t, c.wait(), DataLoss, "protocol")
	})
}

// Credit says what a requester is ready to take. It must not say how much memory this process sets aside.
func TestAnAbsurdCreditIsLimited(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		req := &Request{Credit: math.MaxUint32}
		if _, err := c.Start(req, nil); err != nil {
			t.Fatal(err)
		}
		if got := hear(t, p.answering).(*Request); got.Credit != maxWindow || req.Credit != maxWindow {
			t.Errorf("the peer was granted %d, want %d", got.Credit, maxWindow)
		}
	})
}

func TestStartRefusesBadTensors(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		_, err := c.Start(&Request{Tensors: []Tensor{{Name: "x", DType: "float32", Shape: []uint64{2}, Data: make([]byte, 7)}}}, func(*Error) { t.Error("done was called") })
		wantError(t, err, InvalidArgument, "bad_tensor")
		pingPong(t, c, p.answering) // nothing else was sent
	})
}

func TestStartRefusesWhatIsTooLarge(t *testing.T) {
	onEach(t, pairOptions{askingLimit: 1000}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, echoAll)
		c := ask(t, p.asking, Events{})
		_, err := c.Start(&Request{Context: make([]byte, 1000)}, func(*Error) { t.Error("done was called") })
		wantError(t, err, ResourceExhausted, "too_large")
		if _, err := unary(bounded(t), c.Caller, &Request{}); err != nil {
			t.Errorf("the next call: %v", err)
		}
	})
}

// A peer can guess the next id and end a request that it has not got yet. If that is then not sent, it has still ended once only.
func TestAnEndBeforeTheRequest(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		done := make(chan struct{})
		c := ask(t, &overtaken{Transport: p.asking, t: t, peer: p.answering, ended: done}, Events{})
		call, err := c.Start(&Request{}, func(*Error) { close(done) })
		if err != nil {
			t.Fatalf("done was called, and Start says %v", err)
		}
		if r, err := call.Recv(bounded(t)); err != nil || !r.End {
			t.Errorf("got %+v, %v; want END", r, err)
		}
	})
}

// overtaken fails to send a request, but not before the peer has ended it.
type overtaken struct {
	Transport
	t     *testing.T
	peer  Transport
	ended <-chan struct{}
}

func (o *overtaken) Send(parts ...[]byte) (uint64, error) {
	m, _ := Decode(bytes.Join(parts, nil))
	say(o.t, o.peer, &Reply{ID: m.(*Request).ID, End: true})
	await(o.t, o.ended, "the early END")
	return 0, tooLarge(2, 1)
}

func TestEveryCallEndsOnceWhenTheTransportDies(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		log := record(p.asking)
		c := ask(t, log, Events{})
		const calls = 50
		type result struct {
			sent uint64
			err  error
			eof  error
		}
		var done [calls]atomic.Int64
		results := make(chan result, calls)
		for i := range calls {
			call, err := c.Start(&Request{Credit: uint32(i % 4)}, func(*Error) { done[i].Add(1) })
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				var r result
				for r.err == nil {
					_, r.err = call.Recv(bounded(t))
				}
				r.sent = call.end
				_, r.eof = call.Recv(t.Context())
				results <- r
			}()
		}
		answered := map[uint64]bool{}
		for i := range calls {
			req := hear(t, p.answering).(*Request)
			for range i % 4 {
				say(t, p.answering, &Reply{ID: req.ID}) // some have chunks under way
			}
			if i%5 == 0 {
				say(t, p.answering, &Reply{ID: req.ID, End: true}) // and some have ended
				answered[req.ID] = true
			}
		}
		pingPongPast(t, c, p.answering)

		refused := Errorf(Unavailable, "connection_lost", "gone")
		c.die(refused, func(sent uint64) *Error {
			return &Error{Code: Aborted, Reason: "worker_lost", Message: fmt.Sprint(sent)}
		})
		ended := 0
		for range calls {
			r := await(t, results, "a call's end")
			if !isEOF(r.eof) {
				t.Errorf("after its end a call says %v, want EOF", r.eof)
			}
			if isEOF(r.err) {
				ended++
				continue
			}
			wantError(t, r.err, Aborted, "worker_lost")
			if got := AsError(r.err).Message; got != fmt.Sprint(r.sent) {
				t.Errorf("the owner was told position %s, Start was told %d", got, r.sent)
			}
		}
		if ended != len(answered) {
			t.Errorf("%d calls had their END, want %d", ended, len(answered))
		}
		for i := range done {
			if n := done[i].Load(); n != 1 {
				t.Errorf("done of call %d was called %d times", i, n)
			}
		}
		if _, err := c.Start(&Request{}, func(*Error) { t.Error("done of a refused call") }); !errors.Is(err, refused) {
			t.Errorf("Start after the end: %v, want %v", err, refused)
		}
	})
}

// pingPongPast is pingPong for a script that has credit messages still to hear.
func pingPongPast(t *testing.T, c *asking, answering Transport) {
	t.Helper()
	answered := make(chan error, 1)
	go func() { answered <- c.Ping(bounded(t)) }()
	for {
		if ping, ok := hear(t, answering).(Ping); ok {
			say(t, answering, Ping{ID: ping.ID, Answer: true})
			break
		}
	}
	if err := await(t, answered, "the ping's answer"); err != nil {
		t.Error(err)
	}
}

// The positions that Close hands out are those that the transport returned, for requests sent by many goroutines at a time.
func TestSentPositionsAreExact(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		log := record(p.asking)
		c := ask(t, log, Events{})
		const calls = 64
		var group sync.WaitGroup
		for i := range calls {
			group.Go(func() {
				if _, err := c.Start(&Request{Context: make([]byte, i)}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		for range calls {
			hear(t, p.answering)
		}
		group.Wait()
		var got []uint64
		c.die(errOwner, func(sent uint64) *Error {
			got = append(got, sent)
			return errOwner
		})
		want := map[uint64]bool{}
		for _, end := range log.ends {
			want[end] = true
		}
		for _, end := range got {
			if !want[end] {
				t.Errorf("position %d is no request's end", end)
			}
			delete(want, end)
		}
		if len(want) > 0 {
			t.Errorf("%d requests were not given to end", len(want))
		}
	})
}

// Calls that are started while the end comes either do not start or end; none is forgotten.
func TestStartRacesWithTheEnd(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, echoAll)
		c := ask(t, p.asking, Events{})
		var started, done, ended atomic.Int64
		var group sync.WaitGroup
		many := make(chan struct{})
		for range 8 {
			group.Go(func() {
				for i := 0; ; i++ {
					call, err := c.Start(&Request{}, func(*Error) { done.Add(1) })
					if err != nil {
						return
					}
					if started.Add(1) == 200 {
						close(many)
					}
					if i%3 == 0 {
						call.Cancel("cancelled")
						ended.Add(1)
						continue
					}
					if _, err := call.Recv(bounded(t)); err == nil || errors.Is(err, errOwner) {
						ended.Add(1)
					}
				}
			})
		}
		await(t, many, "calls")
		c.die(errOwner, func(uint64) *Error { return errOwner })
		group.Wait()
		if s, d, e := started.Load(), done.Load(), ended.Load(); s != d || s != e {
			t.Errorf("%d calls were started, %d done, %d ended", s, d, e)
		}
	})
}

// A reply that came while the transport died is not lost, where the transport can tell.
func TestRepliesSentBeforeTheEndArrive(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		call, err := c.Start(&Request{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		req := hear(t, p.answering).(*Request)
		say(t, p.answering, &Reply{ID: req.ID, End: true, Headers: map[string]string{"last": "word"}})
		if err := p.answering.Close(); err != nil {
			t.Fatal(err)
		}
		if _, ok := p.asking.(*Ring); ok {
			_ = p.asking.Close() // the owner learns of a worker's death from the kernel, not from the ring
		}
		if err := c.wait(); !isEOF(err) {
			t.Errorf("Run returned %v, want EOF", err)
		}
		if r, err := call.Recv(bounded(t)); err != nil || r.Headers["last"] != "word" {
			t.Errorf("got %+v, %v", r, err)
		}
	})
}

func TestEventsOutsideOfCalls(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		hellos, drains := make(chan *Hello, 1), make(chan struct{}, 1)
		var replies atomic.Int64
		c := ask(t, p.asking, Events{Hello: func(h *Hello) { hellos <- h }, Drain: func() { drains <- struct{}{} }, Reply: func() { replies.Add(1) }})
		want := &Hello{MinVersion: 1, MaxVersion: 1, SDK: "test", Actions: []Action{{Name: "a", Stream: true}}}
		if err := SendHello(p.answering, *want); err != nil {
			t.Fatal(err)
		}
		if got := await(t, hellos, "the hello"); !equalMessages(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if err := SendSignal(p.answering, KindDrain); err != nil {
			t.Fatal(err)
		}
		await(t, drains, "drain")
		say(t, p.answering, &Reply{ID: 12345}) // late: nobody's, but a sign of life
		pingPong(t, c, p.answering)
		if n := replies.Load(); n != 1 {
			t.Errorf("Events.Reply was called %d times, want 1", n)
		}
		if err := c.Drain(); err != nil {
			t.Error(err)
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		if a, b := hear(t, p.answering), hear(t, p.answering); a != KindDrain || b != KindStop {
			t.Errorf("heard %v and %v, want drain and stop", a, b)
		}
	})
}

func TestAPeerThatEndsTheConnectionSaysWhy(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		say(t, p.answering, &Reply{End: true, Err: Errorf(InvalidArgument, "duplicate_id", "why")})
		wantError(t, c.wait(), InvalidArgument, "duplicate_id")
	})
}

func TestACallerRefusesGarbage(t *testing.T) {
	for name, b := range map[string][]byte{"not MessagePack": {0xc1}, "a request's id of nil": {0x92, 0x01, 0xc0}, "a claim": {0xdd, 0xff, 0xff, 0xff, 0xff}} {
		t.Run(name, func(t *testing.T) {
			onEach(t, pairOptions{}, func(t *testing.T, p pair) {
				c := ask(t, p.asking, Events{})
				if _, err := p.answering.Send(b); err != nil {
					t.Fatal(err)
				}
				wantError(t, c.wait(), DataLoss, "protocol")
			})
		})
	}
	onEach(t, pairOptions{askingLimit: 100}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		say(t, p.answering, &Reply{ID: 1, Body: append(Body{0xc4, 200}, make([]byte, 200)...)})
		wantError(t, c.wait(), DataLoss, "protocol")
	})
}

func TestServeIgnoresWhatItDoesNotKnow(t *testing.T) {
	for _, strict := range []bool{false, true} {
		onEach(t, pairOptions{}, func(t *testing.T, p pair) {
			serve(t, p.answering, ServeConfig{Strict: strict}, echoAll)
			for _, b := range [][]byte{
				{0x92, 99, 0}, {0x93, 11, 0, 0x80}, {0x92, 0xcd, 1, 0, 5}, // kinds that do not exist yet
				encodeMessage(Cancel{ID: 5}), encodeMessage(Credit{5, 5}), // requests that are not open
				encodeMessage(&Reply{ID: 5}), encodeMessage(&Hello{}), encodeMessage(Ping{5, true}), encodeMessage(KindDrain), // nothing a server waits for
			} {
				if _, err := p.asking.Send(b); err != nil {
					t.Fatal(err)
				}
			}
			say(t, p.asking, &Request{ID: 1})
			if r, ok := hear(t, p.asking).(*Reply); !ok || r.ID != 1 || !r.End || r.Err != nil {
				t.Errorf("heard %+v, want an END", r)
			}
		})
	}
}

func TestServeAnswersMalformedMessages(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, echoAll)
		for _, c := range []struct {
			hex    string
			id     uint64
			reason string
		}{
			{"93 01 05 07", 5, "bad_message"},
			{"92 01 06 c0", 6, "bad_message"},
			{"9a 01 07 c0c0c0c0c0c0c0 ddffffffff", 7, "bad_message"},
			{"9b 01 08 c0c0c0c0c0c0c0c0 91 94 a178 a5 75696e7438 9102 c40101", 8, "bad_tensor"},
		} {
			if _, err := p.asking.Send(unhex(t, c.hex)); err != nil {
				t.Fatal(err)
			}
			hearError(t, p.asking, c.id, InvalidArgument, c.reason)
		}
		say(t, p.asking, &Request{ID: 9})
		if r := hear(t, p.asking).(*Reply); r.Err != nil {
			t.Errorf("a good request after bad ones: %v", r.Err)
		}
	})
}

func TestServeHangsUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		send   []string
		code   Code
		reason string
		strict bool
	}{
		{name: "not MessagePack", send: []string{"c1"}, code: InvalidArgument, reason: "bad_message"},
		{name: "no id", send: []string{"91 01"}, code: InvalidArgument, reason: "bad_message"},
		{name: "id 0", send: []string{"92 01 00"}, code: InvalidArgument, reason: "bad_message"},
		{name: "id 0, strict", send: []string{"92 01 00"}, code: InvalidArgument, reason: "bad_message", strict: true},
		{name: "an id that is open", send: []string{"94 01 05 c0 a468616e67", "92 01 05"}, code: InvalidArgument, reason: "duplicate_id"},
		{name: "an id that is open, strict", send: []string{"94 01 05 c0 a468616e67", "92 01 05"}, code: InvalidArgument, reason: "duplicate_id", strict: true},
		{name: "a malformed message about an open request", send: []string{"94 01 05 c0 a468616e67", "93 01 05 07"}, code: InvalidArgument, reason: "bad_message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEach(t, pairOptions{}, func(t *testing.T, p pair) {
				s := serve(t, p.answering, ServeConfig{Strict: c.strict}, func(ctx context.Context, _ *Request, _ *Responder) { <-ctx.Done() })
				for _, h := range c.send {
					if _, err := p.asking.Send(unhex(t, h)); err != nil {
						t.Fatal(err)
					}
				}
				hearError(t, p.asking, 0, c.code, c.reason)
				wantError(t, s.wait(), c.code, c.reason)
			})
		})
	}
}

// Towards a supervisor there is nothing to explain: whatever is malformed ends Serve.
func TestStrictServeEndsOnMalformedMessages(t *testing.T) {
	for _, h := range []string{"c1", "93 01 05 07", "93 03 05 01"} {
		onEach(t, pairOptions{}, func(t *testing.T, p pair) {
			s := serve(t, p.answering, ServeConfig{Strict: true}, echoAll)
			if _, err := p.asking.Send(unhex(t, h)); err != nil {
				t.Fatal(err)
			}
			wantError(t, s.wait(), DataLoss, "protocol")
		})
	}
	// A bad tensor is the caller's, whom the supervisor only passes on.
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{Strict: true}, echoAll)
		if _, err := p.asking.Send(unhex(t, "9b 01 08 c0c0c0c0c0c0c0c0 91 94 a178 a5 75696e7438 9102 c40101")); err != nil {
			t.Fatal(err)
		}
		hearError(t, p.asking, 8, InvalidArgument, "bad_tensor")
	})
}

func TestServeLimitsOpenRequests(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		release := make(chan struct{})
		serve(t, p.answering, ServeConfig{MaxInFlight: 2}, func(_ context.Context, _ *Request, _ *Responder) { <-release })
		for id := uint64(1); id <= 3; id++ {
			say(t, p.asking, &Request{ID: id})
		}
		hearError(t, p.asking, 3, ResourceExhausted, "too_many_requests")
		close(release)
		seen := map[uint64]bool{}
		for range 2 {
			seen[hear(t, p.asking).(*Reply).ID] = true
		}
		if !seen[1] || !seen[2] {
			t.Errorf("ENDs of %v, want 1 and 2", seen)
		}
		say(t, p.asking, &Request{ID: 3}) // there is room again
		if r := hear(t, p.asking).(*Reply); r.ID != 3 || r.Err != nil {
			t.Errorf("heard %+v, %v", r, r.Err)
		}
	})
}

// An id may be used again as soon as its END is there.
func TestIDsAreFreeWithTheirEND(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{MaxInFlight: 1}, echoAll)
		for range 500 {
			say(t, p.asking, &Request{ID: 1})
			if r := hear(t, p.asking).(*Reply); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	})
}

func TestAReplyThatIsTooLarge(t *testing.T) {
	onEach(t, pairOptions{answeringLimit: 1000}, func(t *testing.T, p pair) {
		chunk := make(chan error, 1)
		serve(t, p.answering, ServeConfig{}, func(ctx context.Context, req *Request, w *Responder) {
			large := &Reply{Body: append(Body{0xc5, 4, 0}, make([]byte, 1024)...)}
			if req.Action == "chunk" {
				chunk <- w.Send(ctx, large)
				return
			}
			_ = w.End(large)
		})
		say(t, p.asking, &Request{ID: 1})
		hearError(t, p.asking, 1, ResourceExhausted, "too_large")
		say(t, p.asking, &Request{ID: 2, Action: "chunk"})
		wantError(t, await(t, chunk, "Send"), ResourceExhausted, "too_large")
		if r := hear(t, p.asking).(*Reply); r.ID != 2 || !r.End || r.Err != nil {
			t.Errorf("heard %+v, want the END", r)
		}
	})
}

func TestAHandlerThatForgetsItsEND(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		serve(t, p.answering, ServeConfig{}, func(_ context.Context, req *Request, w *Responder) {
			switch req.Action {
			case "goexit":
				runtime.Goexit()
			case "twice":
				_ = w.End(&Reply{Headers: map[string]string{"first": "1"}})
				_ = w.Fail(io.ErrUnexpectedEOF)
			}
		})
		for id, action := range []string{"return", "goexit", "twice"} {
			say(t, p.asking, &Request{ID: uint64(id + 1), Action: action})
			if r := hear(t, p.asking).(*Reply); r.ID != uint64(id+1) || !r.End || r.Err != nil {
				t.Errorf("%s: heard %+v (%v), want one END", action, r, r.Err)
			}
		}
	})
}

func TestTheTransportsEndCancelsAndJoinsHandlers(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		started := make(chan struct{}, 3)
		var left atomic.Int64
		s := serve(t, p.answering, ServeConfig{}, func(ctx context.Context, _ *Request, w *Responder) {
			started <- struct{}{}
			<-ctx.Done()
			wantError(t, context.Cause(ctx), Cancelled, "disconnected")
			if err := w.Fail(context.Cause(ctx)); err == nil {
				t.Error("END was sent on a transport that is gone")
			}
			left.Add(1)
		})
		for id := range 3 {
			say(t, p.asking, &Request{ID: uint64(id + 1)})
			await(t, started, "a handler")
		}
		_ = p.answering.Close()
		if err := s.wait(); !isEOF(err) {
			t.Errorf("Serve returned %v, want EOF", err)
		}
		if n := left.Load(); n != 3 {
			t.Errorf("Serve returned before %d of 3 handlers", 3-n)
		}
	})
}

// A handler that is sending to a peer that does not read must not keep Serve from ending.
func TestServeEndsAlthoughThePeerDoesNotRead(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		full := make(chan struct{})
		s := serve(t, p.answering, ServeConfig{Strict: true}, func(ctx context.Context, _ *Request, w *Responder) {
			chunk := &Reply{Body: append(Body{0xc6, 0, 8, 0, 0}, make([]byte, 512<<10)...)}
			if err := w.Send(ctx, chunk); err == nil { // does not fit into either transport
				t.Error("half a megabyte found room")
			}
			close(full)
		})
		say(t, p.asking, &Request{ID: 1, Credit: 2})
		if _, err := p.asking.Send([]byte{0xc1}); err != nil {
			t.Fatal(err)
		}
		wantError(t, s.wait(), DataLoss, "protocol")
		await(t, full, "the handler")
	})
}

func TestDrainingFinishesWhatIsOpen(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		draining, release := make(chan struct{}), make(chan struct{})
		s := serve(t, p.answering, ServeConfig{Draining: draining, Drain: func() { close(draining) }}, func(_ context.Context, _ *Request, w *Responder) {
			<-release
			_ = w.End(&Reply{})
		})
		say(t, p.asking, &Request{ID: 1})
		say(t, p.asking, KindDrain)
		say(t, p.asking, &Request{ID: 2}) // against the rules, but not worth dying for
		say(t, p.asking, Ping{ID: 3})     // pings go on
		if got := hear(t, p.asking); got != (Ping{3, true}) {
			t.Fatalf("heard %+v, want the ping's answer", got)
		}
		close(release)
		hear(t, p.asking)
		hear(t, p.asking)
		if err := s.wait(); err != nil {
			t.Errorf("a drained Serve returned %v", err)
		}
	})
}

func TestDrainingWithNothingOpen(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		draining := make(chan struct{})
		s := serve(t, p.answering, ServeConfig{Draining: draining}, echoAll)
		say(t, p.asking, &Request{ID: 1})
		hear(t, p.asking)
		close(draining)
		if err := s.wait(); err != nil {
			t.Errorf("a drained Serve returned %v", err)
		}
	})
}

func TestDrainAndStopAreReported(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		said := make(chan Kind, 2)
		serve(t, p.answering, ServeConfig{Drain: func() { said <- KindDrain }, Stop: func() { said <- KindStop }}, echoAll)
		say(t, p.asking, KindStop)
		say(t, p.asking, KindDrain)
		if a, b := await(t, said, "stop"), await(t, said, "drain"); a != KindStop || b != KindDrain {
			t.Errorf("reported %v, %v", a, b)
		}
	})
}

func TestTheEndOfServesContextCancelsRequests(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		ctx, cancel := context.WithCancel(context.Background())
		ends := make(chan error, 1)
		go func() {
			ends <- Serve(ctx, p.answering, handlerFunc(func(ctx context.Context, _ *Request, w *Responder) {
				<-ctx.Done()
				_ = w.Fail(ctx.Err())
			}), ServeConfig{})
		}()
		say(t, p.asking, &Request{ID: 1})
		cancel()
		hearError(t, p.asking, 1, Cancelled, "cancelled")
		_ = p.answering.Close()
		if err := await(t, ends, "the end of Serve"); !isEOF(err) {
			t.Errorf("Serve returned %v, want EOF", err)
		}
	})
}
