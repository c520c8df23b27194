package ipc

import (
	"fmt"
	"math"
	"time"
)

// Decode decodes one message: a *Request, *Reply, Cancel, Credit, *Hello, Ping, *Batch, *Attach, Detach, Release or a bare Kind (drain, stop, and kinds this version does not know). The message aliases b.
// Errors are INVALID_ARGUMENT/bad_message (or bad_tensor) and say what is wrong; the message returned beside one is a *Request or *Reply if at least kind and id could be
// read, so that the error can be answered, and nil otherwise.
func Decode(b []byte) (any, error) {
	var d decoder
	return d.decode(b)
}

// decoder decodes messages that come one after the other. What one of them names is likely what the last one named, and is then the same string. The zero value is ready.
type decoder struct {
	pool, action, tensor string
	serves               bool // immutable: requests come with the Responder that answers them
}

// decode reads a message in one pass, in which no length is used before it was held against the bytes that are left. Only if that does not come out even is all of it scanned, to tell what is no MessagePack from what is no message.
func (d *decoder) decode(b []byte) (any, error) {
	r := reader{b: b}
	n := r.array()
	k := Kind(min(r.number(), 255))
	id := r.number()
	if r.err != nil || n < 2 {
		return nil, malformed(b, fmt.Errorf("it does not begin with [kind, id, …]"))
	}
	m := d.fields(&r, k, id, n-2)
	if r.err != nil || r.at < len(b) || uint64(len(b)) > math.MaxUint32 {
		err := malformed(b, r.err)
		switch k {
		case KindRequest:
			return &Request{ID: id}, err
		case KindReply:
			return &Reply{ID: id}, err
		}
		return nil, err
	}
	if err := validateTensors(m); err != nil {
		return m, err
	}
	return m, nil
}

// malformed says what is wrong with a message: err, unless it is not even MessagePack.
func malformed(b []byte, err error) *Error {
	if bad := Scan(b); bad != nil {
		err = bad
	}
	return Errorf(InvalidArgument, "bad_message", "the message is malformed: %v", err)
}

// DecodeHead reads what it can of the beginning of a message that is not there as a whole: its kind and id, or false.
func DecodeHead(b []byte) (Kind, uint64, bool) {
	r := reader{b: b}
	n := r.array()
	k, id := r.number(), r.number()
	return Kind(min(k, 255)), id, r.err == nil && n >= 2
}

// known is how many positions after kind and id this version knows of each kind. What comes after them is from a later one, and passed over.
var known = [...]int{
	KindRequest: 11, KindReply: 6, KindCancel: 1, KindCredit: 1, KindHello: 5, KindDrain: 0, KindStop: 0, KindPing: 1, KindAttach: 2, KindDetach: 1, KindBatch: 1, KindRelease: 0,
}

// fields reads the n positions after kind and id.
func (d *decoder) fields(r *reader, k Kind, id uint64, n int) any {
	var m any
	switch k {
	case KindRequest:
		req, room := d.newRequest(n > 8)
		req.ID, req.Credit = id, 1
		d.request(r, req, n, room)
		m = req
	case KindReply:
		reply, room := newReply(n > 3)
		reply.ID = id
		d.reply(r, reply, n, room)
		m = reply
	default:
		m = r.other(k, id, n)
	}
	if int(k) < len(known) {
		n -= known[k]
	}
	r.skip(n, 1)
	return m
}

// room is for the one small tensor that most messages have that have any.
type room struct {
	tensor [1]Tensor
	shape  [3]uint64 // with a fourth, a served request would be of the next size of memory
}

// withRoom is a message together with that: one piece of memory.
type withRoom[M any] struct {
	message M
	room    room
}

// served is a request together with what answers it: one piece of memory, as both live as long.
type served struct {
	request   Request
	responder Responder
}

func (s *served) tied() *Request {
	s.request.responder = &s.responder
	return &s.request
}

// newRequest makes a request that has tensors, or has none.
func (d *decoder) newRequest(tensors bool) (*Request, *room) {
	switch {
	case d.serves && tensors:
		m := &withRoom[served]{}
		return m.message.tied(), &m.room
	case d.serves:
		return new(served).tied(), nil
	case tensors:
		m := &withRoom[Request]{}
		return &m.message, &m.room
	}
	return &Request{}, nil
}

// newReply makes a reply, likewise.
func newReply(tensors bool) (*Reply, *room) {
	if tensors {
		m := &withRoom[Reply]{}
		return &m.message, &m.room
	}
	return &Reply{}, nil
}

// other reads a message that is neither of these.
func (r *reader) other(k Kind, id uint64, n int) any {
	switch k {
	case KindCancel:
		m := Cancel{ID: id}
		if n > 0 {
			m.Reason = r.str()
		}
		return m
	case KindCredit:
		m := Credit{ID: id}
		if n > 0 {
			m.N = r.uint32()
		}
		return m
	case KindHello:
		return r.hello(n)
	case KindPing:
		m := Ping{ID: id}
		if n > 0 {
			m.Answer = r.uint()&1 != 0
		}
		return m
	case KindBatch:
		m := &Batch{}
		if n > 0 {
			m.IDs = r.ids()
		}
		return m
	case KindAttach:
		m := &Attach{ID: id}
		if n > 0 {
			m.Bytes = r.uint()
		}
		if n > 1 {
			m.Region = r.uint()
		}
		return m
	case KindDetach:
		m := Detach{}
		if n > 0 {
			m.Region = r.uint()
		}
		return m
	case KindRelease:
		return Release{ID: id}
	}
	return k
}

// request reads a request's positions. room, if there is one, is for its first tensor.
func (d *decoder) request(r *reader, m *Request, n int, room *room) {
	if n > 0 {
		m.Pool = r.again(&d.pool)
	}
	if n > 1 {
		m.Action = r.again(&d.action)
	}
	if n > 2 {
		m.TraceID = r.str()
	}
	if n > 3 {
		m.Context = r.bin()
	}
	if n > 4 {
		m.Timeout = microseconds(r.uint())
	}
	if n > 5 {
		m.Credit = max(1, r.uint32())
	}
	if n > 6 {
		m.Headers = r.headers()
	}
	if n > 7 {
		m.Body = r.value(1)
	}
	if n > 8 {
		m.Tensors = d.tensors(r, room)
	}
	if n > 9 {
		m.Held = r.uint()&flagHeld != 0
	}
	if n > 10 {
		m.Outputs = r.outputs()
	}
}

// reply reads a reply's, likewise.
func (d *decoder) reply(r *reader, m *Reply, n int, room *room) {
	if n > 0 {
		flags := r.uint()
		m.End, m.Leased = flags&flagEnd != 0, flags&flagLeased != 0
	}
	if n > 1 {
		m.Headers = r.headers()
	}
	if n > 2 {
		m.Body = r.value(1)
	}
	if n > 3 {
		m.Tensors = d.tensors(r, room)
	}
	if n > 4 && !r.null() {
		m.Err = r.error()
	}
	if n > 5 {
		m.Context = r.bin()
	}
}

func (r *reader) hello(n int) *Hello {
	m := &Hello{}
	if n > 0 {
		m.MinVersion = r.uint32()
	}
	if n > 1 {
		m.MaxVersion = r.uint32()
	}
	if n > 2 {
		m.SDK = r.str()
	}
	if n > 3 {
		left := maxPorts
		for range r.most(r.array(), maxActions, "actions in a hello") {
			a := r.action(&left)
			if r.err != nil {
				return m
			}
			m.Actions = append(m.Actions, a)
		}
	}
	if n > 4 {
		for range r.mapping() {
			switch k := r.str(); k {
			case "max_message":
				m.MaxMessage = r.uint()
			case "max_in_flight":
				m.MaxInFlight = r.uint()
			case "ring":
				m.Ring = r.uint()
			case "doors":
				m.Doors = r.uint()
			case "arena":
				m.Arena = r.uint()
			case "ahead":
				m.Ahead = r.uint()
			default:
				r.skip(1, 2)
			}
			if r.err != nil {
				return m
			}
		}
	}
	return m
}

func (r *reader) error() *Error {
	n := r.array()
	e := &Error{}
	if n > 0 {
		e.Code = Code(r.str())
	}
	if n > 1 {
		e.Reason = r.str()
	}
	if n > 2 {
		e.Message = r.str()
	}
	if n > 3 {
		e.RetryAfter = time.Duration(min(r.uint(), math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	}
	if n > 4 {
		e.Details = r.headers()
	}
	r.skip(n-5, 2)
	return e
}

// ids reads what a batch is made of.
func (r *reader) ids() []uint64 {
	n := r.most(r.array(), MaxBatch, "ids in a batch")
	ids := make([]uint64, 0, n)
	for range n {
		ids = append(ids, r.uint())
	}
	return ids
}

// What one message may have of things that take far more memory decoded than their bytes do.
const (
	maxHeaders = 1024
	maxTensors = 1024
	maxDims    = 64
	maxActions = 1024 // of one hello, which any peer may send at any time
)

// most fails if there are more of something than a message may have, or than there are bytes left, and returns how many are to be read.
func (r *reader) most(n, most int, what string) int {
	switch {
	case n > most:
		r.failf("%d %s are more than the %d there may be", n, what, most)
		return 0
	case n > len(r.b)-r.at:
		r.fail(what)
		return 0
	}
	return n
}

func (r *reader) headers() map[string]string {
	n := r.most(r.mapping(), maxHeaders, "headers")
	if n == 0 {
		return nil
	}
	h := make(map[string]string, min(n, 64))
	for range n {
		k := r.str()
		h[k] = r.str()
		if r.err != nil {
			return nil
		}
	}
	return h
}

// tensors reads tensors. What does not fit into the room is allocated.
func (d *decoder) tensors(r *reader, room *room) []Tensor {
	n := r.most(r.array(), maxTensors, "tensors")
	if n == 0 {
		return nil
	}
	ts, shape := room.tensor[:0], room.shape[:0]
	if n > cap(ts) {
		ts = make([]Tensor, 0, min(n, 64))
	}
	for range n {
		k := r.array()
		if k < 4 && r.err == nil {
			r.fail("a tensor of four positions")
		}
		ts = append(ts, Tensor{})
		t := &ts[len(ts)-1]
		t.Name, t.DType = r.again(&d.tensor), r.dtype()
		t.Shape, shape = r.shape(shape), nil
		t.Data = r.bin()
		t.At = r.place(k - 4)
		r.skip(k-7, 3)
		switch {
		case r.err != nil:
		case t.At.Region == 0:
			t.At = Range{}
		case len(t.Data) > 0:
			r.failf("tensor %q is said to be in an arena, and brings data", t.Name)
		default:
			t.Data = nil
		}
		if r.err != nil {
			return nil
		}
	}
	return ts
}

// shape reads a tensor's shape, into what is given if it fits.
func (r *reader) shape(into []uint64) []uint64 {
	n := r.most(r.array(), maxDims, "dimensions")
	if n == 0 {
		return nil
	}
	if n > cap(into) {
		into = make([]uint64, 0, n)
	}
	for range n {
		into = append(into, r.uint())
	}
	return into[:n:n]
}

// outputs reads where a requester would like tensors.
func (r *reader) outputs() []Output {
	n := r.most(r.array(), maxOutputs, "outputs")
	if n == 0 {
		return nil
	}
	os := make([]Output, 0, min(n, 64))
	for range n {
		k := r.array()
		if k < 4 && r.err == nil {
			r.fail("an output of four positions")
		}
		o := Output{Name: r.str(), At: r.place(3)}
		r.skip(k-4, 3)
		if r.err != nil {
			return nil
		}
		os = append(os, o)
	}
	return os
}

// place reads as many of region, offset and length as there are.
func (r *reader) place(n int) (at Range) {
	if n > 0 {
		at.Region = r.uint()
	}
	if n > 1 {
		at.Offset = r.uint()
	}
	if n > 2 {
		at.Length = r.uint()
	}
	return at
}

func microseconds(us uint64) time.Duration {
	return time.Duration(min(us, math.MaxInt64/uint64(time.Microsecond))) * time.Microsecond
}

func validateTensors(m any) error {
	var ts []Tensor
	switch m := m.(type) {
	case *Request:
		ts = m.Tensors
	case *Reply:
		ts = m.Tensors
	}
	for i := range ts {
		if err := ts[i].Validate(); err != nil {
			return err
		}
	}
	return nil
}
