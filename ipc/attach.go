package ipc

import (
	"context"
	"os"
)

// Attaching an arena, as the client's side sees it. Descriptors come on the line, answers through the ring; the first go before the second, and both are in order.
//
//	Attach ──attach──▶ server            listen ◀─descriptor─ line
//	   ▲                                    │ rightsReader.files
//	   └── attached ◀── Run ◀─answer─ ring  ▼
//	          └──────── takes the next ─────┘

// attached is the answer to an attach.
type attached struct {
	region, bytes uint64
	file          *os.File
	err           error
}

// Attach asks the peer, a server, for an arena of at least so many bytes. The file is its memory, to be mapped and closed; how many bytes it has the peer says. An arena that is not
// wanted after all is to be given back with Detach.
func (c *Caller) Attach(ctx context.Context, bytes uint64) (region, size uint64, file *os.File, err error) {
	if !c.borrows() {
		return 0, 0, nil, errNoArenas
	}
	answer := make(chan attached, 1)
	c.mu.Lock()
	if c.closed != nil {
		err := c.closed
		c.mu.Unlock()
		return 0, 0, nil, err
	}
	c.nextID++
	id := c.nextID
	c.asked[id] = answer
	c.sending.Add(1)
	c.mu.Unlock()
	err = send(c.t, func(e *encoder) { e.attach(&Attach{ID: id, Bytes: bytes}) })
	c.sending.Done()
	if err != nil {
		c.forget(id)
		return 0, 0, nil, err
	}
	select {
	case a := <-answer:
		return a.region, a.bytes, a.file, a.err
	case <-ctx.Done():
	}
	if !c.forget(id) { // it has been answered
		a := <-answer
		return a.region, a.bytes, a.file, a.err
	}
	return 0, 0, nil, AsError(context.Cause(ctx))
}

// errNoArenas is what a client without rings is told.
var errNoArenas = Errorf(Unimplemented, "arena", "this connection has no rings, and arenas need them; send tensors in the message")

// Detach gives an arena back, after the requests that were sent before. It does not wait for room to say so, and nothing comes of it where the connection is gone: the region is, too.
func (c *Caller) Detach(region uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.sending.Add(1)
		go c.sayDetach(region)
	}
}

// borrows reports whether the peer is a server that lends arenas.
func (c *Caller) borrows() bool {
	r, ok := c.t.(*Ring)
	return ok && r.rights != nil
}

// forget drops an attach that nobody waits for any more. It reports false if it has been answered.
func (c *Caller) forget(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, waits := c.asked[id]
	delete(c.asked, id)
	return waits
}

// attached takes an arena that the peer has made.
func (c *Caller) attached(m *Attach) error {
	if !c.borrows() || m.Region == 0 {
		return nil // it is meant for somebody else
	}
	file, ok := c.t.(*Ring).file()
	if !ok {
		return protocolErrorf("the peer answers attach %d, and sends no descriptor", m.ID)
	}
	c.mu.Lock()
	answer := c.asked[m.ID]
	delete(c.asked, m.ID)
	c.mu.Unlock()
	if answer == nil { // whoever asked did not wait
		_ = file.Close()
		c.Detach(m.Region)
		return nil
	}
	answer <- attached{region: m.Region, bytes: m.Bytes, file: file} // fits
	return nil
}

// sayDetach detaches an arena: on a goroutine of its own, for whoever learns that one is not used any more must go on receiving. Close waits for it.
func (c *Caller) sayDetach(region uint64) {
	defer c.sending.Done()
	_ = send(c.t, func(e *encoder) { e.detach(Detach{Region: region}) })
}

// refused passes on a reply that may be the answer to an attach. Preconditions: mu is held.
func (c *Caller) refused(r *Reply) {
	answer := c.asked[r.ID]
	if answer == nil || !r.End {
		return
	}
	delete(c.asked, r.ID)
	err := r.Err
	if err == nil {
		err = protocolErrorf("attach %d was answered with a reply that is no error", r.ID)
	}
	answer <- attached{err: err} // fits
}

// unasked ends the attaches that are not answered. Preconditions: mu is held.
func (c *Caller) unasked(why *Error) {
	for id, answer := range c.asked {
		delete(c.asked, id)
		answer <- attached{err: why} // fits
	}
}

// released ends a call whose arena memory the peer has let go.
func (c *Caller) released(id uint64) {
	c.mu.Lock()
	call := c.leased[id]
	delete(c.leased, id)
	c.mu.Unlock()
	if call != nil && call.done != nil {
		call.done.Ended(nil)
	}
}
