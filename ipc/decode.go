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

func (d *decoder) decode(b []byte) (any, error) {
	r := reader{b: b}
	var s scanner
	scanErr := s.whole(b)
	n := r.array()
	k := Kind(min(r.number(), 255))
	id := r.number()
	if r.err != nil || n < 2 {
		if scanErr == nil {
			scanErr = fmt.Errorf("it does not begin with [kind, id, …]")
		}
		return nil, badMessage(scanErr)
	}
	var m any
	if scanErr == nil {
		m = d.fields(&r, &s, k, id, n-2)
		scanErr = r.err
	}
	if scanErr != nil {
		switch k {
		case KindRequest:
			return &Request{ID: id}, badMessage(scanErr)
		case KindReply:
			return &Reply{ID: id}, badMessage(scanErr)
		}
		return nil, badMessage(scanErr)
	}
	if err := validateTensors(m); err != nil {
		return m, err
	}
	return m, nil
}

// DecodeHead reads what it can of the beginning of a message that is not there as a whole: its kind and id, or false.
func DecodeHead(b []byte) (Kind, uint64, bool) {
	r := reader{b: b}
	n := r.array()
	k, id := r.number(), r.number()
	return Kind(min(k, 255)), id, r.err == nil && n >= 2
}

func badMessage(err error) *Error {
	return Errorf(InvalidArgument, "bad_message", "the message is malformed: %v", err)
}

// withTensor is a message together with room for the one small tensor that most have who have any.
type withTensor[M any] struct {
	message M
	tensor  [1]Tensor
	shape   [4]uint64
}

// served is a request together with what answers it: one piece of memory, as both live as long.
type served struct {
	withTensor[Request]
	responder Responder
}

// fields reads the n positions after kind and id of what s has scanned.
func (d *decoder) fields(r *reader, s *scanner, k Kind, id uint64, n int) any {
	switch k {
	case KindRequest:
		if d.serves {
			m := &served{}
			m.message.ID, m.message.Credit, m.message.responder = id, 1, &m.responder
			d.request(r, s, &m.message, n, m.tensor[:0], m.shape[:0])
			return &m.message
		}
		if n > 8 {
			m := &withTensor[Request]{message: Request{ID: id, Credit: 1}}
			d.request(r, s, &m.message, n, m.tensor[:0], m.shape[:0])
			return &m.message
		}
		m := &Request{ID: id, Credit: 1}
		d.request(r, s, m, n, nil, nil)
		return m
	case KindReply:
		if n > 3 {
			m := &withTensor[Reply]{message: Reply{ID: id}}
			d.reply(r, s, &m.message, n, m.tensor[:0], m.shape[:0])
			return &m.message
		}
		m := &Reply{ID: id}
		d.reply(r, s, m, n, nil, nil)
		return m
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

// request reads a request's positions. tensors and shape are room for what comes first of them.
func (d *decoder) request(r *reader, s *scanner, m *Request, n int, tensors []Tensor, shape []uint64) {
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
		m.Body = r.scanned(s.length(9, 1))
	}
	if n > 8 {
		m.Tensors = d.tensors(r, tensors, shape)
	}
	if n > 9 {
		m.Held = r.uint()&flagHeld != 0
	}
	if n > 10 {
		m.Outputs = r.outputs()
	}
}

// reply reads a reply's, likewise.
func (d *decoder) reply(r *reader, s *scanner, m *Reply, n int, tensors []Tensor, shape []uint64) {
	if n > 0 {
		flags := r.uint()
		m.End, m.Leased = flags&flagEnd != 0, flags&flagLeased != 0
	}
	if n > 1 {
		m.Headers = r.headers()
	}
	if n > 2 {
		m.Body = r.scanned(s.length(4, 1))
	}
	if n > 3 {
		m.Tensors = d.tensors(r, tensors, shape)
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
		for range r.array() {
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
			case "arena":
				m.Arena = r.uint()
			case "ahead":
				m.Ahead = r.uint()
			default:
				r.skip(1)
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
	r.skip(n - 5)
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
)

// most fails if there are more of something than a message may have, and returns how many are to be read.
func (r *reader) most(n, most int, what string) int {
	if n <= most || r.err != nil {
		return n
	}
	r.err = fmt.Errorf("%d %s are more than the %d there may be", n, what, most)
	r.b = nil
	return 0
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

// tensors reads tensors. ts and shape are room for the first; what does not fit is allocated.
func (d *decoder) tensors(r *reader, ts []Tensor, shape []uint64) []Tensor {
	n := r.most(r.array(), maxTensors, "tensors")
	if n == 0 {
		return nil
	}
	if n > cap(ts) {
		ts = make([]Tensor, 0, min(n, 64))
	}
	for range n {
		k := r.array()
		if k < 4 && r.err == nil {
			r.fail("a tensor of four positions")
		}
		t := Tensor{Name: r.again(&d.tensor), DType: r.dtype()}
		if dims := r.most(r.array(), maxDims, "dimensions"); dims > 0 {
			if dims <= cap(shape) {
				t.Shape, shape = shape[:0:dims], nil
			} else {
				t.Shape = make([]uint64, 0, min(dims, 64))
			}
			for range dims {
				t.Shape = append(t.Shape, r.uint())
				if r.err != nil {
					return nil
				}
			}
		}
		t.Data = r.bin()
		t.At = r.place(k - 4)
		r.skip(k - 7)
		switch {
		case r.err != nil:
		case t.At.Region == 0:
			t.At = Range{}
		case len(t.Data) > 0:
			r.err = fmt.Errorf("tensor %q is said to be in an arena, and brings data", t.Name)
		default:
			t.Data = nil
		}
		if r.err != nil {
			return nil
		}
		ts = append(ts, t)
	}
	return ts
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
		r.skip(k - 4)
		if r.err != nil {
			return nil
		}
		os = append(os, o)
	}
	return os
}

// place reads as many of region, offset and length as there are.
func (r *reader) place(n int) (at Range) {
	for i, p := range []*uint64{&at.Region, &at.Offset, &at.Length} {
		if i < n {
			*p = r.uint()
		}
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
