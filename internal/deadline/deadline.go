// Package deadline has contexts with a deadline for those who make one for every request.
package deadline

import (
	"context"
	"sync"
	"time"
)

// Context is what [context.WithDeadline] makes, for less: its channel, its timer, and its parent's knowledge of it come into being only when somebody asks for Done. Most requests are over before
// anybody does. The zero value is not usable; begin it with [Context.Begin]. It must not be copied.
type Context struct {
	context.Context // the parent
	due             time.Time
	owned           bool // see Owned

	mu      sync.Mutex
	err     error    // guarded by mu; why it has ended
	watched *watched // guarded by mu; nil until it is needed
}

// watched is what a context has of which somebody wants to be told that it ends. Unless it had ended before that, it ends by itself when its parent or its time does.
type watched struct {
	done     chan struct{} // immutable
	timer    *time.Timer   // guarded by the context's mu, like those below
	stop     func() bool   // ends the parent's interest, if that is of another type
	calls    []*func()     // to be called at the end
	children *Context      // the first of those that are watched

	next, prev *Context // guarded by the parent's mu, if that is a Context: its other children
}

// Begin makes c a child of parent that ends at due; the zero time: when its parent does. Cancel has to be called in the end.
//
// Preconditions: c is new.
func (c *Context) Begin(parent context.Context, due time.Time) {
	c.Context, c.due = parent, due
	if d, ok := parent.Deadline(); ok && (due.IsZero() || d.Before(due)) {
		c.due = d
	}
}

// Owned says that whoever began c cancels it when its parent ends: it does not look itself.
func (c *Context) Owned() { c.owned = true }

// Untouched reports whether nobody has asked for Done, had something called at the end, or made a child of it: whoever began c, and knows who else has had it, may then begin it again as the zero value.
func (c *Context) Untouched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watched == nil
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) { return c.due, !c.due.IsZero() }

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watch().done
}

// Err implements [context.Context].
func (c *Context) Err() error { return c.errAt(time.Time{}) }

// ErrAt is ctx.Err() for who knows what time it is, and it has to be now, or was a moment ago: it saves looking at the clock where ctx is a Context.
func ErrAt(ctx context.Context, now time.Time) error {
	if c, ok := ctx.(*Context); ok {
		return c.errAt(now)
	}
	return ctx.Err()
}

// errAt is Err at the time now; zero: the clock says.
func (c *Context) errAt(now time.Time) error {
	c.mu.Lock()
	err, watched := c.err, c.watched != nil
	c.mu.Unlock()
	if err != nil || watched {
		return err
	}
	if now.IsZero() {
		now = time.Now()
	}
	if err := ErrAt(c.Context, now); err != nil {
		c.Cancel(err)
	} else if !c.due.IsZero() && !now.Before(c.due) {
		c.Cancel(context.DeadlineExceeded)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// watch sees to it that c ends when its parent or its time does. Preconditions: mu is held.
func (c *Context) watch() *watched {
	if c.watched != nil {
		return c.watched
	}
	w := &watched{done: make(chan struct{})}
	c.watched = w
	if c.err != nil {
		close(w.done)
		return w
	}
	switch parent, ok := c.Context.(*Context); {
	case c.owned:
	case ok:
		if err := parent.adopt(c); err != nil {
			c.end(err)
			return w
		}
	case c.Context.Done() != nil:
		w.stop = context.AfterFunc(c.Context, func() { c.Cancel(c.Context.Err()) })
	}
	if d, ok := c.Context.Deadline(); !c.due.IsZero() && (!ok || c.due.Before(d)) { // else the parent says it
		w.timer = time.AfterFunc(time.Until(c.due), func() { c.Cancel(context.DeadlineExceeded) })
	}
	return w
}

// adopt makes c end a child, which is watched, when it ends; the error says that it has ended.
func (c *Context) adopt(child *Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watch()
	if c.err != nil {
		return c.err
	}
	if w.children != nil {
		child.watched.next = w.children
		w.children.watched.prev = child
	}
	w.children = child
	return nil
}

// pop lets a child go, or returns nil.
func (c *Context) pop() *Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watched == nil || c.watched.children == nil {
		return nil
	}
	child := c.watched.children
	rest := child.watched.next
	if c.watched.children = rest; rest != nil {
		rest.watched.prev = nil
	}
	child.watched.next = nil
	return child
}

// disown ends what adopt began.
func (c *Context) disown(child *Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := child.watched
	switch {
	case w.prev != nil:
		w.prev.watched.next = w.next
	case c.watched.children == child:
		c.watched.children = w.next
	default: // c has let it go
		return
	}
	if w.next != nil {
		w.next.watched.prev = w.prev
	}
	w.next, w.prev = nil, nil
}

// AfterFunc has f called on a goroutine of its own once c has ended. stop reports whether it has prevented that. Package context looks for this method when it makes children.
func (c *Context) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watch()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	call := &f
	w.calls = append(w.calls, call)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, other := range w.calls {
			if other == call {
				w.calls = append(w.calls[:i], w.calls[i+1:]...)
				return true
			}
		}
		return false
	}
}

// Cancel ends c, with [context.Canceled] or [context.DeadlineExceeded], if it has not ended yet.
func (c *Context) Cancel(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.end(err)
	w := c.watched
	if w == nil {
		c.mu.Unlock()
		return
	}
	calls, stop := w.calls, w.stop
	w.calls, w.stop = nil, nil
	c.mu.Unlock()
	if parent, ok := c.Context.(*Context); ok && !c.owned {
		parent.disown(c)
	}
	if stop != nil {
		stop()
	}
	for child := c.pop(); child != nil; child = c.pop() {
		child.Cancel(err)
	}
	for _, call := range calls {
		go (*call)()
	}
}

// end marks c as ended. Preconditions: mu is held, and it has not ended.
func (c *Context) end(err error) {
	c.err = err
	if c.watched == nil {
		return
	}
	close(c.watched.done)
	if c.watched.timer != nil {
		c.watched.timer.Stop()
		c.watched.timer = nil
	}
}
