package session

import (
	"context"
	"slices"
	"sync"

	"github.com/ringmasterd/ringmaster/ipc"
)

// maxWaiting is how many requests of one session wait for their turn; more are refused.
const maxWaiting = 64

// turns lets the requests of each session go one after the other, first come first served. The zero value is ready.
type turns struct {
	mu    sync.Mutex
	lines map[string][]chan struct{} // guarded by mu; there while somebody has the turn: those that wait, each told by its channel's closing
}

// take waits for the turn. An error is an [*ipc.Error]; without one, pass is to be called.
func (t *turns) take(ctx context.Context, key string) error {
	t.mu.Lock()
	line, taken := t.lines[key]
	if !taken {
		if t.lines == nil {
			t.lines = map[string][]chan struct{}{}
		}
		t.lines[key] = nil
		t.mu.Unlock()
		return nil
	}
	if len(line) >= maxWaiting {
		t.mu.Unlock()
		return ipc.Errorf(ipc.ResourceExhausted, "session_busy", "%d requests of this session wait for their turn, the most that may; wait for their answers", maxWaiting)
	}
	turn := make(chan struct{})
	t.lines[key] = append(line, turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.lines[key], turn)
	if i >= 0 {
		t.lines[key] = slices.Delete(t.lines[key], i, i+1)
	}
	t.mu.Unlock()
	if i < 0 { // it has just come
		t.pass(key)
	}
	return ipc.AsError(context.Cause(ctx))
}

// pass gives the turn to who has waited longest.
func (t *turns) pass(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := t.lines[key]
	if len(line) == 0 {
		delete(t.lines, key)
		return
	}
	close(line[0])
	t.lines[key] = line[1:]
}
