package ipc

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

func TestBodyRoundTrip(t *testing.T) {
	type inner struct {
		Text string    `msgpack:"text"`
		At   time.Time `msgpack:"at"`
	}
	type outer struct {
		N    int            `msgpack:"n"`
		List []inner        `msgpack:"list"`
		Map  map[string]int `msgpack:"map"`
	}
	in := outer{N: -1, List: []inner{{Text: "a"}, {Text: "b"}}, Map: map[string]int{"x": 1 << 40}}
	b, err := Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out outer
	// The times are zero, and a zero time is an extension like any other.
	if err := b.Decode(&out); err == nil {
		t.Error("a struct with a map took extension types")
	}
	var v any
	if err := b.Decode(&v); err != nil {
		t.Error(err)
	}
	in.List = nil
	if b, err = Marshal(in); err != nil {
		t.Fatal(err)
	}
	if err := b.Decode(&out); err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("got %+v (%v), want %+v", out, err, in)
	}
}

func TestMarshal(t *testing.T) {
	for _, c := range []struct {
		v    any
		want string
	}{
		{nil, ""},
		{Body(nil), ""},
		{Body{0x01}, "01"},
		{1, "01"},
		{int64(-1), "ff"},
		{uint64(200), "ccc8"},
		{int64(65536), "ce00010000"},
		{uint64(math.MaxUint64), "cfffffffffffffffff"},
		{"hi", "a26869"},
		{[]byte{1}, "c40101"},
		{[]string{}, "90"},
		{map[string]int{"a": 1}, "81a16101"},
		{1.5, "cb3ff8000000000000"},
	} {
		b, err := Marshal(c.v)
		if err != nil || !reflect.DeepEqual([]byte(b), unhexOrNil(t, c.want)) {
			t.Errorf("%#v: %x (%v), want %s", c.v, []byte(b), err, c.want)
		}
	}
	for _, v := range []any{make(chan int), Body{0xc1}, Body{0x01, 0x02}, func() {}, failing{}} {
		if b, err := Marshal(v); AsError(err).reason() != "bad_body" {
			t.Errorf("%T: %x, %v; want bad_body", v, []byte(b), err)
		}
	}
	// An encoder that failed half-way has left nothing behind for the next.
	if b, err := Marshal("x"); err != nil || string(b) != "\xa1x" {
		t.Errorf("%x, %v", []byte(b), err)
	}
}

// failing writes something and then fails.
type failing struct{}

func (failing) EncodeMsgpack(e *msgpack.Encoder) error {
	return errors.Join(e.EncodeString("something"), errors.New("no"))
}

func (e *Error) reason() string {
	if e == nil {
		return ""
	}
	return e.Reason
}

func unhexOrNil(t *testing.T, s string) []byte {
	t.Helper()
	if s == "" {
		return nil
	}
	return unhex(t, s)
}

func TestMarshalOfALargeValue(t *testing.T) {
	large := strings.Repeat("x", 2*maxPooled)
	b, err := Marshal(large)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Marshal(strings.Repeat("y", 2*maxPooled))
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if err := b.Decode(&got); err != nil || got != large {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := other.Decode(&got); err != nil || got == large {
		t.Errorf("two bodies share their bytes: %v", err)
	}
}

func TestBodyDecodeRefuses(t *testing.T) {
	for _, b := range []Body{{0xdd, 0xff, 0xff, 0xff, 0xff}, {0xdf, 0xff, 0xff, 0xff, 0xff}, {0xc1}, {1, 2}, {0xa5, 'x'}, []byte(strings.Repeat("\x91", 100))} {
		var v any
		if err := b.Decode(&v); AsError(err).reason() != "bad_body" {
			t.Errorf("%x: %v, want bad_body", []byte(b), err)
		}
	}
	var n int
	if err := (Body{0xa1, 'x'}).Decode(&n); AsError(err).reason() != "bad_body" {
		t.Errorf("a string into an int: %v, want bad_body", err)
	}
	if err := Body(nil).Decode(&n); err != nil || n != 0 {
		t.Errorf("nil into an int: %d, %v", n, err)
	}
}

// The library takes what is inside an extension for a map's header: Scan has not looked there, so such bodies must not get to it.
func TestExtensionsDoNotReachMaps(t *testing.T) {
	type plain struct {
		At    time.Time
		Other *plain
		List  []time.Time
		Raw   msgpack.RawMessage
	}
	type withMap struct{ M map[string]int }
	type custom struct{ C customDecoder }
	claim := Body{0xc7, 5, 0, 0xdf, 0xff, 0xff, 0xff, 0xff} // decoded as a map it would end the process
	for _, target := range []any{
		new(map[string]any), new(map[string]string), new(map[int]int), new([]map[string]any), new(withMap), new(*withMap), new([2]withMap), new(custom), new([]any),
		map[string]any{}, new(customDecoder), nil,
	} {
		err := claim.Decode(target)
		if AsError(err).reason() != "bad_body" || !strings.Contains(err.Error(), "extension") {
			t.Errorf("%T: %v, want a refusal", target, err)
		}
	}
	var inside any = &map[string]any{}
	if err := claim.Decode(&inside); AsError(err).reason() != "bad_body" {
		t.Errorf("an any that holds a map: %v", err)
	}

	at := time.Unix(1700000000, 5)
	stamp, err := Marshal(at)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	var when time.Time
	if err := stamp.Decode(&v); err != nil || !v.(time.Time).Equal(at) {
		t.Errorf("a timestamp into an any: %v, %v", v, err)
	}
	if err := stamp.Decode(&when); err != nil || !when.Equal(at) {
		t.Errorf("a timestamp into a time: %v, %v", when, err)
	}
	in := plain{At: at, Other: &plain{At: at, List: []time.Time{at}}, Raw: msgpack.RawMessage(stamp)}
	b, err := Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out plain
	if err := b.Decode(&out); err != nil || !out.Other.List[0].Equal(at) {
		t.Errorf("timestamps into a struct: %+v, %v", out, err)
	}
}

type customDecoder struct{}

func (*customDecoder) DecodeMsgpack(d *msgpack.Decoder) error {
	_, err := d.DecodeMap()
	return err
}

// Equal maps are equal bytes, whatever order Go walks them in.
func TestMarshalIsDeterministic(t *testing.T) {
	m := map[string]any{}
	for i := range 20 {
		m[string(rune('a'+i))] = map[string]string{"x": "1", "y": "2", "z": "3"}
	}
	first, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := Marshal(m); err != nil || !bytes.Equal(again, first) {
			t.Fatalf("%x and %x, %v", first, again, err)
		}
	}
}
