package ipc

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

// counted is a handler that says when it runs.
type counted struct {
	release chan struct{}
	all     chan struct{} // gets an element for each handler that runs
}

func (c *counted) ServeRequest(ctx context.Context, _ *Request, w *Responder) {
	c.all <- struct{}{}
	select {
	case <-c.release:
		_ = w.End(&Reply{})
	case <-ctx.Done():
	}
}

// However many handlers run at a time, only so many goroutines wait afterwards; they run what comes next, and leave when nothing does.
func TestCrewKeepsAFew(t *testing.T) {
	const most, burst = 3, 10
	h := &counted{release: make(chan struct{}), all: make(chan struct{}, burst)}
	p := socketPair(t, pairOptions{askingLimit: 1 << 16, answeringLimit: 1 << 16})
	crew := NewCrew(most)
	t.Cleanup(crew.Close) // after Serve
	serve(t, p.answering, ServeConfig{Crew: crew}, h.ServeRequest)
	asker := ask(t, p.asking, Events{})
	for range 5 {
		var calls sync.WaitGroup
		for range burst {
			calls.Go(func() {
				if _, err := unary(t.Context(), asker.Caller, &Request{Pool: "p", Action: "a"}); err != nil {
					t.Error(err)
				}
			})
		}
		for range burst {
			<-h.all // all run at the same time
		}
		if n := crew.Waiting(); n != 0 {
			t.Errorf("%d wait while others have been started", n)
		}
		for range burst {
			h.release <- struct{}{}
		}
		calls.Wait()
		for end := time.Now().Add(10 * time.Second); crew.Waiting() != most; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%d wait", crew.Waiting())
			}
		}
	}
	for end := time.Now().Add(10 * time.Second); crew.Waiting() > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d wait still, although there is nothing to do", crew.Waiting())
		}
	}
}
