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

	mu       sync.Mutex
	done     chan struct{} // guarded by mu; nil until asked for
	err      error         // guarded by mu; why it has ended
	watched  bool          // guarded by mu; it ends by itself when its parent or its time does
	timer    *time.Timer   // guarded by mu; nil until it is watched
	stop     func() bool   // guarded by mu; ends the parent's interest, if that is of another type
	calls    []*func()     // guarded by mu; to be called at the end
	children *Context      // guarded by mu; the first of those that are watched

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
	return !c.watched && c.done == nil
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) { return c.due, !c.due.IsZero() }

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	c.watch()
	return c.done
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
	err, watched := c.err, c.watched
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
func (c *Context) watch() {
	if c.watched || c.err != nil {
		return
	}
	c.watched = true
	switch parent, ok := c.Context.(*Context); {
	case c.owned:
	case ok:
		if err := parent.adopt(c); err != nil {
			c.end(err)
			return
		}
	case c.Context.Done() != nil:
		c.stop = context.AfterFunc(c.Context, func() { c.Cancel(c.Context.Err()) })
	}
	if d, ok := c.Context.Deadline(); !c.due.IsZero() && (!ok || c.due.Before(d)) { // else the parent says it
		c.timer = time.AfterFunc(time.Until(c.due), func() { c.Cancel(context.DeadlineExceeded) })
	}
}

// adopt makes c end a child when it ends; the error says that it has ended.
func (c *Context) adopt(child *Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watch()
	if c.err != nil {
		return c.err
	}
	if child.next = c.children; child.next != nil {
		child.next.prev = child
	}
	c.children = child
	return nil
}

// pop lets a child go, or returns nil.
func (c *Context) pop() *Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	child := c.children
	if child == nil {
		return nil
	}
	if c.children = child.next; c.children != nil {
		c.children.prev = nil
	}
	child.next = nil
	return child
}

// disown ends what adopt began.
func (c *Context) disown(child *Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case child.prev != nil:
		child.prev.next = child.next
	case c.children == child:
		c.children = child.next
	default: // c has let it go
		return
	}
	if child.next != nil {
		child.next.prev = child.prev
	}
	child.next, child.prev = nil, nil
}

// AfterFunc has f called on a goroutine of its own once c has ended. stop reports whether it has prevented that. Package context looks for this method when it makes children.
func (c *Context) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watch()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	call := &f
	c.calls = append(c.calls, call)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i, other := range c.calls {
			if other == call {
				c.calls = append(c.calls[:i], c.calls[i+1:]...)
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
	calls, stop := c.calls, c.stop
	c.calls, c.stop = nil, nil
	parent, adopted := c.Context.(*Context)
	adopted = adopted && c.watched && !c.owned
	c.mu.Unlock()
	if adopted {
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
	if c.done != nil {
		close(c.done)
	}
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
