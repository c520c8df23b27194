package jsonbody

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestRoundTrip(t *testing.T) {
	for _, s := range []string{
		`null`, `true`, `false`, `0`, `-1`, `127`, `128`, `-33`, `65536`, `9223372036854775807`, `-9223372036854775808`, `18446744073709551615`,
		`0.5`, `-0.25`, `1e+30`, `1e-07`, `""`, `"é <b>& ☃"`, `"\u0000\n\""`, `[]`, `{}`, `[1,[2,[3,{}]]]`, `{"z":1,"a":[null,true],"m":{"y":2,"b":3}}`,
	} {
		b, err := Decode([]byte(s))
		if err != nil {
			t.Errorf("Decode(%s): %v", s, err)
			continue
		}
		back, err := Encode(b)
		if err != nil || string(back) != s {
			t.Errorf("%s came back as %s, %v", s, back, err)
		}
	}
}

func TestEncodeWhatJSONLacks(t *testing.T) {
	for _, tt := range []struct {
		in   any
		want string
	}{
		{[]byte{1, 2, 3}, `"AQID"`},
		{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), `"2026-01-02T03:04:05Z"`},
		{math.NaN(), `"NaN"`},
		{math.Inf(-1), `"-Infinity"`},
		{map[int]string{7: "x"}, `{"7":"x"}`},
		{float32(0.1), `0.1`},
		{ipc.Body{0xd4, 5, 9}, `{"ext":5,"data":"CQ=="}`},
		{ipc.Body{0xd4, 0xff, 9}, `{"ext":-1,"data":"CQ=="}`}, // not a timestamp after all
		{ipc.Body{0xa1, 0xff}, `"\ufffd"`},
		{nil, `null`},
	} {
		b, err := ipc.Marshal(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Encode(b)
		if err != nil || !bytes.Equal(got, []byte(tt.want)) {
			t.Errorf("%v: got %s, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, s := range []string{"", " ", "hello", "{", `{"a"`, `{"a":}`, "[1,", "[1 2]", "1 2", `{"a":1}}`, "1e999", strings.Repeat("[", 61) + strings.Repeat("]", 61), "]", "}"} {
		if b, err := Decode([]byte(s)); err == nil {
			t.Errorf("Decode(%q) = % x", s, b)
		}
	}
}

// Whatever JSON decodes survives the way there and back, and is a body that every receiver accepts.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,"x",null,true]}`, `[[[]]]`, `18446744073709551615`, `-0`, `1e3`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Decode(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted what is not JSON: %q", data)
		}
		if err := ipc.Scan(b); err != nil {
			t.Fatal(err)
		}
		out, err := Encode(b)
		if err != nil || !json.Valid(out) {
			t.Fatalf("%q → %s, %v", data, out, err)
		}
	})
}

// Any MessagePack encodes to JSON.
func FuzzEncode(f *testing.F) {
	f.Add([]byte{0x82, 0xa1, 'a', 1, 0xc0, 0xd6, 0xff, 0, 0, 0, 1})
	f.Add([]byte{0xdf, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if ipc.Scan(data) != nil {
			return
		}
		out, err := Encode(data)
		if err != nil {
			t.Fatalf("% x: %v", data, err)
		}
		if !json.Valid(out) {
			t.Fatalf("% x: %s", data, out)
		}
	})
}
