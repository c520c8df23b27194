package ipc

import (
	"slices"
	"sync"
	"time"
)

// restless is how often a [Crew] lets those go who have waited all the time since it last looked.
const restless = time.Second

// Crew is goroutines that run handlers one after the other. A goroutine that has run one keeps the stack that the next one needs; to grow a new one costs more than all else that a small request
// does (docs/decisions/0018-hot-path.md). Any number of handlers may run at a time; only so many goroutines wait for more to do, and none for longer than a second or
// two. A Crew may be shared by many [Serve].
type Crew struct {
	most int // immutable: goroutines that wait

	mu   sync.Mutex
	idle []*hand // guarded by mu; the one that came last is taken first: its stack is still in the cache
	over bool    // guarded by mu: nobody waits any more

	look   *time.Timer // guarded by mu; set while somebody waits
	unused int         // guarded by mu: how many have waited all the time since the last look

	hands sync.WaitGroup

	lookout lookout // over the connections whose requests are led
}

// hand is one goroutine of a crew. Its mailbox has room for the one job that it is given when it has been taken out of idle.
type hand struct{ mailbox chan job }

// job is a request that is to be handled; one that was parked, and is to go on, if req is nil; if w is nil, too, the reading of a connection.
type job struct {
	s   *server
	req *Request
	w   *Responder
}

func (j job) run() {
	switch {
	case j.req != nil:
		j.s.handle(j.req, j.w)
	case j.w != nil:
		j.w.resume()
	default:
		j.s.read()
	}
}

// NewCrew makes a crew of which at most so many goroutines wait for something to do. Close ends it.
func NewCrew(most int) *Crew { return &Crew{most: most} }

// handle has a job done, on a goroutine of its own.
func (c *Crew) handle(j job) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		h := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.unused = min(c.unused, n-1)
		c.mu.Unlock()
		h.mailbox <- j // it has room
		return
	}
	c.mu.Unlock()
	c.hands.Go(func() { c.work(&hand{make(chan job, 1)}, j) })
}

// work does jobs until enough others wait for more.
func (c *Crew) work(h *hand, j job) {
	for ok := true; ok; j, ok = <-h.mailbox {
		j.run()
		j = job{} //nolint:wastedassign // or what it refers to would live as long as this goroutine waits
		if !c.rest(h) {
			return
		}
	}
}

// rest puts a goroutine among those that wait; false: it is not wanted.
func (c *Crew) rest(h *hand) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || len(c.idle) >= c.most {
		return false
	}
	c.idle = append(c.idle, h)
	if c.look == nil {
		c.look = time.AfterFunc(restless, c.thin)
	}
	return true
}

// thin lets those go whom nobody needed since it last looked: they are the ones that came first.
func (c *Crew) thin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	for _, h := range c.idle[:c.unused] {
		close(h.mailbox)
	}
	c.idle = slices.Delete(c.idle, 0, c.unused)
	if c.unused = len(c.idle); c.unused > 0 {
		c.look.Reset(restless)
	} else {
		c.look = nil
	}
}

// Waiting returns how many goroutines wait for something to do.
func (c *Crew) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle)
}

// Close ends those who wait, and waits for those who work.
func (c *Crew) Close() {
	c.mu.Lock()
	c.over = true
	for _, h := range c.idle {
		close(h.mailbox)
	}
	c.idle = nil
	if c.look != nil {
		c.look.Stop()
	}
	c.mu.Unlock()
	c.hands.Wait()
}
