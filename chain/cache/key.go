package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"sync"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Key is what equal requests have in common: SHA-256 over everything that their answer may depend on, each part preceded by its length. Nobody can make two requests with one key, so an entry need not keep its request to be compared with.
type Key [sha256.Size]byte

// ownHeaders are headers of a request that are for the call chain and say nothing about the answer. Any other may be read by a worker.
var ownHeaders = map[string]bool{"cache": true, "priority": true, "session-version": true, "timeout": true, "tracestate": true}

// hasher makes keys. It keeps its buffers for the next one.
type hasher struct {
	sum   hash.Hash
	buf   []byte // not yet in sum
	form  canonical
	names []string

	digest [sha256.Size]byte
}

const (
	flushAt   = 4 << 10 // bytes gathered before they are hashed
	maxPooled = 2 << 20 // bytes of buffers that are kept: as many as the largest canonical form takes
)

var hashers = sync.Pool{New: func() any { return &hasher{sum: sha256.New()} }}

func (h *hasher) free() {
	clear(h.names)
	h.buf, h.names = h.buf[:0], h.names[:0]
	if cap(h.form.out)+cap(h.form.scratch) <= maxPooled && cap(h.form.spans) <= maxPooled/32 && cap(h.buf) <= maxPooled {
		hashers.Put(h)
	}
}

// quickKey is up to how many bytes of a body and tensors a key takes no longer than a request's other links.
const quickKey = 64 << 10

// slow reports whether a request's key takes its time.
func slow(req *ipc.Request) bool {
	n := len(req.Body)
	for i := range req.Tensors {
		n += len(req.Tensors[i].Data)
	}
	return n > quickKey
}

func (h *hasher) number(n uint64) { h.buf = binary.LittleEndian.AppendUint64(h.buf, n) }

func (h *hasher) text(s string) {
	h.number(uint64(len(s)))
	h.buf = append(h.buf, s...)
	h.flush(flushAt)
}

func (h *hasher) blob(b []byte) {
	h.number(uint64(len(b)))
	if len(b) >= flushAt {
		h.flush(0)
		h.sum.Write(b)
		return
	}
	h.buf = append(h.buf, b...)
	h.flush(flushAt)
}

// flush hashes what was gathered if it is more than so many bytes.
func (h *hasher) flush(above int) {
	if len(h.buf) > above {
		h.sum.Write(h.buf)
		h.buf = h.buf[:0]
	}
}

// body is of one of two kinds, told apart: a canonical form, or bytes as they came.
func (h *hasher) body(b ipc.Body) {
	switch {
	case len(b) == 0:
		h.number(1)
		h.blob(nilBody)
	case len(b) <= maxCanonical && h.form.encode(b):
		h.number(1)
		h.blob(h.form.out)
	default:
		h.number(2)
		h.blob(b)
	}
}

var nilBody = []byte{0xc0}

func (h *hasher) headers(all map[string]string) {
	for name := range all {
		if !ownHeaders[name] {
			h.names = append(h.names, name)
		}
	}
	slices.Sort(h.names)
	h.number(uint64(len(h.names)))
	for _, name := range h.names {
		h.text(name)
		h.text(all[name])
	}
}

func (h *hasher) tensors(list []ipc.Tensor) {
	h.number(uint64(len(list)))
	for i := range list {
		t := &list[i]
		h.text(t.Name)
		h.text(t.DType)
		h.number(uint64(len(t.Shape)))
		for _, n := range t.Shape {
			h.number(n)
		}
		h.blob(t.Data)
	}
}

// key digests a request for an action of a pool.
func (c *Cache) key(ctx context.Context, req *ipc.Request, p *pool, a *action) (k Key) {
	h := hashers.Get().(*hasher)
	defer h.free()
	h.sum.Reset()
	h.text("ringmaster cache 1")
	h.text(req.Pool)
	h.blob(p.version[:])
	h.text(req.Action)
	if a.Shared {
		h.number(0)
	} else {
		h.number(1)
		at := len(h.buf)
		h.number(0) // the length, which is known afterwards
		h.buf = c.identity(ctx, req, h.buf)
		binary.LittleEndian.PutUint64(h.buf[at:], uint64(len(h.buf)-at-8))
	}
	h.body(req.Body)
	h.blob(req.Context)
	h.headers(req.Headers)
	h.tensors(req.Tensors)
	h.flush(0)
	copy(k[:], h.sum.Sum(h.digest[:0]))
	return k
}

// ownKey distinguishes a key by who asks, whether or not answers are shared.
func (c *Cache) ownKey(ctx context.Context, req *ipc.Request, k Key) Key {
	return sha256.Sum256(append(c.identity(ctx, req, nil), k[:]...))
}

// version is what the answers of a pool depend on beside the request: what its workers are, and how often it was cleared, so that what is under way at that moment does not come back.
func version(text string, epoch uint64) Key {
	return sha256.Sum256(append(binary.LittleEndian.AppendUint64(nil, epoch), text...))
}

func cloneHeaders(h map[string]string, more int) map[string]string {
	if h == nil && more == 0 {
		return nil
	}
	c := make(map[string]string, len(h)+more)
	maps.Copy(c, h)
	return c
}
