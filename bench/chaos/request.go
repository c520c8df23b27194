package chaos

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ringmasterd/ringmaster/internal/proof"
	"github.com/ringmasterd/ringmaster/ipc"
)

// id is a request's number: which client's, of which class, and the how manieth.
type id struct {
	client uint16
	class  class
	seq    uint32
}

// nonce is the number as it travels.
func (n id) nonce() string { return fmt.Sprintf("%04x%02x%010x", n.client, uint8(n.class), n.seq) }

func parseNonce(s string) (id, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 || v>>40&0xff >= uint64(classes) || v&0xff_ffff_ffff > 1<<32-1 {
		return id{}, fmt.Errorf("%q is no request's number", s)
	}
	return id{uint16(v >> 48), class(v >> 40 & 0xff), uint32(v)}, nil
}

// numbers hands out ids of one client.
type numbers struct {
	client uint16
	next   [classes]atomic.Uint32
}

func (n *numbers) take(c class) id { return id{n.client, c, n.next[c].Add(1) - 1} }

// request is what is asked, and the judge of what comes back.
type request struct {
	id     id
	req    ipc.Request
	data   []byte       // the body's
	n      int          // chunks, of a stream
	size   int          // bytes of each
	chain  *proof.Chain // a stream's
	chunks int          // so many have come
	slot   string       // who answered
	pid    int
}

// The bodies that are sent; the workers' halves are in worker/builtin_chaos.go.
type (
	transformBody struct {
		Nonce string  `msgpack:"nonce"`
		MS    float64 `msgpack:"ms,omitempty"`
		Late  bool    `msgpack:"late,omitempty"` // goes on, and writes, though nobody waits any more
		Data  []byte  `msgpack:"data,omitempty"`
	}
	streamBody struct {
		Nonce string  `msgpack:"nonce"`
		N     int     `msgpack:"n"`
		Size  int     `msgpack:"size"`
		MS    float64 `msgpack:"ms"`
	}
	harmBody struct {
		Nonce string `msgpack:"nonce"`
		How   string `msgpack:"how,omitempty"`
		MiB   int    `msgpack:"mib,omitempty"`
	}
	answerBody struct {
		Nonce string `msgpack:"nonce"`
		Sum   string `msgpack:"sum"`
		Data  []byte `msgpack:"data"`
		Slot  string `msgpack:"slot"`
		PID   int    `msgpack:"pid"`
	}
	chunkBody struct {
		Nonce string `msgpack:"nonce"`
		Seq   int    `msgpack:"seq"`
		Sum   string `msgpack:"sum"`
		Data  []byte `msgpack:"data"`
	}
)

// patience is the deadline of a request that does no harm: long, so that it survives what its workers go through.
const patience = 30 * time.Second

// newRequest makes a request with a body. A body of this package can always be encoded.
func newRequest(n id, pool string, body any, timeout time.Duration, tensors ...ipc.Tensor) *request {
	b, err := ipc.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &request{id: n, req: ipc.Request{Pool: pool, Action: n.class.action(), Body: b, Tensors: tensors, Timeout: timeout, Credit: 16}}
}

func newTransform(n id, pool string, ms float64, data []byte, tensors ...ipc.Tensor) *request {
	r := newRequest(n, pool, transformBody{Nonce: n.nonce(), MS: ms, Data: data}, patience, tensors...)
	r.data = data
	return r
}

// newHasty makes a transform whose client waits for about as long as it takes, or much less. The worker writes its answer nevertheless, if it is late.
func newHasty(n id, pool string, ms float64, late bool, timeout time.Duration, tensors ...ipc.Tensor) *request {
	return newRequest(n, pool, transformBody{Nonce: n.nonce(), MS: ms, Late: late}, timeout, tensors...)
}

func newStream(n id, pool string, chunks, size int, ms float64) *request {
	r := newRequest(n, pool, streamBody{n.nonce(), chunks, size, ms}, patience)
	r.n, r.size, r.chain = chunks, size, proof.NewChain(n.nonce())
	return r
}

// noise is where the bytes of bodies and tensors come from.
type noise []byte

const maxTensor = 9 << 20 // bytes: more than a ring holds

func newNoise(seed uint64) noise {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	b := make(noise, maxTensor+1<<20)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// cut returns n bytes from somewhere.
func (b noise) cut(rng *rand.Rand, n int) []byte {
	at := rng.IntN(len(b) - n + 1)
	return b[at : at+n]
}

// next plans a client's next request: mostly small and quick, sometimes neither.
func (b noise) next(rng *rand.Rand, ids *numbers, pools []string) *request {
	pool := pools[rng.IntN(len(pools))]
	ms := 0.0
	switch p := rng.Float64(); {
	case p < 0.15:
		ms = 30 + 170*rng.Float64()
	case p < 0.50:
		ms = 30 * rng.Float64()
	}
	switch p := rng.Float64(); {
	case p < 0.15:
		return newStream(ids.take(stream), pool, rng.IntN(60), 1+rng.IntN(8<<10), ms/40)
	case p < 0.30:
		return wish(rng, newTransform(ids.take(once), pool, ms, b.cut(rng, rng.IntN(256)), b.tensors(rng)...))
	case p < 0.40:
		ms := 20 + 180*rng.Float64()
		timeout := time.Duration((0.1 + 1.2*rng.Float64()) * ms * float64(time.Millisecond))
		return wish(rng, newHasty(ids.take(hasty), pool, ms, rng.IntN(2) == 0, timeout, b.tensors(rng)...))
	}
	return wish(rng, newTransform(ids.take(transform), pool, ms, b.cut(rng, rng.IntN(256)), b.tensors(rng)...))
}

// wish has most of the requests with tensors laid into an arena, where the connection can do that, with room for their answers: mostly as much as they take, sometimes more, and now and then too little. The outputs say so until a
// connection has laid them: they have a length, and no memory.
func wish(rng *rand.Rand, r *request) *request {
	if rng.Float64() < 0.25 {
		return r // large tensors are the client's own affair
	}
	for _, t := range r.req.Tensors {
		room := len(t.Data)
		switch p := rng.Float64(); {
		case p < 0.05:
			room = 1 + rng.IntN(room)
		case p < 0.30:
			room += rng.IntN(4 << 10)
		}
		r.req.Outputs = append(r.req.Outputs, ipc.Output{Name: t.Name, At: ipc.Range{Length: uint64(room)}})
	}
	return r
}

func (b noise) tensors(rng *rand.Rand) []ipc.Tensor {
	one := func(name string, most int) ipc.Tensor {
		n := 8 * (1 + rng.IntN(most/8))
		return ipc.Tensor{Name: name, DType: "uint64", Shape: []uint64{uint64(n / 8)}, Data: b.cut(rng, n)}
	}
	switch p := rng.Float64(); {
	case p < 0.50:
		return nil
	case p < 0.85:
		return []ipc.Tensor{one("x", 64<<10)}
	case p < 0.95:
		return []ipc.Tensor{one("x", 4<<10), one("y", 256<<10)}
	case p < 0.995:
		return []ipc.Tensor{one("x", 1<<20)}
	}
	return []ipc.Tensor{one("x", maxTensor)}
}

// check says what is wrong with a reply, if anything is. It is called for each in turn.
func (r *request) check(reply *ipc.Reply) error {
	switch r.id.class {
	case transform, once, flood, hasty:
		return r.checkAnswer(reply)
	case stream, deaf:
		return r.checkChunk(reply)
	}
	return nil // whatever those that do harm answer
}

func (r *request) checkAnswer(reply *ipc.Reply) error {
	if !reply.End {
		return fmt.Errorf("a chunk came where an answer was due")
	}
	var a answerBody
	if err := reply.Body.Decode(&a); err != nil {
		return err
	}
	nonce := r.id.nonce()
	reversed := slices.Clone(r.data)
	slices.Reverse(reversed)
	switch {
	case a.Nonce != nonce:
		return fmt.Errorf("it is the answer to request %s", a.Nonce)
	case a.Sum != proof.Sum(nonce, r.data, r.req.Tensors):
		return fmt.Errorf("the worker did not get the bytes that were sent: their sum was %s", a.Sum)
	case !bytes.Equal(a.Data, reversed):
		return fmt.Errorf("the body's data is not what was sent, reversed (%d bytes, sent %d)", len(a.Data), len(r.data))
	case len(reply.Tensors) != len(r.req.Tensors):
		return fmt.Errorf("%d tensors came back, %d were sent", len(reply.Tensors), len(r.req.Tensors))
	}
	mask := proof.Mask(nonce)
	for i, sent := range r.req.Tensors {
		got := reply.Tensors[i]
		if got.Name != sent.Name || got.DType != sent.DType || !slices.Equal(got.Shape, sent.Shape) {
			return fmt.Errorf("tensor %d is %s %s %v, sent was %s %s %v", i, got.Name, got.DType, got.Shape, sent.Name, sent.DType, sent.Shape)
		}
		if back := proof.Mix(got.Data, mask); !bytes.Equal(back, sent.Data) {
			return fmt.Errorf("tensor %s is wrong from byte %d of %d on", sent.Name, firstDifference(back, sent.Data), len(sent.Data))
		}
	}
	r.slot, r.pid = a.Slot, a.PID
	return nil
}

func (r *request) checkChunk(reply *ipc.Reply) error {
	if reply.End {
		if r.chunks != r.n || !reply.Empty() {
			return fmt.Errorf("the stream ended after %d of %d chunks", r.chunks, r.n)
		}
		return nil
	}
	var c chunkBody
	if err := reply.Body.Decode(&c); err != nil {
		return err
	}
	if r.chunks >= r.n {
		return fmt.Errorf("chunk %d came, there are %d", c.Seq, r.n)
	}
	data, sum := r.chain.Next(r.size)
	switch nonce := r.id.nonce(); {
	case c.Nonce != nonce:
		return fmt.Errorf("chunk %d of request %s came", c.Seq, c.Nonce)
	case c.Seq != r.chunks:
		return fmt.Errorf("chunk %d came when %d was due", c.Seq, r.chunks)
	case !bytes.Equal(c.Data, data) || c.Sum != sum:
		return fmt.Errorf("chunk %d is wrong from byte %d of %d on, or its sum is", c.Seq, firstDifference(c.Data, data), len(data))
	}
	r.chunks++
	return nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
