package gateway

import (
	"math/bits"

	"github.com/ringmasterd/ringmaster/internal/budget"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

const (
	maxRing = 4 << 20  // bytes: the capacity of each ring of a pair, at most
	minRing = 64 << 10 // and at least: below that a socket does as well
	// ringShare and pairShare: all rings together take at most 1/ringShare of Memory, and one pair at most 1/pairShare of what is left of that.
	ringShare = 4
	pairShare = 16
)

// ringCapacity is the policy: how large each ring is for a client that asked for so much, where the rings of all hold so many of the server's bytes; 0: it has to do without. The more there
// are the smaller they get, so that a client seldom comes too late for any.
func ringCapacity(asked uint64, memory, held int64) uint64 {
	pair := max(0, memory/ringShare-held) / pairShare
	capacity := min(asked, maxRing, uint64(pair)/2)
	if capacity < minRing {
		return 0
	}
	return 1 << (bits.Len64(capacity) - 1)
}

// lend takes the memory for a client's rings from its share, and returns their geometry; false if there is none to be had.
func (cs *clients) lend(c *client, theirs *ipc.Hello) (shm.Geometry, bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	capacity := ringCapacity(theirs.Ring, cs.memory.Size(), cs.rings)
	g := shm.Geometry{S2W: capacity, W2S: capacity, Bell: true, Eventfd: theirs.Doors&ipc.DoorEventfd != 0, Socket: theirs.Doors&ipc.DoorSocket != 0}
	if capacity == 0 || !c.account.Take(int64(g.Bytes()), budget.Requests) {
		return g, false
	}
	cs.rings += int64(g.Bytes())
	return g, true
}

// returned ends what lend began.
func (cs *clients) returned(c *client, g shm.Geometry) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.rings -= int64(g.Bytes())
	c.account.Give(int64(g.Bytes()))
}

// rings makes the segment for a client that asked for one; nil if it did not, or has to do with the socket.
func (c *conn) rings(theirs *ipc.Hello) *shm.Segment {
	if theirs.Ring == 0 || c.remote() {
		return nil
	}
	g, ok := c.srv.clients.lend(c.client, theirs)
	if !ok {
		c.srv.cfg.Logger.Debug("no memory for a client's rings; it uses the socket", "pid", c.peer.PID, "asked", theirs.Ring)
		return nil
	}
	seg, err := shm.Create(g)
	if err != nil {
		c.srv.clients.returned(c.client, g)
		c.srv.cfg.Logger.Warn("no rings for a client; it uses the socket", "pid", c.peer.PID, "error", err)
		return nil
	}
	return seg
}

// unused frees a segment that did not become a ring.
func (c *conn) unused(seg *shm.Segment) {
	seg.Shutdown()
	_ = seg.Destroy()
	c.srv.clients.returned(c.client, seg.Geometry())
}

// endRing frees the connection's ring. Preconditions: ipc.Serve has returned.
func (c *conn) endRing(ring *ipc.Ring, g shm.Geometry) {
	_ = ring.Close()
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.speaking.Wait()
	if err := ring.Free(); err != nil {
		c.srv.cfg.Logger.Warn("a client's rings were not freed", "error", err)
	}
	c.srv.clients.returned(c.client, g)
}
