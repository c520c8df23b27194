package cache

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestCanonicalForm(t *testing.T) {
	for _, tt := range []struct{ what, in, want string }{ // hexadecimal; want "": there is none
		{"nil", "c0", "c0"},
		{"uint8 1", "cc01", "01"},
		{"int64 1", "d30000000000000001", "01"},
		{"uint64 2^63", "cf8000000000000000", "cf8000000000000000"},
		{"int8 -1", "d0ff", "ff"},
		{"int64 -33", "d3ffffffffffffffdf", "d0df"},
		{"int16 200", "d100c8", "ccc8"},
		{"int64 -2^63", "d38000000000000000", "d38000000000000000"},
		{"uint32 65536", "ce00010000", "ce00010000"},
		{"float32 1.5", "ca3fc00000", "cb3ff8000000000000"},
		{"float64 1.5", "cb3ff8000000000000", "cb3ff8000000000000"},
		{"float64 1.0 is no integer", "cb3ff0000000000000", "cb3ff0000000000000"},
		{"float32 -0", "ca80000000", "cb8000000000000000"},
		{"float32 NaN", "ca7fc00001", "ca7fc00001"},
		{"float64 NaN", "cb7ff8000000000001", "cb7ff8000000000001"},
		{"float32 infinity", "caff800000", "cbfff0000000000000"},
		{"str8", "d90161", "a161"},
		{"str32", "db0000000161", "a161"},
		{"bin16", "c5000161", "c40161"},
		{"array16", "dc000201cc02", "920102"},
		{"map32", "df00000001a161d90162", "81a161a162"},
		{"map order", "82a162c3a161c2", "82a161c2a162c3"},
		{"maps in maps", "82a16282a17902a178cc01a161c2", "82a161c2a16282a17801a17902"},
		{"keys of several kinds", "83c3a1740101a16101", "83" + "0101" + "a16101" + "c3a174"},
		{"fixext1", "d4050a", "c701050a"},
		{"ext16", "c80001050a", "c701050a"},
		{"a key twice", "82a16101a16102", ""},
		{"a key twice, in two forms", "820101cc0102", ""},
		{"two values", "0101", ""},
		{"cut off", "a261", ""},
		{"a length that cannot be", "ddffffffff", ""},
		{"a map that cannot be", "dfffffffff", ""},
		{"reserved", "c1", ""},
		{"nothing", "", ""},
		{"deep", strings.Repeat("91", 64) + "c0", strings.Repeat("91", 64) + "c0"},
		{"too deep", strings.Repeat("91", 65) + "c0", ""},
	} {
		in, err := hex.DecodeString(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		var c canonical
		ok := c.encode(in)
		if got := hex.EncodeToString(c.out); ok != (tt.want != "") || ok && got != tt.want {
			t.Errorf("%s: %s, %v; want %q", tt.what, got, ok, tt.want)
		}
	}
}

// randomValue makes a value that write can write in many ways.
func randomValue(r *rand.Rand, depth int) any {
	switch n := r.IntN(11); {
	case n == 0:
		return nil
	case n == 1:
		return r.IntN(2) == 0
	case n == 2:
		return int64(r.Uint64()) >> r.IntN(64)
	case n == 3:
		return uint64(1)<<63 + r.Uint64N(9)
	case n == 4:
		return r.NormFloat64()
	case n == 5:
		return float64(float32(r.NormFloat64()))
	case n == 6:
		return []byte(strings.Repeat("b", r.IntN(40)))
	case n <= 8 || depth == 0:
		return strings.Repeat("s", r.IntN(40)) + fmt.Sprint(r.IntN(100))
	case n == 9:
		list := make([]any, r.IntN(20))
		for i := range list {
			list[i] = randomValue(r, depth-1)
		}
		return list
	default:
		m := map[string]any{}
		for range r.IntN(20) {
			m[fmt.Sprint(r.IntN(1000))] = randomValue(r, depth-1)
		}
		return m
	}
}

// write appends one of the encodings of a value.
func write(b []byte, v any, r *rand.Rand) []byte {
	head := func(n int, fix byte, small int, c8, c16, c32 byte) {
		forms := []int{4}
		if n < 1<<16 {
			forms = append(forms, 2)
		}
		if n < 1<<8 && c8 != 0 {
			forms = append(forms, 1)
		}
		if n <= small {
			forms = append(forms, 0)
		}
		switch forms[r.IntN(len(forms))] {
		case 0:
			b = append(b, fix|byte(n))
		case 1:
			b = append(b, c8, byte(n))
		case 2:
			b = binary.BigEndian.AppendUint16(append(b, c16), uint16(n))
		case 4:
			b = binary.BigEndian.AppendUint32(append(b, c32), uint32(n))
		}
	}
	switch v := v.(type) {
	case nil:
		return append(b, 0xc0)
	case bool:
		if v {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case uint64:
		return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
	case int64:
		return integer(b, v, r)
	case float64:
		if float64(float32(v)) == v && r.IntN(2) == 0 {
			return binary.BigEndian.AppendUint32(append(b, 0xca), math.Float32bits(float32(v)))
		}
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(v))
	case []byte:
		head(len(v), 0, -1, 0xc4, 0xc5, 0xc6)
		return append(b, v...)
	case string:
		head(len(v), 0xa0, 31, 0xd9, 0xda, 0xdb)
		return append(b, v...)
	case []any:
		head(len(v), 0x90, 15, 0, 0xdc, 0xdd)
		for _, e := range v {
			b = write(b, e, r)
		}
		return b
	case map[string]any:
		head(len(v), 0x80, 15, 0, 0xde, 0xdf)
		for k, e := range v { // in an order that is another each time
			b = write(b, k, r)
			b = write(b, e, r)
		}
		return b
	}
	panic("not a value")
}

func integer(b []byte, v int64, r *rand.Rand) []byte {
	forms := []byte{0xd3}
	for i, bits := range []int{8, 16, 32} {
		if v>>(bits-1) == 0 || v>>(bits-1) == -1 {
			forms = append(forms, 0xd0+byte(i))
		}
		if v >= 0 && v>>bits == 0 {
			forms = append(forms, 0xcc+byte(i))
		}
	}
	if v >= 0 {
		forms = append(forms, 0xcf)
	}
	if v >= -32 && v <= 127 {
		forms = append(forms, 0)
	}
	form := forms[r.IntN(len(forms))]
	if form == 0 {
		return append(b, byte(v))
	}
	width := 1 << (form & 3)
	b = append(b, form)
	return append(b, binary.BigEndian.AppendUint64(nil, uint64(v))[8-width:]...)
}

// Any two encodings of a value are equal, and those of two values are not.
func TestEncodingsOfOneValueAreEqual(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var a, b, c canonical
	for range 3000 {
		v, other := randomValue(r, 3), randomValue(r, 3)
		x, y := write(nil, v, r), write(nil, v, r)
		if !a.encode(x) || !b.encode(y) || !c.encode(write(nil, other, r)) {
			t.Fatalf("%#v has no canonical form", v)
		}
		if !bytes.Equal(a.out, b.out) {
			t.Fatalf("%#v:\n%x has %x\n%x has %x", v, x, a.out, y, b.out)
		}
		if bytes.Equal(a.out, c.out) != reflect.DeepEqual(v, other) {
			t.Fatalf("%#v and %#v: both %x", v, other, a.out)
		}
		if !c.encode(a.out) || !bytes.Equal(c.out, a.out) {
			t.Fatalf("the form of %x is %x", a.out, c.out)
		}
	}
}

// The form is well-formed where the value is, is its own form, and decodes as the value does.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"\xc0", "\x82\xa1b\xc3\xa1a\xc2", "\xca\x3f\xc0\x00\x00", "\xdf\x00\x00\x00\x01\xa1a\xd9\x01b", "\xc7\x01\x05\x0a", "\x91\x92\xcc\x01\xd3\xff\xff\xff\xff\xff\xff\xff\xdf"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var c, again canonical
		ok := c.encode(in)
		if !ok {
			return
		}
		if len(in) > 0 && ipc.Scan(in) != nil && ipc.Body(in).Validate() != nil {
			if err := ipc.Scan(in); err != nil && !strings.Contains(err.Error(), "deeper") {
				t.Fatalf("%x is malformed and has a form: %v", in, err)
			}
			return
		}
		if !again.encode(c.out) || !bytes.Equal(again.out, c.out) {
			t.Fatalf("%x → %x → %x", in, c.out, again.out)
		}
		var x, y any
		if ipc.Body(in).Decode(&x) != nil {
			return
		}
		if err := ipc.Body(c.out).Decode(&y); err != nil {
			t.Fatalf("%x → %x: %v", in, c.out, err)
		}
		if got, want := plainly(y), plainly(x); got != want {
			t.Fatalf("%x → %x: %s became %s", in, c.out, want, got)
		}
	})
}

// plainly writes a value without regard to the width of its numbers.
func plainly(v any) string {
	switch v := v.(type) {
	case []any:
		s := "["
		for _, e := range v {
			s += plainly(e) + ","
		}
		return s + "]"
	case map[string]any:
		var s strings.Builder
		fmt.Fprintf(&s, "%d:", len(v))
		keys := map[string]string{}
		for k, e := range v {
			keys[k] = plainly(e)
		}
		fmt.Fprint(&s, keys) // in the order of the keys
		return s.String()
	case float32:
		if v != v { // not a number, which has no other width
			return fmt.Sprintf("n%x", math.Float32bits(v))
		}
		return fmt.Sprintf("f%x", math.Float64bits(float64(v)))
	case float64:
		return fmt.Sprintf("f%x", math.Float64bits(v))
	case string:
		return fmt.Sprintf("%q", v)
	case []byte:
		return fmt.Sprintf("b%x", v)
	}
	return fmt.Sprint(v)
}
