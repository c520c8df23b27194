package ipc

import (
	"reflect"
	"strings"
	"testing"
)

// goldenSignatures are hellos of workers that declare inputs and outputs.
func goldenSignatures() []goldenCase {
	in := []Port{{"image", "uint8", []int64{-1, -1, 3}}, {"text", TextType, []int64{}}}
	out := []Port{{"embedding", "float32", []int64{0, 127, 128, 256, 65536, 1 << 32, 1<<63 - 1}}}
	hello := func(signatures ...*Signature) *Hello {
		h := &Hello{MinVersion: 1, MaxVersion: 1, SDK: "s"}
		for i, s := range signatures {
			h.Actions = append(h.Actions, Action{Name: string(rune('a' + i)), Idempotent: i%2 == 1, Signature: s})
		}
		return h
	}
	return []goldenCase{
		{"hello, inputs", hello(&Signature{Inputs: in})},
		{"hello, outputs", hello(&Signature{Outputs: out})},
		{"hello, inputs and outputs of some actions", hello(nil, &Signature{Inputs: in, Outputs: out}, nil, &Signature{Outputs: in[:1]})},
	}
}

func TestSignatureValidate(t *testing.T) {
	many := make([]Port, maxPorts+1)
	for want, s := range map[string]Signature{
		"":                             {Inputs: []Port{{"x", "float32", []int64{-1, 0, 7}}, {"y", TextType, nil}}, Outputs: []Port{{"x", "bfloat16", nil}}},
		"1025 inputs and outputs":      {Outputs: many},
		"a name is 1 to 128 bytes":     {Inputs: []Port{{"", "int8", nil}}},
		"of UTF-8":                     {Inputs: []Port{{"\xff", "int8", nil}}},
		`"` + strings.Repeat("x", 128): {Inputs: []Port{{strings.Repeat("x", 1000), "int8", nil}}},
		`the dtype is "float"`:         {Outputs: []Port{{"x", "float", nil}}},
		"two inputs are named":         {Inputs: []Port{{"x", "int8", nil}, {"x", "int16", nil}}},
		"33 dimensions":                {Inputs: []Port{{"x", "int8", make([]int64, 33)}}},
		"its numbers are 0 or more":    {Outputs: []Port{{"x", "int8", []int64{-2}}}},
	} {
		err := s.Validate()
		if (want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), want) || len(err.Error()) > 400) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Who declares more than there may be, or what is none, breaks the protocol; what a later version adds is ignored.
func TestSignatureBounds(t *testing.T) {
	hello := func(action func(e *encoder)) []byte {
		e := newEncoder()
		defer e.free()
		e.array(6)
		for _, n := range []uint64{uint64(KindHello), 0, 1, 1} {
			e.uint(n)
		}
		e.str("s")
		e.array(1)
		action(e)
		parts, _ := e.message()
		var b []byte
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	declared := func(inputs, dims int, dim byte) []byte {
		return hello(func(e *encoder) {
			e.array(3)
			e.str("a")
			e.uint(0)
			e.array(inputs)
			for range inputs {
				e.array(3)
				e.str("x")
				e.str("int8")
				e.array(dims)
				for range dims {
					e.buf = append(e.buf, dim)
				}
			}
		})
	}
	for what, tt := range map[string]struct {
		bytes []byte
		good  bool
	}{
		"as many as there may be":        {declared(maxPorts, maxPortDims, codeAny), true},
		"one too many":                   {declared(maxPorts+1, 0, 0), false},
		"too many dimensions":            {declared(1, maxPortDims+1, 1), false},
		"a length that is less than any": {declared(1, 1, 0xfe), false},
		"a length that is nil":           {declared(1, 1, codeNil), false},
	} {
		if _, err := Decode(tt.bytes); (err == nil) != tt.good {
			t.Errorf("%s: %v", what, err)
		}
	}
	later := hello(func(e *encoder) {
		e.array(6)
		e.str("a")
		e.uint(1)
		e.array(1)
		e.array(5)
		e.str("x")
		e.str("of a later version")
		e.array(1)
		e.uint(3)
		e.str("more")
		e.array(0)
		e.array(0)
		e.uint(7)
		e.mapping(0)
	})
	got, err := Decode(later)
	want := &Hello{MinVersion: 1, MaxVersion: 1, SDK: "s", Actions: []Action{{Name: "a", Stream: true, Signature: &Signature{Inputs: []Port{{"x", "of a later version", []int64{3}}}}}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
