package ipc

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
)

func always(*Request) bool { return true }

// A handler that runs on the goroutine that reads keeps nobody waiting for long, whether it says that it waits or not.
func TestAnotherReadsOn(t *testing.T) {
	for name, first := range map[string]func(req *Request, release <-chan struct{}){
		"it says that it waits": func(req *Request, release <-chan struct{}) {
			req.Waits()
			<-release
		},
		"a copy says so, and again": func(req *Request, release <-chan struct{}) {
			mine := *req
			mine.Waits()
			req.Waits()
			<-release
		},
		"it says nothing":     func(_ *Request, release <-chan struct{}) { <-release },
		"it ends its routine": func(*Request, <-chan struct{}) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, pairOptions{}, func(t *testing.T, p pair) {
				release, begun := make(chan struct{}), make(chan struct{})
				serve(t, p.answering, ServeConfig{Lead: always}, func(_ context.Context, req *Request, w *Responder) {
					if req.Action == "first" {
						close(begun)
						first(req, release)
					}
					_ = w.End(&Reply{})
				})
				asker := ask(t, p.asking, Events{})
				held, err := asker.Start(&Request{Pool: "p", Action: "first"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				await(t, begun, "the first request")
				for range 3 {
					if _, err := unary(bounded(t), asker.Caller, &Request{Pool: "p", Action: "second"}); err != nil {
						t.Fatal(err)
					}
				}
				close(release)
				if r, err := held.Recv(bounded(t)); err != nil || !r.End {
					t.Errorf("%+v, %v", r, err)
				}
			})
		})
	}
}

// As long as nobody waits, one goroutine does it all.
func TestOneGoroutineLeads(t *testing.T) {
	checkLeaks(t)
	crew := NewCrew(8)
	t.Cleanup(crew.Close)
	p := ringPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	var others atomic.Int64
	serve(t, p.answering, ServeConfig{Crew: crew, Lead: always}, func(_ context.Context, req *Request, w *Responder) {
		if w.s.leading.request.Load() != w {
			others.Add(1) // it was interrupted for longer than overdue
		}
		_ = w.End(&Reply{Body: req.Body})
	})
	asker := ask(t, p.asking, Events{})
	const requests = 1000
	for range requests {
		if _, err := unary(bounded(t), asker.Caller, &Request{Pool: "p", Action: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := others.Load(); n > requests/10 {
		t.Errorf("%d of %d requests were another goroutine's when their handler began", n, requests)
	}
}
