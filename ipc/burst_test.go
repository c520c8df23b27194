package ipc

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

// putAll has messages be there before the peer can see the first of them.
func putAll(t *testing.T, r *Ring, messages ...any) {
	t.Helper()
	for _, m := range messages {
		if _, put, err := r.out.TryPut(encodeMessage(m)); !put || err != nil {
			t.Fatalf("put %T: %v, %v", m, put, err)
		}
	}
	r.out.Wake()
}

// flood sends messages until the connection ends. Nothing makes its peer stop.
func flood(t *testing.T, r *Ring, message func(i int) any) {
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for i := 0; ; i++ {
			if _, err := r.Send(encodeMessage(message(i))); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = r.Close()
		await(t, flooded, "the end of the flood")
	})
}

// hearOne receives one message, and says so.
func hearOne(t *testing.T, tr Transport) <-chan error {
	heard, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		_, err := tr.Recv()
		heard <- err
	}()
	t.Cleanup(func() {
		_ = tr.Close()
		await(t, ended, "the end of Recv")
	})
	return heard
}

// A client that reads nothing, and asks for more than fits into its ring, does not have a worker sleep beside the request that it was sent: that would be taken for a worker that hangs.
func TestWorkersAreWokenBesideAClientThatDoesNotRead(t *testing.T) {
	for name, message := range map[string]func(int) any{
		"refused requests": func(i int) any { return &Request{ID: uint64(i + 1000), Pool: "p", Action: "a"} },
		"pings":            func(i int) any { return Ping{ID: uint64(i + 1)} },
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			outer := clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
			inner := clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20}) // at its bell a sleeper sleeps until it is woken
			passes := ask(t, inner.asking, Events{})
			client := outer.asking.(*Ring)
			putAll(t, client, &Request{ID: 1, Pool: "p", Action: "a"}, message(0), message(1), message(2))
			heard := hearOne(t, inner.answering)
			serve(t, outer.answering, ServeConfig{Lead: always, MaxInFlight: 1}, passOn(passes))
			flood(t, client, func(i int) any { return message(i + 3) })
			if err := await(t, heard, "the request"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Nor does a worker that reads nothing have a client sleep beside its answer. The client may be awake by chance, so it is tried more than once.
func TestClientsAreWokenBesideAWorkerThatDoesNotRead(t *testing.T) {
	for range 10 {
		t.Run("", func(t *testing.T) {
			checkLeaks(t)
			r := newRelay(t, clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20}))
			gate := make(chan struct{})
			r.inner.events.Hello = func(*Hello) { <-gate }
			call, id := r.begin(t, &Request{})
			worker := r.peer.(*Ring)
			say(t, worker, &Hello{MinVersion: 1, MaxVersion: 1})
			putAll(t, worker, &Reply{ID: id, End: true}, Ping{ID: 1}, Ping{ID: 2})
			close(gate)
			flood(t, worker, func(i int) any { return Ping{ID: uint64(i + 3)} })
			if _, err := call.Recv(bounded(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// However much comes, those who got something are woken.
func TestBurstsEnd(t *testing.T) {
	checkLeaks(t)
	p := ringPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	to, from := p.asking.(*Ring), p.answering.(*Ring)
	say(t, from, Ping{ID: 1})
	var b burst
	b.follow(to)
	b.received(to)
	if !b.on.Load() {
		t.Fatal("there is more")
	}
	for range 3 {
		if _, put, err := to.TrySend(&b, []byte{1}); !put || err != nil {
			t.Fatal(put, err)
		}
		for i := range longestBurst {
			if !b.some.Load() {
				t.Fatalf("the peer was woken after %d messages", i)
			}
			b.received(to)
		}
		if b.some.Load() {
			t.Errorf("the peer is not woken after %d messages", longestBurst)
		}
	}
	hear(t, to)
	b.received(to)
	if _, sent, err := to.TrySend(&b, []byte{1}); !sent || err != nil || b.some.Load() {
		t.Errorf("nothing more has come: %v, %v; to be woken: %v", sent, err, b.some.Load())
	}
}

// The last answer of one that drains is heard at once, though its ring is closed before anybody is woken for it.
func TestTheLastAnswerBeforeADrain(t *testing.T) {
	if raceEnabled {
		t.Skip("both ends are one segment, and would be shut down together")
	}
	checkLeaks(t)
	p := ringPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	draining := make(chan struct{})
	s := serve(t, p.answering, ServeConfig{Lead: always, Draining: draining}, func(_ context.Context, _ *Request, w *Responder) {
		close(draining)
		for !w.s.draining.Load() {
			runtime.Gosched()
		}
		_ = w.End(&Reply{})
	})
	heard := hearOne(t, p.asking)
	begin := time.Now()
	putAll(t, p.asking.(*Ring), &Request{ID: 1, Pool: "p", Action: "a"}, Cancel{ID: 2})
	if err := await(t, heard, "the answer"); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second { // a sleeper looks by itself after ten
		t.Errorf("the answer was heard after %v", took)
	}
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// Many ask at a time, over rings at whose ends a sleeper sleeps until it is woken: whoever leads, waits, gives up or sends much, no wake-up is lost.
func TestNoWakeUpIsLostInBursts(t *testing.T) {
	checkLeaks(t)
	o := pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20}
	outer, inner := clientRingPair(t, o), clientRingPair(t, o)
	passes := ask(t, inner.asking, Events{})
	serve(t, inner.answering, ServeConfig{Lead: always}, echoAll)
	pass := passOn(passes)
	serve(t, outer.answering, ServeConfig{Lead: always}, func(ctx context.Context, req *Request, w *Responder) {
		if req.Action == "waits" {
			req.Waits()
		}
		pass(ctx, req, w)
	})
	asker := ask(t, outer.asking, Events{})
	large := append(Body{0xc5, 0x9c, 0x00}, make(Body, 0x9c00)...)
	three, err := Marshal(3)
	if err != nil {
		t.Fatal(err)
	}
	const askers, requests = 16, 150
	var all sync.WaitGroup
	for range askers {
		all.Go(func() {
			for i := range requests {
				req := &Request{Pool: "p", Action: "a", Credit: 1}
				switch i % 16 {
				case 3:
					req.Action = "waits"
				case 7:
					req.Body = large
				case 11:
					req.Action, req.Body = "count", three
				}
				call, err := asker.Start(req, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if i%16 == 13 {
					call.Cancel("cancelled")
					continue
				}
				for end := false; !end; {
					r, err := call.Recv(bounded(t))
					if err != nil {
						t.Error(err)
						return
					}
					end = r.End
				}
			}
		})
	}
	all.Wait()
}
