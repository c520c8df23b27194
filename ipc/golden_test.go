package ipc

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/golden anew")

// The golden files hold messages and their canonical bytes. Every implementation of the protocol, in whatever language, reads them and checks both ways.
// What concerns arenas has a file of its own.
var goldenFiles = map[string]func() []goldenCase{"golden.json": goldenCases, "arena.json": goldenArenas, "signature.json": goldenSignatures}

func goldenFile(name string) string { return filepath.Join("testdata", "golden", name) }

type golden struct {
	Name    string          `json:"name"`
	Hex     string          `json:"hex"`
	Message json.RawMessage `json:"message"`
}

type goldenTensor struct {
	Name  string   `json:"name"`
	DType string   `json:"dtype"`
	Shape []uint64 `json:"shape"`
	Data  hexBytes `json:"data_hex"`

	Region uint64  `json:"region,omitempty"` // 0: it is not in an arena
	Offset *uint64 `json:"offset,omitempty"` // of one that is
	Length *uint64 `json:"length,omitempty"`
}

type goldenOutput struct {
	Name     string `json:"name"`
	Region   uint64 `json:"region"`
	Offset   uint64 `json:"offset"`
	Capacity uint64 `json:"capacity"`
}

type goldenRequest struct {
	Kind    string            `json:"kind"`
	ID      uint64            `json:"id"`
	Pool    string            `json:"pool"`
	Action  string            `json:"action_type"`
	TraceID string            `json:"trace_id"`
	Context hexBytes          `json:"context_blob_hex"`
	Timeout uint64            `json:"timeout_us"`
	Credit  uint32            `json:"credit"`
	Headers map[string]string `json:"headers"`
	Body    hexBytes          `json:"body_hex"` // empty: nil
	Tensors []goldenTensor    `json:"tensors"`
	Flags   uint64            `json:"flags,omitempty"`
	Outputs []goldenOutput    `json:"outputs,omitempty"`
}

type goldenBatch struct {
	Kind string   `json:"kind"`
	IDs  []uint64 `json:"ids"`
}

type goldenError struct {
	Code       string            `json:"code"`
	Reason     string            `json:"reason"`
	Message    string            `json:"message"`
	RetryAfter uint64            `json:"retry_after_ms"`
	Details    map[string]string `json:"details"`
}

type goldenReply struct {
	Kind    string            `json:"kind"`
	ID      uint64            `json:"id"`
	Flags   uint64            `json:"flags"`
	Headers map[string]string `json:"headers"`
	Body    hexBytes          `json:"body_hex"`
	Tensors []goldenTensor    `json:"tensors"`
	Error   *goldenError      `json:"error"`
	Context hexBytes          `json:"context_blob_hex,omitempty"`
}

type goldenAction struct {
	Name    string `json:"name"`
	Flags   uint64 `json:"flags"`
	Inputs  []Port `json:"inputs,omitempty"`
	Outputs []Port `json:"outputs,omitempty"`
}

type goldenHello struct {
	Kind       string            `json:"kind"`
	VersionMin uint32            `json:"version_min"`
	VersionMax uint32            `json:"version_max"`
	SDK        string            `json:"sdk"`
	Actions    []goldenAction    `json:"actions"`
	Limits     map[string]uint64 `json:"limits"`
}

// goldenSmall is one of the messages that have hardly any fields.
type goldenSmall struct {
	Kind   string  `json:"kind"`
	ID     *uint64 `json:"id,omitempty"`
	Reason *string `json:"reason,omitempty"`
	N      *uint32 `json:"n,omitempty"`
	Flags  *uint64 `json:"flags,omitempty"`
	Bytes  *uint64 `json:"bytes,omitempty"`
	Region *uint64 `json:"region,omitempty"`
}

type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

// toGolden describes a message for the golden file.
func toGolden(m any) any {
	switch m := m.(type) {
	case *Request:
		g := goldenRequest{
			Kind: "request", ID: m.ID, Pool: m.Pool, Action: m.Action, TraceID: m.TraceID, Context: m.Context, Timeout: uint64(m.Timeout / time.Microsecond),
			Credit: m.Credit, Headers: orEmpty(m.Headers), Body: hexBytes(m.Body), Tensors: toGoldenTensors(m.Tensors),
		}
		if m.Held {
			g.Flags = 1
		}
		for _, o := range m.Outputs {
			g.Outputs = append(g.Outputs, goldenOutput{o.Name, o.At.Region, o.At.Offset, o.At.Length})
		}
		return g
	case *Batch:
		return goldenBatch{"batch", append([]uint64{}, m.IDs...)}
	case *Reply:
		g := goldenReply{Kind: "reply", ID: m.ID, Headers: orEmpty(m.Headers), Body: hexBytes(m.Body), Tensors: toGoldenTensors(m.Tensors), Context: m.Context}
		if m.End {
			g.Flags = 1
		}
		if m.Leased {
			g.Flags |= 2
		}
		if e := m.Err; e != nil {
			g.Error = &goldenError{string(e.Code), e.Reason, e.Message, uint64(e.RetryAfter / time.Millisecond), orEmpty(e.Details)}
		}
		return g
	case Cancel:
		return goldenSmall{Kind: "cancel", ID: &m.ID, Reason: &m.Reason}
	case Credit:
		return goldenSmall{Kind: "credit", ID: &m.ID, N: &m.N}
	case *Hello:
		g := goldenHello{Kind: "hello", VersionMin: m.MinVersion, VersionMax: m.MaxVersion, SDK: m.SDK, Actions: []goldenAction{}, Limits: map[string]uint64{}}
		for _, a := range m.Actions {
			action := goldenAction{Name: a.Name, Flags: a.flags()}
			if a.Signature != nil {
				action.Inputs, action.Outputs = a.Signature.Inputs, a.Signature.Outputs
			}
			g.Actions = append(g.Actions, action)
		}
		if m.MaxMessage > 0 {
			g.Limits["max_message"] = m.MaxMessage
		}
		if m.MaxInFlight > 0 {
			g.Limits["max_in_flight"] = m.MaxInFlight
		}
		if m.Ring > 0 {
			g.Limits["ring"] = m.Ring
		}
		if m.Arena > 0 {
			g.Limits["arena"] = m.Arena
		}
		if m.Ahead > 0 {
			g.Limits["ahead"] = m.Ahead
		}
		return g
	case Ping:
		flags := uint64(0)
		if m.Answer {
			flags = 1
		}
		return goldenSmall{Kind: "ping", ID: &m.ID, Flags: &flags}
	case *Attach:
		return goldenSmall{Kind: "attach", ID: &m.ID, Bytes: &m.Bytes, Region: &m.Region}
	case Detach:
		return goldenSmall{Kind: "detach", Region: &m.Region}
	case Release:
		return goldenSmall{Kind: "release", ID: &m.ID}
	case Kind:
		return goldenSmall{Kind: map[Kind]string{KindDrain: "drain", KindStop: "stop"}[m]}
	}
	panic(fmt.Sprintf("no golden form for %T", m))
}

func toGoldenTensors(ts []Tensor) []goldenTensor {
	list := []goldenTensor{}
	for _, t := range ts {
		shape := t.Shape
		if shape == nil {
			shape = []uint64{}
		}
		g := goldenTensor{Name: t.Name, DType: t.DType, Shape: shape, Data: t.Data, Region: t.At.Region}
		if g.Region != 0 {
			g.Offset, g.Length = &t.At.Offset, &t.At.Length
		}
		list = append(list, g)
	}
	return list
}

func orEmpty(h map[string]string) map[string]string {
	if h == nil {
		return map[string]string{}
	}
	return h
}

func encodeMessage(m any) []byte {
	e := newEncoder()
	defer e.free()
	switch m := m.(type) {
	case *Request:
		e.request(m)
	case *Reply:
		e.reply(m)
	case Cancel:
		e.cancel(m)
	case Credit:
		e.credit(m)
	case *Hello:
		e.hello(m)
	case Ping:
		e.ping(m)
	case *Batch:
		e.batch(m)
	case *Attach:
		e.attach(m)
	case Detach:
		e.detach(m)
	case Release:
		e.release(m)
	case Kind:
		e.signal(m)
	default:
		panic(fmt.Sprintf("not a message: %T", m))
	}
	parts, size := e.message()
	b := bytes.Join(parts, nil)
	if len(b) != size {
		panic("message's size is not that of its parts")
	}
	return b
}

type goldenCase struct {
	name    string
	message any
}

// goldenCases covers every field alone (so that every trailing default is left off once), all together, and both sides of every boundary between two encodings of a length or number.
func goldenCases() []goldenCase {
	var cases []goldenCase
	add := func(m any, format string, args ...any) {
		cases = append(cases, goldenCase{fmt.Sprintf(format, args...), m})
	}
	uints := []uint64{1, 127, 128, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64}
	lengths := []int{1, 31, 32, 255, 256}
	body := Body{0x82, 0xa1, 'a', 0x01, 0xa1, 'b', 0x93, 0xc0, 0xc3, 0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0}
	vector := Tensor{Name: "x", DType: "float32", Shape: []uint64{2}, Data: []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}}

	add(&Request{ID: 1, Credit: 1}, "request, every default")
	add(&Request{ID: 1, Credit: 1, Pool: "p"}, "request, pool only")
	add(&Request{ID: 1, Credit: 1, Action: "a"}, "request, action_type only")
	add(&Request{ID: 1, Credit: 1, TraceID: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "request, trace_id only")
	add(&Request{ID: 1, Credit: 1, Context: []byte{0, 0xff}}, "request, context_blob only")
	add(&Request{ID: 1, Credit: 1, Timeout: time.Microsecond}, "request, timeout_us only")
	add(&Request{ID: 1, Credit: 2}, "request, credit only")
	add(&Request{ID: 1, Credit: 1, Headers: map[string]string{"k": "v"}}, "request, headers only")
	add(&Request{ID: 1, Credit: 1, Body: body}, "request, body only")
	add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{vector}}, "request, tensors only")
	add(&Request{
		ID: 7, Pool: "smollm2", Action: "chat", TraceID: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Context: []byte("session"),
		Timeout: 1500 * time.Millisecond, Credit: 32, Headers: map[string]string{"user": "ada", "lang": "en"}, Body: body, Tensors: []Tensor{vector},
	}, "request, every field")
	add(&Request{ID: 1, Credit: 1, Pool: "größe", Action: "日本語", Headers: map[string]string{"🎉": "é"}}, "request, beyond ASCII")
	for _, v := range uints {
		add(&Request{ID: v, Credit: 1, Action: "a"}, "request, id %d", v)
	}
	for _, v := range append([]uint64{math.MaxInt64 / 1000}, uints[:len(uints)-1]...) {
		add(&Request{ID: 1, Credit: 1, Timeout: time.Duration(v) * time.Microsecond}, "request, timeout_us %d", v)
	}
	for _, v := range []uint32{127, 128, 255, 256, 65535, 65536, math.MaxUint32} {
		add(&Request{ID: 1, Credit: v}, "request, credit %d", v)
	}
	for _, n := range append(lengths, 65535, 65536) {
		add(&Request{ID: 1, Credit: 1, Action: strings.Repeat("a", n)}, "request, action_type of %d bytes", n)
	}
	for _, n := range lengths {
		add(&Request{ID: 1, Credit: 1, Context: bytes.Repeat([]byte{0xab}, n)}, "request, context_blob of %d bytes", n)
	}
	for _, n := range []int{15, 16} {
		add(&Request{ID: 1, Credit: 1, Headers: numbered(n)}, "request, %d headers", n)
	}
	add(&Request{ID: 1, Credit: 1, Headers: map[string]string{"b": "1", "B": "2", "a": "3", "aa": "4", "é": "5", "": "6"}}, "request, headers in the order of their keys' bytes")
	for _, b := range []struct {
		name string
		body Body
	}{
		{"0", Body{0}},
		{"false", Body{0xc2}},
		{"-1", Body{0xff}},
		{"a string", Body("\xa5hello")},
		{"an empty map", Body{0x80}},
		{"an empty array", Body{0x90}},
		{"a binary of 300 bytes", append(Body{0xc5, 1, 44}, make([]byte, 300)...)},
		{"a string of 5000 bytes", append(Body{0xda, 0x13, 0x88}, strings.Repeat("s", 5000)...)},
		{"a timestamp", Body{0xd6, 0xff, 0, 0, 0, 1}},
		{"arrays nested 32 deep", append(bytes.Repeat([]byte{0x91}, 32), 0xc0)},
	} {
		add(&Request{ID: 1, Credit: 1, Body: b.body}, "request, body is %s", b.name)
	}
	for _, dtype := range dtypes {
		data := make([]byte, 2*ItemSize(dtype))
		for i := range data {
			data[i] = byte(i % 2) // 0 or 1: good for a bool, too
		}
		add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{{Name: "x", DType: dtype, Shape: []uint64{2}, Data: data}}}, "request, tensor of %s", dtype)
	}
	for _, t := range []struct {
		name string
		Tensor
	}{
		{"that is a scalar", Tensor{Name: "x", DType: "float64", Shape: nil, Data: make([]byte, 8)}},
		{"without elements", Tensor{Name: "x", DType: "float64", Shape: []uint64{0}, Data: nil}},
		{"without elements, of 3 dimensions", Tensor{Name: "x", DType: "float64", Shape: []uint64{2, 0, 3}, Data: nil}},
		{"without a name", Tensor{Name: "", DType: "uint8", Shape: []uint64{3}, Data: []byte{1, 2, 3}}},
		{"of 2 × 3 × 4", Tensor{Name: "x", DType: "int16", Shape: []uint64{2, 3, 4}, Data: bytes.Repeat([]byte{1, 2}, 24)}},
		{"of 15 dimensions", Tensor{Name: "x", DType: "uint8", Shape: ones(15), Data: []byte{9}}},
		{"of 16 dimensions", Tensor{Name: "x", DType: "uint8", Shape: ones(16), Data: []byte{9}}},
		{"with 255 bytes", Tensor{Name: "x", DType: "uint8", Shape: []uint64{255}, Data: bytes.Repeat([]byte{0xab}, 255)}},
		{"with 256 bytes", Tensor{Name: "x", DType: "uint8", Shape: []uint64{256}, Data: bytes.Repeat([]byte{0xab}, 256)}},
		{"with 5000 bytes", Tensor{Name: "x", DType: "uint8", Shape: []uint64{5000}, Data: bytes.Repeat([]byte{0xab}, 5000)}},
		{"with long empty dimensions", Tensor{Name: "x", DType: "uint8", Shape: []uint64{0, 127, 128, 65536, math.MaxUint32, math.MaxUint32 + 1}, Data: nil}},
	} {
		add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{t.Tensor}}, "request, tensor %s", t.name)
	}
	for _, n := range []int{15, 16} {
		var ts []Tensor
		for i := range n {
			ts = append(ts, Tensor{Name: fmt.Sprint("t", i), DType: "uint8", Data: []byte{byte(i)}})
		}
		add(&Request{ID: 1, Credit: 1, Tensors: ts}, "request, %d tensors", n)
	}

	add(&Reply{ID: 1}, "reply, every default: an empty chunk")
	add(&Reply{ID: 1, End: true}, "reply, flags only: an empty END")
	add(&Reply{ID: 1, Headers: map[string]string{"k": "v"}}, "reply, headers only")
	add(&Reply{ID: 1, Body: body}, "reply, body only: a chunk")
	add(&Reply{ID: 1, Tensors: []Tensor{vector}}, "reply, tensors only")
	add(&Reply{ID: 300, End: true, Headers: map[string]string{"k": "v"}, Body: body, Tensors: []Tensor{vector}}, "reply, everything but an error")
	add(&Reply{ID: 1, End: true, Err: &Error{Code: Cancelled, Reason: "cancelled", Message: "the request was cancelled by its caller"}}, "reply, error without details")
	add(&Reply{ID: 1, End: true, Err: &Error{Code: ResourceExhausted, Reason: "queue_full", Message: "256 requests wait for pool \"p\"", RetryAfter: 250 * time.Millisecond}},
		"reply, error with retry_after_ms")
	add(&Reply{ID: 1, End: true, Err: &Error{Code: Internal, Reason: "handler", Message: "division by zero",
		Details: map[string]string{"type": "ZeroDivisionError", "traceback": "line 1\nline 2\n"}}}, "reply, error with details")
	add(&Reply{ID: 1, End: true, Err: &Error{Code: Internal, Reason: "handler", Details: numbered(16), RetryAfter: math.MaxUint32 * time.Millisecond}}, "reply, error with 16 details")
	add(&Reply{ID: 1, End: true, Err: &Error{}}, "reply, error of empty strings")
	add(&Reply{ID: 0, End: true, Err: &Error{Code: InvalidArgument, Reason: "duplicate_id", Message: "request id 7 is already open"}}, "reply, error that concerns no request")
	for _, v := range uints {
		add(&Reply{ID: v, End: true}, "reply, id %d", v)
	}
	add(&Reply{ID: 1, Context: []byte{0, 0xff}}, "reply, context_blob only")
	add(&Reply{ID: 1, End: true, Headers: map[string]string{"k": "v"}, Body: body, Tensors: []Tensor{vector}, Context: bytes.Repeat([]byte{0xab}, 256)}, "reply, everything, with a context_blob")
	add(&Reply{ID: 1, End: true, Err: &Error{Code: Internal, Reason: "handler"}, Context: []byte("session")}, "reply, error with a context_blob")

	add(Cancel{ID: 1}, "cancel, without a reason")
	add(Cancel{ID: 1, Reason: "deadline"}, "cancel, with a reason")
	add(Cancel{ID: math.MaxUint64, Reason: strings.Repeat("r", 32)}, "cancel, long")
	add(Credit{ID: 1}, "credit, n 0")
	for _, v := range []uint32{1, 127, 128, 255, 256, 65535, 65536, math.MaxUint32} {
		add(Credit{ID: uint64(v), N: v}, "credit, n %d", v)
	}

	add(&Hello{}, "hello, every default")
	add(&Hello{MinVersion: 1, MaxVersion: 1}, "hello, versions only")
	add(&Hello{MinVersion: 1, MaxVersion: 300, SDK: "ringmaster-go/0.1.0"}, "hello, a client's")
	add(&Hello{MinVersion: 1, MaxVersion: 1, MaxMessage: 64 << 20, MaxInFlight: 1024}, "hello, a server's")
	add(&Hello{MinVersion: 1, MaxVersion: 1, MaxInFlight: 1}, "hello, one limit")
	add(&Hello{MinVersion: 1, MaxVersion: 1, SDK: "ringmaster-go/0.1.0", Ring: 1 << 20}, "hello, a client's that would like rings")
	add(&Hello{MinVersion: 1, MaxVersion: 1, MaxMessage: 64 << 20, MaxInFlight: 1024, Ring: 256 << 10}, "hello, a server's with rings")
	add(&Hello{MinVersion: 1, MaxVersion: 1, SDK: "s", Actions: []Action{{Name: "plain"}, {Name: "stream", Stream: true}, {Name: "idempotent", Idempotent: true},
		{Name: "batchable", Batchable: true}, {Name: "all", Stream: true, Idempotent: true, Batchable: true}}}, "hello, a worker's")
	for _, n := range []int{15, 16} {
		var list []Action
		for i := range n {
			list = append(list, Action{Name: fmt.Sprint("a", i)})
		}
		add(&Hello{MinVersion: 1, MaxVersion: 1, SDK: "s", Actions: list}, "hello, %d actions", n)
	}
	add(KindDrain, "drain")
	add(KindStop, "stop")
	add(Ping{ID: 1}, "ping")
	add(Ping{ID: 1, Answer: true}, "ping, the answer")
	add(Ping{ID: math.MaxUint64}, "ping, the largest id")
	add(&Request{ID: 1, Credit: 1, Held: true}, "request, flags only: held")
	add(&Request{ID: 7, Pool: "p", Action: "embed", Credit: 1, Timeout: time.Second, Body: body, Tensors: []Tensor{vector}, Held: true}, "request, held")
	add(&Batch{}, "batch, of none")
	add(&Batch{IDs: []uint64{1}}, "batch, of one")
	add(&Batch{IDs: uints}, "batch, ids of every length")
	for _, n := range []int{15, 16, MaxBatch} {
		ids := make([]uint64, n)
		for i := range ids {
			ids[i] = uint64(i + 1)
		}
		add(&Batch{IDs: ids}, "batch, of %d", n)
	}
	return cases
}

// goldenArenas covers what is said of arenas.
func goldenArenas() []goldenCase {
	var cases []goldenCase
	add := func(m any, format string, args ...any) {
		cases = append(cases, goldenCase{fmt.Sprintf(format, args...), m})
	}
	at := func(name, dtype string, shape []uint64, region, offset, length uint64) Tensor {
		return Tensor{Name: name, DType: dtype, Shape: shape, At: Range{region, offset, length}}
	}
	inline := Tensor{Name: "mask", DType: "uint8", Shape: []uint64{3}, Data: []byte{1, 0, 1}}
	image := at("image", "uint8", []uint64{1080, 1920, 3}, 1, 0, 1080*1920*3)

	add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{image}}, "request, tensor in an arena")
	add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{inline, image}}, "request, tensors in an arena and not")
	add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{at("x", "float64", nil, 2, 64, 8)}}, "request, scalar in an arena")
	add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{at("x", "float32", []uint64{0}, 2, 128, 0)}}, "request, tensor without elements in an arena")
	for _, v := range []uint64{1, 127, 128, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64} {
		add(&Request{ID: 1, Credit: 1, Tensors: []Tensor{at("x", "uint8", []uint64{v}, v, v, v)}}, "request, tensor in region %d", v)
		add(&Request{ID: 1, Credit: 1, Outputs: []Output{{Name: "y", At: Range{v, v, v}}}}, "request, output in region %d", v)
	}
	add(&Request{ID: 1, Credit: 1, Outputs: []Output{{Name: "y", At: Range{1, 0, 4096}}}}, "request, outputs only")
	add(&Request{ID: 7, Pool: "vision", Action: "detect", Credit: 1, Timeout: time.Second, Tensors: []Tensor{image},
		Outputs: []Output{{Name: "boxes", At: Range{1, 6220800, 65536}}, {Name: "mask", At: Range{2, 0, 1 << 20}}}}, "request, tensor and outputs")
	add(&Request{ID: 7, Pool: "vision", Action: "detect", Credit: 1, Tensors: []Tensor{image}, Held: true, Outputs: []Output{{Name: "boxes", At: Range{1, 6220800, 65536}}}}, "request, held, with an output")
	for _, n := range []int{15, 16} {
		var list []Output
		for i := range n {
			list = append(list, Output{Name: fmt.Sprint("y", i), At: Range{3, uint64(64 * i), 64}})
		}
		add(&Request{ID: 1, Credit: 1, Outputs: list}, "request, %d outputs", n)
	}

	add(&Reply{ID: 1, End: true, Tensors: []Tensor{at("boxes", "float32", []uint64{17, 4}, 1, 6220800, 272), inline}}, "reply, tensors in a slot and not")
	add(&Reply{ID: 1, Tensors: []Tensor{at("boxes", "float32", []uint64{17, 4}, 1, 6220800, 272)}}, "reply, a chunk with a tensor in a slot")
	add(&Reply{ID: 1, End: true, Leased: true}, "reply, leased")
	add(&Reply{ID: 1, End: true, Leased: true, Err: &Error{Code: DeadlineExceeded, Reason: "deadline", Message: "the request's deadline has passed"}}, "reply, an error, leased")

	add(&Attach{ID: 1}, "attach, of nothing")
	add(&Attach{ID: 1, Bytes: 64 << 20}, "attach, a client's")
	add(&Attach{ID: 1, Bytes: 64 << 20, Region: 7}, "attach, a server's answer")
	add(&Attach{Bytes: 64 << 20, Region: 7}, "attach, to a worker")
	add(&Attach{ID: math.MaxUint64, Bytes: math.MaxUint64, Region: math.MaxUint64}, "attach, the largest numbers")
	add(Detach{Region: 7}, "detach")
	add(Detach{Region: math.MaxUint64}, "detach, the largest region")
	add(Release{ID: 7}, "release")
	add(Release{ID: math.MaxUint64}, "release, the largest id")
	add(&Hello{MinVersion: 1, MaxVersion: 1, SDK: "s", Actions: []Action{{Name: "a"}}, Arena: 1}, "hello, a worker's that can do arenas")
	add(&Hello{MinVersion: 1, MaxVersion: 1, SDK: "s", Actions: []Action{{Name: "a"}}, Arena: 1, Ahead: 1}, "hello, a worker's that may be sent a request ahead")
	add(&Hello{MinVersion: 1, MaxVersion: 1, MaxMessage: 64 << 20, MaxInFlight: 1024, Ring: 256 << 10, Arena: 256 << 20}, "hello, a server's with rings and arenas")
	return cases
}

var dtypes = []string{"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32", "float64", "complex64", "complex128"}

func numbered(n int) map[string]string {
	h := map[string]string{}
	for i := range n {
		h[fmt.Sprintf("key%02d", i)] = fmt.Sprint("value ", i)
	}
	return h
}

func ones(n int) []uint64 {
	shape := make([]uint64, n)
	for i := range shape {
		shape[i] = 1
	}
	return shape
}

func TestGoldenFileIsCurrent(t *testing.T) {
	for name, cases := range goldenFiles {
		goldenFileIsCurrent(t, goldenFile(name), cases())
	}
}

func goldenFileIsCurrent(t *testing.T, file string, cases []goldenCase) {
	t.Helper()
	var want bytes.Buffer
	want.WriteString("[\n")
	for i, c := range cases {
		message, err := json.Marshal(toGolden(c.message))
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(golden{c.name, hex.EncodeToString(encodeMessage(c.message)), message})
		if err != nil {
			t.Fatal(err)
		}
		want.Write(line)
		if i < len(cases)-1 {
			want.WriteByte(',')
		}
		want.WriteByte('\n')
	}
	want.WriteString("]\n")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("%s is not what the codec writes; if the protocol was meant to change, run `go test ./ipc -run Golden -update` and look at the difference", file)
	}
}

func TestGoldenBytesDecode(t *testing.T) {
	cases := map[string]any{}
	for _, list := range goldenFiles {
		for _, c := range list() {
			cases[c.name] = c.message
		}
	}
	for _, g := range readGolden(t) {
		b, err := hex.DecodeString(g.Hex)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Errorf("%s: %v", g.Name, err)
			continue
		}
		if want := cases[g.Name]; !reflect.DeepEqual(normal(got), normal(want)) {
			t.Errorf("%s: decoded %+v, want %+v", g.Name, got, want)
		}
	}
}

func readGolden(t testing.TB) []golden {
	t.Helper()
	var all []golden
	for name := range goldenFiles {
		file, err := os.ReadFile(goldenFile(name))
		if err != nil {
			t.Fatal(err)
		}
		var list []golden
		if err := json.Unmarshal(file, &list); err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	return all
}

// normal returns the message with every way to say "empty" replaced by one, so that messages of equal meaning are deeply equal.
func normal(m any) any {
	switch m := m.(type) {
	case *Request:
		n := *m
		n.Credit = max(1, n.Credit)
		n.Context, n.Headers, n.Body, n.Tensors = normalBytes(n.Context), normalMap(n.Headers), normalBody(n.Body), normalTensors(n.Tensors)
		return n
	case *Reply:
		n := *m
		n.Context, n.Headers, n.Body, n.Tensors = normalBytes(n.Context), normalMap(n.Headers), normalBody(n.Body), normalTensors(n.Tensors)
		if n.Err != nil {
			e := *n.Err
			e.Details = normalMap(e.Details)
			n.Err = &e
		}
		return n
	case *Batch:
		n := *m
		if len(n.IDs) == 0 {
			n.IDs = nil
		}
		return n
	case *Hello:
		n := *m
		if len(n.Actions) == 0 {
			n.Actions = nil
		}
		return n
	}
	return m
}

func normalBytes(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func normalBody(b Body) Body {
	if !b.set() {
		return nil
	}
	return b
}

func normalMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

func normalTensors(ts []Tensor) []Tensor {
	var list []Tensor
	for _, t := range ts {
		if len(t.Shape) == 0 {
			t.Shape = nil
		}
		t.Data = normalBytes(t.Data)
		list = append(list, t)
	}
	return list
}
