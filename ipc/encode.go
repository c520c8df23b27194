package ipc

import (
	"maps"
	"slices"
	"time"
)

// Encoding: a message is written up to its last position that is not the default; defaults before that are written as their empty value. Maps are
// written in the order of their keys, so equal messages are equal bytes (the golden files pin them for every language).
//
// Requests and replies are appended to a variable, which the compiler can keep in registers. The other messages are written through the encoder's methods: of them there are few.

func (e *encoder) request(m *Request) {
	n := lastSet(m.Pool != "", m.Action != "", m.TraceID != "", len(m.Context) > 0, m.Timeout > 0, m.Credit > 1,
		len(m.Headers) > 0, m.Body.set(), len(m.Tensors) > 0, m.Held, len(m.Outputs) > 0)
	b := appendHead(e.buf, n, KindRequest, m.ID)
	if n > 2 {
		b = appendStr(b, m.Pool)
	}
	if n > 3 {
		b = appendStr(b, m.Action)
	}
	if n > 4 {
		b = appendStr(b, m.TraceID)
	}
	if n > 5 {
		b = e.bin(b, m.Context)
	}
	if n > 6 {
		var us uint64 // rounded up: what is left of a deadline is not nothing
		if m.Timeout > 0 {
			us = uint64((m.Timeout-1)/time.Microsecond) + 1
		}
		b = appendUint(b, us)
	}
	if n > 7 {
		b = appendUint(b, uint64(max(1, m.Credit)))
	}
	if n > 8 {
		b = appendHeaders(b, m.Headers)
	}
	if n > 9 {
		b = e.body(b, m.Body)
	}
	if n > 10 {
		b = e.tensors(b, m.Tensors)
	}
	if n > 11 {
		var flags uint64
		if m.Held {
			flags = flagHeld
		}
		b = appendUint(b, flags)
	}
	if n > 12 {
		b = appendOutputs(b, m.Outputs)
	}
	e.buf = b
}

const (
	flagEnd    = 1 // of a reply
	flagLeased = 2 // of a reply
	flagHeld   = 1 // of a request
)

func (e *encoder) reply(m *Reply) {
	n := lastSet(m.End || m.Leased, len(m.Headers) > 0, m.Body.set(), len(m.Tensors) > 0, m.Err != nil, len(m.Context) > 0)
	b := appendHead(e.buf, n, KindReply, m.ID)
	if n > 2 {
		var flags uint64
		if m.End {
			flags = flagEnd
		}
		if m.Leased {
			flags |= flagLeased
		}
		b = appendUint(b, flags)
	}
	if n > 3 {
		b = appendHeaders(b, m.Headers)
	}
	if n > 4 {
		b = e.body(b, m.Body)
	}
	if n > 5 {
		b = e.tensors(b, m.Tensors)
	}
	if n > 6 {
		b = appendError(b, m.Err)
	}
	if n > 7 {
		b = e.bin(b, m.Context)
	}
	e.buf = b
}

// appendHead appends how a message of n positions begins, of which there are never more than 15.
func appendHead(b []byte, n int, k Kind, id uint64) []byte {
	return appendUint(append(b, 0x90|byte(n), byte(k)), id)
}

func appendError(b []byte, err *Error) []byte {
	if err == nil {
		return append(b, codeNil)
	}
	b = appendArray(b, 5)
	b = appendStr(b, string(err.Code))
	b = appendStr(b, err.Reason)
	b = appendStr(b, err.Message)
	b = appendUint(b, uint64(max(0, err.RetryAfter.Milliseconds())))
	return appendHeaders(b, err.Details)
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
	if m.Doors > 0 {
		limits["doors"] = m.Doors
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

func appendHeaders(b []byte, h map[string]string) []byte {
	b = appendMap(b, len(h))
	switch len(h) {
	case 0:
	case 1:
		for k, v := range h {
			b = appendStr(appendStr(b, k), v)
		}
	default:
		b = appendSorted(b, h)
	}
	return b
}

// appendSorted is apart from appendHeaders because sorting takes so much stack that the goroutine of every small request would have to grow its own.
//
//go:noinline
func appendSorted(b []byte, h map[string]string) []byte {
	for _, k := range slices.Sorted(maps.Keys(h)) {
		b = appendStr(appendStr(b, k), h[k])
	}
	return b
}

func (e *encoder) body(b []byte, body Body) []byte {
	if len(body) == 0 {
		return append(b, codeNil)
	}
	return e.raw(b, body)
}

func (e *encoder) tensors(b []byte, ts []Tensor) []byte {
	b = appendArray(b, len(ts))
	for i := range ts {
		t := &ts[i]
		n := 4
		if t.At.Region != 0 {
			n = 7
		}
		b = appendArray(b, n)
		b = appendStr(b, t.Name)
		b = appendStr(b, t.DType)
		b = appendArray(b, len(t.Shape))
		for _, n := range t.Shape {
			b = appendUint(b, n)
		}
		if t.At.Region == 0 {
			b = e.bin(b, t.Data)
			continue
		}
		b = appendPlace(append(b, codeNil), t.At)
	}
	return b
}

func appendOutputs(b []byte, os []Output) []byte {
	b = appendArray(b, len(os))
	for i := range os {
		b = appendArray(b, 4)
		b = appendStr(b, os[i].Name)
		b = appendPlace(b, os[i].At)
	}
	return b
}

func appendPlace(b []byte, r Range) []byte {
	b = appendUint(b, r.Region)
	b = appendUint(b, r.Offset)
	return appendUint(b, r.Length)
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
