package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	lanes     = 6                     // requests that a client has under way at a time
	thinkTime = 40 * time.Millisecond // between a lane's requests, on average
)

// caller sends requests over one connection, checks what comes back and tells the tally.
type caller struct {
	dial     func(context.Context) (line, error)
	tally    *Tally
	promises Promises
	ids      numbers
	answered func(pool, slot string, pid int) // may be nil
	flights  *flights                         // may be nil

	mu   sync.Mutex
	line line // guarded by mu; nil: the next request connects
}

// call sends a request and returns its outcome, once the tally knows of it.
func (c *caller) call(ctx context.Context, r *request) error {
	c.tally.sent(r.id)
	if c.flights != nil {
		c.flights.begin(r.req.Pool, r.id)
		defer c.flights.end(r.req.Pool, r.id)
	}
	begin := time.Now()
	err := c.attempt(ctx, r)
	if ctx.Err() != nil && err != nil { // the run is being given up; this is nobody's outcome
		return err
	}
	c.tally.ended(c.promises, r, err, time.Since(begin))
	if err == nil && c.answered != nil && r.pid != 0 {
		c.answered(r.req.Pool, r.slot, r.pid)
	}
	return err
}

func (c *caller) attempt(ctx context.Context, r *request) error {
	l, err := c.connected(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	received := 0
	err = l.ask(ctx, &r.req, r.chain != nil, func(reply *ipc.Reply) error {
		received += size(reply.Body, reply.Tensors)
		return r.check(reply)
	})
	c.tally.moved(size(r.req.Body, r.req.Tensors), received)
	var e *ipc.Error
	if errors.As(err, &e) && e.Reason == "connection_lost" {
		c.lost(l)
	}
	return err
}

func size(body ipc.Body, tensors []ipc.Tensor) int {
	n := len(body)
	for _, t := range tensors {
		n += len(t.Data)
	}
	return n
}

func (c *caller) connected(ctx context.Context) (line, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil {
		return c.line, nil
	}
	l, err := c.dial(ctx)
	if err == nil {
		c.line = l
	}
	return l, err
}

// lost makes the next request connect anew.
func (c *caller) lost(l line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line == l {
		l.close()
		c.line = nil
	}
}

// settle is called when every request has ended, and waits until the server has done with their memory.
func (c *caller) settle(ctx context.Context) {
	c.mu.Lock()
	l := c.line
	c.mu.Unlock()
	if l != nil {
		l.settle(ctx)
	}
}

func (c *caller) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil {
		c.line.close()
		c.line = nil
	}
}

// load asks one thing after the other, in several lanes, until stop is closed; it returns when the last has its outcome.
func (c *caller) load(ctx context.Context, stop <-chan struct{}, seed uint64, bytes noise, pools []string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for lane := range lanes {
		rng := rand.New(rand.NewPCG(seed, uint64(c.ids.client)<<8|uint64(lane)))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				case <-time.After(time.Duration(rng.ExpFloat64() * float64(thinkTime))):
				}
				_ = c.call(ctx, bytes.next(rng, &c.ids, pools)) // the tally has it
			}
		})
	}
}
