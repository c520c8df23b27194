package cache

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// entry is a whole answer. It is immutable, but for used.
type entry struct {
	replies []*ipc.Reply // the last one is the END
	size    int64        // bytes taken from the store's room
	at      int64        // when the answer was complete, by the store's clock
	action  *action      // whose it was when it was stored: for its counters, and to find a pool's entries
	ahead   bool         // a prefetch brought it
	used    atomic.Bool  // somebody asked for what the prefetch brought
}

// What an entry, a reply and their parts take beside their bytes: structs, slice and map headers, the store's node.
const (
	entryOverhead  = 512
	replyOverhead  = 192
	headerOverhead = 80
	tensorOverhead = 128
)

// weigh is roughly how many bytes of memory a copy of a reply takes.
func weigh(r *ipc.Reply) int64 {
	n := replyOverhead + len(r.Body) + len(r.Context)
	for k, v := range r.Headers {
		n += headerOverhead + len(k) + len(v)
	}
	for i := range r.Tensors {
		t := &r.Tensors[i]
		n += tensorOverhead + len(t.Name) + len(t.DType) + 8*len(t.Shape) + len(t.Data)
	}
	return int64(n)
}

// replica copies a reply with all that it refers to: what came from a transport shares its message's memory.
func replica(r *ipc.Reply) *ipc.Reply {
	c := *r
	c.Body, c.Context = bytes.Clone(r.Body), bytes.Clone(r.Context)
	if r.Headers != nil {
		c.Headers = make(map[string]string, len(r.Headers))
		for k, v := range r.Headers {
			c.Headers[strings.Clone(k)] = strings.Clone(v)
		}
	}
	c.Tensors = slices.Clone(r.Tensors)
	for i := range c.Tensors {
		t := &c.Tensors[i]
		t.Name, t.DType, t.Shape, t.Data = strings.Clone(t.Name), strings.Clone(t.DType), slices.Clone(t.Shape), bytes.Clone(t.Data)
	}
	return &c
}

// keepable reports whether a reply is the worker's own and all there. What another link has made up, or had from another pool, is no answer of this action.
func keepable(r *ipc.Reply) bool {
	for _, name := range [...]string{"degraded", "pool", "cache"} {
		if _, made := r.Headers[name]; made {
			return false
		}
	}
	return r.Err == nil && !r.Leased && here(r.Tensors)
}

// handed is a reply for one who may change it, though not what its body and tensors refer to. said, if not "", is told as header `cache`, unless another link has told where the reply is from; age goes with it if it is not negative.
func handed(r *ipc.Reply, said string, age time.Duration) *ipc.Reply {
	out := *r
	out.Tensors = slices.Clone(r.Tensors)
	if _, told := r.Headers["cache"]; said == "" || told {
		out.Headers = cloneHeaders(r.Headers, 0)
		return &out
	}
	out.Headers = cloneHeaders(r.Headers, 2)
	out.Headers["cache"] = said
	if age >= 0 {
		out.Headers["age"] = strconv.FormatInt(int64(age/time.Second), 10)
	}
	return &out
}
