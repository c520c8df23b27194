package ipc

import (
	"maps"
	"slices"
	"time"
)

// Encoding: a message is written up to its last position that is not the default; defaults before that are written as their empty value. Maps are
// written in the order of their keys, so equal messages are equal bytes (the golden files pin them for every language).

func (e *encoder) request(m *Request) {
	n := lastSet(m.Pool != "", m.Action != "", m.TraceID != "", len(m.Context) > 0, m.Timeout > 0, m.Credit > 1,
		len(m.Headers) > 0, m.Body.set(), len(m.Tensors) > 0, m.Held, len(m.Outputs) > 0)
	e.array(n)
	e.uint(uint64(KindRequest))
	e.uint(m.ID)
	if n > 2 {
		e.str(m.Pool)
	}
	if n > 3 {
		e.str(m.Action)
	}
	if n > 4 {
		e.str(m.TraceID)
	}
	if n > 5 {
		e.bin(m.Context)
	}
	if n > 6 {
		var us uint64 // rounded up: what is left of a deadline is not nothing
		if m.Timeout > 0 {
			us = uint64((m.Timeout-1)/time.Microsecond) + 1
		}
		e.uint(us)
	}
	if n > 7 {
		e.uint(uint64(max(1, m.Credit)))
	}
	if n > 8 {
		e.headers(m.Headers)
	}
	if n > 9 {
		e.body(m.Body)
	}
	if n > 10 {
		e.tensors(m.Tensors)
	}
	if n > 11 {
		var flags uint64
		if m.Held {
			flags = flagHeld
		}
		e.uint(flags)
	}
	if n > 12 {
		e.outputs(m.Outputs)
	}
}

const (
	flagEnd    = 1 // of a reply
	flagLeased = 2 // of a reply
	flagHeld   = 1 // of a request
)

func (e *encoder) reply(m *Reply) {
	n := lastSet(m.End || m.Leased, len(m.Headers) > 0, m.Body.set(), len(m.Tensors) > 0, m.Err != nil, len(m.Context) > 0)
	e.array(n)
	e.uint(uint64(KindReply))
	e.uint(m.ID)
	if n > 2 {
		var flags uint64
		if m.End {
			flags = flagEnd
		}
		if m.Leased {
			flags |= flagLeased
		}
		e.uint(flags)
	}
	if n > 3 {
		e.headers(m.Headers)
	}
	if n > 4 {
		e.body(m.Body)
	}
	if n > 5 {
		e.tensors(m.Tensors)
	}
	if n > 6 {
		e.error(m.Err)
	}
	if n > 7 {
		e.bin(m.Context)
	}
}

func (e *encoder) error(err *Error) {
	if err == nil {
		e.buf = append(e.buf, codeNil)
		return
	}
	e.array(5)
	e.str(string(err.Code))
	e.str(err.Reason)
	e.str(err.Message)
	e.uint(uint64(max(0, err.RetryAfter.Milliseconds())))
	e.headers(err.Details)
}

func (e *encoder) cancel(m Cancel) {
	n := lastSet(m.Reason != "")
	e.array(n)
	e.uint(uint64(KindCancel))
	e.uint(m.ID)
	if n > 2 {
		e.str(m.Reason)
	}
}

func (e *encoder) credit(m Credit) {
	n := lastSet(m.N > 0)
	e.array(n)
	e.uint(uint64(KindCredit))
	e.uint(m.ID)
	if n > 2 {
		e.uint(uint64(m.N))
	}
}

func (e *encoder) hello(m *Hello) {
	limits := map[string]uint64{}
	if m.Ahead > 0 {
		limits["ahead"] = m.Ahead
	}
	if m.Arena > 0 {
		limits["arena"] = m.Arena
	}
	if m.MaxInFlight > 0 {
		limits["max_in_flight"] = m.MaxInFlight
	}
	if m.MaxMessage > 0 {
		limits["max_message"] = m.MaxMessage
	}
	if m.Ring > 0 {
		limits["ring"] = m.Ring
	}
	n := lastSet(m.MinVersion > 0, m.MaxVersion > 0, m.SDK != "", len(m.Actions) > 0, len(limits) > 0)
	e.array(n)
	e.uint(uint64(KindHello))
	e.uint(0)
	if n > 2 {
		e.uint(uint64(m.MinVersion))
	}
	if n > 3 {
		e.uint(uint64(m.MaxVersion))
	}
	if n > 4 {
		e.str(m.SDK)
	}
	if n > 5 {
		e.array(len(m.Actions))
		for _, a := range m.Actions {
			e.action(a)
		}
	}
	if n > 6 {
		e.mapping(len(limits))
		for _, k := range slices.Sorted(maps.Keys(limits)) {
			e.str(k)
			e.uint(limits[k])
		}
	}
}

// signal writes a message that is only its kind: drain, stop.
func (e *encoder) signal(k Kind) {
	e.array(2)
	e.uint(uint64(k))
	e.uint(0)
}

func (e *encoder) ping(m Ping) {
	n := lastSet(m.Answer)
	e.array(n)
	e.uint(uint64(KindPing))
	e.uint(m.ID)
	if n > 2 {
		e.uint(1)
	}
}

func (e *encoder) batch(m *Batch) {
	n := lastSet(len(m.IDs) > 0)
	e.array(n)
	e.uint(uint64(KindBatch))
	e.uint(0)
	if n > 2 {
		e.array(len(m.IDs))
		for _, id := range m.IDs {
			e.uint(id)
		}
	}
}

func (e *encoder) attach(m *Attach) {
	n := lastSet(m.Bytes > 0, m.Region > 0)
	e.array(n)
	e.uint(uint64(KindAttach))
	e.uint(m.ID)
	if n > 2 {
		e.uint(m.Bytes)
	}
	if n > 3 {
		e.uint(m.Region)
	}
}

func (e *encoder) detach(m Detach) {
	n := lastSet(m.Region > 0)
	e.array(n)
	e.uint(uint64(KindDetach))
	e.uint(0)
	if n > 2 {
		e.uint(m.Region)
	}
}

func (e *encoder) release(m Release) {
	e.array(2)
	e.uint(uint64(KindRelease))
	e.uint(m.ID)
}

func (e *encoder) headers(h map[string]string) {
	e.mapping(len(h))
	if len(h) == 0 {
		return
	}
	if len(h) > 1 {
		e.sorted(h)
		return
	}
	for k, v := range h {
		e.str(k)
		e.str(v)
	}
}

// sorted is apart from headers because sorting takes so much stack that the goroutine of every small request would have to grow its own.
//
//go:noinline
func (e *encoder) sorted(h map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(h)) {
		e.str(k)
		e.str(h[k])
	}
}

func (e *encoder) body(b Body) {
	if len(b) == 0 {
		e.buf = append(e.buf, codeNil)
		return
	}
	e.raw(b)
}

func (e *encoder) tensors(ts []Tensor) {
	e.array(len(ts))
	for i := range ts {
		t := &ts[i]
		n := 4
		if t.At.Region != 0 {
			n = 7
		}
		e.array(n)
		e.str(t.Name)
		e.str(t.DType)
		e.array(len(t.Shape))
		for _, n := range t.Shape {
			e.uint(n)
		}
		if t.At.Region == 0 {
			e.bin(t.Data)
			continue
		}
		e.buf = append(e.buf, codeNil)
		e.place(t.At)
	}
}

func (e *encoder) outputs(os []Output) {
	e.array(len(os))
	for i := range os {
		e.array(4)
		e.str(os[i].Name)
		e.place(os[i].At)
	}
}

func (e *encoder) place(r Range) {
	e.uint(r.Region)
	e.uint(r.Offset)
	e.uint(r.Length)
}

func (b Body) set() bool { return len(b) > 1 || len(b) == 1 && b[0] != codeNil }

// lastSet returns the number of positions to write: kind, id and everything up to the last position that is set.
func lastSet(set ...bool) int {
	for i := len(set) - 1; i >= 0; i-- {
		if set[i] {
			return i + 3
		}
	}
	return 2
}

func (a Action) flags() uint64 {
	var f uint64
	if a.Stream {
		f |= 1
	}
	if a.Idempotent {
		f |= 2
	}
	if a.Batchable {
		f |= 4
	}
	return f
}
