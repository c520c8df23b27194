package worker

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestBuiltinNames(t *testing.T) {
	want := []string{"chaos", "checksum", "count", "crash", "echo", "env", "hang", "leak", "sleep", "sum"}
	if got := BuiltinNames(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, name := range want {
		a, ok := Builtin(name)
		if !ok || name != chaos && len(a) != len(want)-1 {
			t.Errorf("%s: %d actions, %v; every name but chaos stands for all of them", name, len(a), ok)
		}
	}
	if a, _ := Builtin(chaos); len(a) != len(builtins)+6 || a["once"].Idempotent || !a["transform"].Idempotent || a["lie"].Idempotent {
		t.Errorf("chaos: %v", a.names())
	}
	if _, ok := Builtin("nothing"); ok {
		t.Error("there is a builtin that does not exist")
	}
}

func TestBuiltinsRefuseBadInput(t *testing.T) {
	checkLeaks(t)
	c := serveHere(t, builtins)
	for _, w := range []struct {
		action string
		body   any
		says   []string
	}{
		{"sleep", 5, []string{"sleep: the body is 5 (int8)", `{"seconds": 0.5}`}},
		{"sleep", []int{1}, []string{"sleep: the body is"}},
		{"sleep", map[string]any{"seconds": "x"}, []string{`body.seconds is "x"`, "a number from 0 to 86400"}},
		{"sleep", map[string]any{"seconds": -1}, []string{"body.seconds is -1"}},
		{"sleep", map[string]any{"seconds": 1e6}, []string{"body.seconds is 1e+06"}},
		{"sleep", map[string]any{"seconds": math.NaN()}, []string{"body.seconds is NaN"}},
		{"sleep", map[string]any{"seconds": nil}, []string{"body.seconds is <nil>"}},
		{"count", map[string]any{"n": 1.5}, []string{"body.n is 1.5", "a whole number from 0"}},
		{"count", map[string]any{"n": -1}, []string{"body.n is -1"}},
		{"count", map[string]any{"n": math.Inf(1)}, []string{"body.n is +Inf"}},
		{"count", map[string]any{"n": uint64(math.MaxUint64)}, []string{"body.n is 18446744073709551615"}},
		{"count", map[string]any{"n": 1, "delay_ms": true}, []string{"body.delay_ms is true (bool)"}},
		{"count", map[string]any{"n": 1, "text": 5}, []string{"body.text is 5", "a string"}},
		{"crash", map[string]any{"how": "gently"}, []string{`body.how is "gently"`, "kill, segv, abort, panic, exit"}},
		{"crash", map[string]any{"how": 1}, []string{"body.how is 1"}},
		{"crash", map[string]any{"how": "exit", "code": 256}, []string{"body.code is 256", "0 to 255"}},
		{"hang", map[string]any{"how": strings.Repeat("x", 1000)}, []string{"xxx…", "block, spin, stop"}},
		{"leak", map[string]any{"mib": "much"}, []string{`body.mib is "much"`}},
		{"env", map[string]any{"names": "HOME"}, []string{"body.names is", "an array of strings"}},
		{"env", map[string]any{"names": []any{"HOME", 1}}, []string{"body.names is"}},
		{"sum", nil, []string{`no tensor "x" among the 0 sent`}},
	} {
		_, err := callHere(t, c, w.action, w.body)
		e := wantError(t, err, ipc.InvalidArgument, "invalid_argument")
		for _, want := range w.says {
			if !strings.Contains(e.Message, want) {
				t.Errorf("%s(%v) says %q, want %q in it", w.action, w.body, e.Message, want)
			}
		}
	}
}

func TestBuiltinsWithGoodInput(t *testing.T) {
	checkLeaks(t)
	c := serveHere(t, builtins)
	for _, w := range []struct {
		action string
		body   any
		want   any
	}{
		{"sleep", nil, map[string]float64{"seconds": 0}},
		{"sleep", map[string]any{"seconds": 0.001}, map[string]float64{"seconds": 0.001}},
		{"sleep", map[string]any{"seconds": float32(0)}, map[string]float64{"seconds": 0}},
		{"leak", map[string]any{"mib": 1}, map[string]int{"mib": 1}},
		{"leak", map[string]any{"mib": uint64(2)}, map[string]int{"mib": 3}},
		{"leak", nil, map[string]int{"mib": 3}},
		{"echo", "hello", "hello"},
		{"count", nil, nil},
	} {
		r, err := callHere(t, c, w.action, w.body)
		if err != nil {
			t.Errorf("%s(%v): %v", w.action, w.body, err)
			continue
		}
		want, err := ipc.Marshal(w.want)
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Body) != string(want) {
			t.Errorf("%s(%v) = %x, want %x", w.action, w.body, []byte(r.Body), []byte(want))
		}
	}
	leaked.blocks, leaked.mib = nil, 0
	t.Setenv("RINGMASTER_TEST_VARIABLE", "value")
	r, err := callHere(t, c, "env", map[string]any{"names": []string{"RINGMASTER_TEST_VARIABLE", "RINGMASTER_TEST_NONE"}})
	var got struct {
		Env map[string]string `msgpack:"env"`
	}
	if err != nil || r.Body.Decode(&got) != nil || len(got.Env) != 1 || got.Env["RINGMASTER_TEST_VARIABLE"] != "value" {
		t.Errorf("env: %+v, %v", got, err)
	}
}

func TestCountListensBetweenChunks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	body, err := ipc.Marshal(map[string]any{"n": 100, "delay_ms": 3600000})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	err = count(ctx, &Request{Action: "count", Body: body}, func(*Reply) error { t.Error("a chunk after the cancel"); return nil })
	if err == nil {
		t.Error("count did not notice")
	}
	if err := pause(t.Context(), time.Nanosecond); err != nil {
		t.Error(err)
	}
}

// pack appends numbers in little-endian.
func pack(t *testing.T, values any) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSum(t *testing.T) {
	for _, c := range []struct {
		dtype string
		data  []byte
		want  float64
	}{
		{"bool", []byte{1, 0, 1, 255}, 3},
		{"int8", pack(t, []int8{-128, 127, -1}), -2},
		{"uint8", []byte{255, 1}, 256},
		{"int16", pack(t, []int16{-32768, 1}), -32767},
		{"uint16", pack(t, []uint16{65535, 1}), 65536},
		{"int32", pack(t, []int32{math.MinInt32, 1}), math.MinInt32 + 1},
		{"uint32", pack(t, []uint32{math.MaxUint32, 1}), math.MaxUint32 + 1},
		{"int64", pack(t, []int64{-(1 << 52), 1}), -(1 << 52) + 1},
		{"uint64", pack(t, []uint64{1 << 52, 1}), 1<<52 + 1},
		{"float32", pack(t, []float32{1.5, -0.25}), 1.25},
		{"float64", pack(t, []float64{1e300, 1}), 1e300},
		{"float16", pack(t, []uint16{0x3c00, 0xc000, 0x0001, 0x7bff}), 1 - 2 + 0x1p-24 + 65504}, // 1, -2, the least and the largest
		{"bfloat16", pack(t, []uint16{0x3f80, 0xc000, 0x0001}), 1 - 2 + 0x1p-133},
		{"float32", nil, 0},
	} {
		r, err := sum(t.Context(), &Request{Tensors: []ipc.Tensor{{Name: "y", DType: "bool"}, {Name: "x", DType: c.dtype, Data: c.data}}})
		if err != nil || r.Body.(map[string]float64)["sum"] != c.want {
			t.Errorf("%s: %v, %v, want %v", c.dtype, r, err, c.want)
		}
	}
	for _, dtype := range []string{"complex64", "complex128"} {
		_, err := sum(t.Context(), &Request{Tensors: []ipc.Tensor{{Name: "x", DType: dtype}}})
		wantError(t, err, ipc.InvalidArgument, "invalid_argument")
	}
}

// Every half is what IEEE 754 says: widening it to float32 bit by bit must agree.
func TestFloat16(t *testing.T) {
	for bits := range uint32(1 << 16) {
		sign, exponent, fraction := bits>>15<<31, bits>>10&0x1f, bits&0x3ff
		var want float64
		switch exponent {
		case 0: // 2^-24 is exact in float32, and so is every multiple up to 1023
			want = math.Copysign(float64(float32(fraction)*0x1p-24), 1-2*float64(bits>>15))
		case 0x1f:
			want = float64(math.Float32frombits(sign | 0x7f800000 | fraction<<13))
		default:
			want = float64(math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13))
		}
		if got := float16(uint16(bits)); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Fatalf("%#04x is %v, want %v", bits, got, want)
		}
	}
}
