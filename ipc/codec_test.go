package ipc

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

// randomMessage makes any message there can be, small ones mostly.
func randomMessage(r *rand.Rand) any {
	text := func() string {
		n := []int{0, 0, 1, 5, 31, 32, 200, 300}[r.IntN(8)]
		return strings.Repeat(string(rune('a'+r.IntN(26))), n)
	}
	blob := func() []byte {
		b := make([]byte, []int{0, 0, 1, 40, 255, 256, 5000, 70000}[r.IntN(8)])
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	number := func() uint64 { return r.Uint64() >> r.IntN(64) }
	headers := func() map[string]string {
		h := map[string]string{}
		for range []int{0, 0, 1, 3, 15, 16, 40}[r.IntN(7)] {
			h[hex.EncodeToString([]byte{byte(r.Uint32()), byte(r.Uint32())})] = text()
		}
		return h
	}
	body := func() Body {
		if r.IntN(3) == 0 {
			return nil
		}
		var b bytes.Buffer
		randomValue(r, &b, 4)
		return Body(b.Bytes())
	}
	tensors := func() []Tensor {
		var ts []Tensor
		for range []int{0, 0, 1, 2, 15, 16}[r.IntN(6)] {
			t := Tensor{Name: text(), DType: dtypes[r.IntN(len(dtypes))]}
			size := ItemSize(t.DType)
			for range r.IntN(4) {
				n := uint64(r.IntN(5))
				t.Shape = append(t.Shape, n)
				size *= n
			}
			t.Data = make([]byte, size)
			ts = append(ts, t)
		}
		return ts
	}
	switch r.IntN(8) {
	case 0, 1:
		return &Request{
			ID: number(), Pool: text(), Action: text(), TraceID: text(), Context: blob(), Timeout: microseconds(number()), Credit: max(1, r.Uint32()>>r.IntN(32)),
			Headers: headers(), Body: body(), Tensors: tensors(),
		}
	case 2, 3:
		m := &Reply{ID: number(), End: r.IntN(2) == 0, Headers: headers(), Body: body(), Tensors: tensors()}
		if r.IntN(3) == 0 {
			m.Context = blob()
		}
		if r.IntN(3) == 0 {
			m.Err = &Error{Code: Code(text()), Reason: text(), Message: text(), RetryAfter: time.Duration(r.Uint32()) * time.Millisecond, Details: headers()}
		}
		return m
	case 4:
		return Cancel{ID: number(), Reason: text()}
	case 5:
		return Credit{ID: number(), N: r.Uint32() >> r.IntN(32)}
	case 6:
		m := &Hello{MinVersion: r.Uint32() >> r.IntN(32), MaxVersion: r.Uint32() >> r.IntN(32), SDK: text(), MaxMessage: number(), MaxInFlight: number()}
		for range []int{0, 1, 15, 16}[r.IntN(4)] {
			m.Actions = append(m.Actions, Action{Name: text(), Stream: r.IntN(2) == 0, Idempotent: r.IntN(2) == 0, Batchable: r.IntN(2) == 0})
		}
		return m
	}
	return Ping{ID: number(), Answer: r.IntN(2) == 0}
}

// randomValue writes one well-formed MessagePack value, in every encoding there is, shortest or not.
func randomValue(r *rand.Rand, b *bytes.Buffer, depth int) {
	kinds := 22
	if depth == 0 {
		kinds = 16
	}
	noise := func(n int) {
		for range n {
			b.WriteByte(byte(r.Uint32()))
		}
	}
	sized := func(code byte, width, n, extra int) {
		b.WriteByte(code)
		for i := width - 1; i >= 0; i-- {
			b.WriteByte(byte(n >> (8 * i)))
		}
		noise(n + extra)
	}
	elements := func(n int) {
		for range n {
			randomValue(r, b, depth-1)
		}
	}
	n := r.IntN(5)
	switch r.IntN(kinds) {
	case 0:
		b.WriteByte(0xc0)
	case 1:
		b.WriteByte(0xc2 + byte(r.IntN(2)))
	case 2:
		b.WriteByte(byte(r.IntN(128)))
	case 3:
		b.WriteByte(0xe0 + byte(r.IntN(32)))
	case 4, 5:
		i := r.IntN(8)
		sized(0xcc+byte(i), 0, 1<<(i%4), 0)
	case 6:
		i := r.IntN(2)
		sized(0xca+byte(i), 0, 4<<i, 0)
	case 7, 8:
		sized(0xa0+byte(n), 0, n, 0)
	case 9:
		i := r.IntN(3)
		sized(0xd9+byte(i), 1<<i, n, 0)
	case 10:
		i := r.IntN(3)
		sized(0xc4+byte(i), 1<<i, n, 0)
	case 11:
		i := r.IntN(3)
		sized(0xc7+byte(i), 1<<i, n, 1)
	case 12:
		i := r.IntN(5)
		sized(0xd4+byte(i), 0, 1<<i, 1)
	case 13:
		b.Write([]byte{0xd6, 0xff, 0, 0, 0, 1}) // a timestamp
	case 14:
		b.WriteByte(0x90)
	case 15:
		b.WriteByte(0x80)
	case 16, 17:
		b.WriteByte(0x90 + byte(n))
		elements(n)
	case 18:
		i := r.IntN(2)
		sized(0xdc+byte(i), 2<<i, 0, 0)
		b.Bytes()[b.Len()-1] = byte(n)
		elements(n)
	case 19, 20:
		b.WriteByte(0x80 + byte(n))
		elements(2 * n)
	case 21:
		i := r.IntN(2)
		sized(0xde+byte(i), 2<<i, 0, 0)
		b.Bytes()[b.Len()-1] = byte(n)
		elements(2 * n)
	}
}

func TestMessagesSurviveTheRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		want := randomMessage(r)
		b := encodeMessage(want)
		got, err := Decode(b)
		if err != nil {
			t.Fatalf("%#v\nencoded as %x\n%v", want, b, err)
		}
		if !reflect.DeepEqual(normal(got), normal(want)) {
			t.Fatalf("%#v\ndecoded as %#v", want, got)
		}
		if again := encodeMessage(got); !bytes.Equal(again, b) {
			t.Fatalf("%#v\nencoded as %x\nand then as %x", want, b, again)
		}
	}
}

// A timeout that is not whole microseconds must not become none at all.
func TestTimeoutIsRoundedUp(t *testing.T) {
	for _, c := range []struct{ timeout, want time.Duration }{
		{-1, 0}, {0, 0}, {1, 1000}, {999, 1000}, {1000, 1000}, {1001, 2000}, {math.MaxInt64, math.MaxInt64 / 1000 * 1000},
	} {
		m, err := Decode(encodeMessage(&Request{ID: 1, Timeout: c.timeout}))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.(*Request).Timeout; got != c.want {
			t.Errorf("timeout %d ns arrived as %d, want %d", c.timeout, got, c.want)
		}
	}
}

func TestDecodeIgnoresPositionsItDoesNotKnow(t *testing.T) {
	later := []byte{0x93, 0x01, 0xa1, 'x', 0x81, 0x02, 0xc0} // [1, "x", {2: nil}]
	for _, g := range readGolden(t) {
		b, err := hex.DecodeString(g.Hex)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		// Fill up to the last position that is known, with nil, which stands for every default; then two more.
		known := map[Kind]int{KindRequest: 13, KindReply: 8, KindCancel: 3, KindCredit: 3, KindHello: 7, KindDrain: 2, KindStop: 2, KindPing: 3, KindBatch: 3, KindAttach: 4, KindDetach: 3, KindRelease: 2}[Kind(b[1])]
		have := int(b[0] & 0x0f)
		b[0] = 0x90 + byte(known+2)
		b = append(b, bytes.Repeat([]byte{codeNil}, known-have)...)
		b = append(append(b, later...), codeNil)
		got, err := Decode(b)
		if err != nil {
			t.Errorf("%s: %v", g.Name, err)
		} else if !reflect.DeepEqual(normal(got), normal(want)) {
			t.Errorf("%s with positions appended: decoded %+v, want %+v", g.Name, got, want)
		}
	}
}

func TestDecodeReadsWhatLaterVersionsMaySend(t *testing.T) {
	for _, c := range []struct {
		name string
		hex  string
		want any
	}{
		{"a kind that does not exist yet", "9363 01 a178", Kind(99)},
		{"a kind beyond 8 bits", "92 cd0102 01", Kind(255)},
		{"a reserved kind", "94 0b 01 c0 c0", Kind(11)},
		{"an attach with one more position", "95 09 01 02 03 c0", &Attach{1, 2, 3}},
		{"a detach with one more position", "94 0a 00 03 c0", Detach{3}},
		{"a release with one more position", "93 0d 07 c0", Release{7}},
		{"a tensor with four more positions, whose region is 0", "9b 01 01 c0c0c0c0c0c0c0c0 91 98 a178 a5 75696e7438 9101 c40107 00 40 01 c3",
			&Request{ID: 1, Credit: 1, Tensors: []Tensor{{Name: "x", DType: "uint8", Shape: []uint64{1}, Data: []byte{7}}}}},
		{"a tensor in an arena, with one more position", "9b 01 01 c0c0c0c0c0c0c0c0 91 98 a178 a5 75696e7438 9101 c0 05 40 01 c3",
			&Request{ID: 1, Credit: 1, Tensors: []Tensor{{Name: "x", DType: "uint8", Shape: []uint64{1}, At: Range{5, 64, 1}}}}},
		{"a tensor in an arena, without offset and length", "9b 01 01 c0c0c0c0c0c0c0c0 91 95 a178 a5 75696e7438 9100 c0 05",
			&Request{ID: 1, Credit: 1, Tensors: []Tensor{{Name: "x", DType: "uint8", Shape: []uint64{0}, At: Range{5, 0, 0}}}}},
		{"a tensor in an arena, that brings data", "9b 01 01 c0c0c0c0c0c0c0c0 91 97 a178 a5 75696e7438 9101 c40107 05 40 01", nil},
		{"a tensor in an arena, of another length", "9b 01 01 c0c0c0c0c0c0c0c0 91 97 a178 a5 75696e7438 9102 c0 05 40 01", nil},
		{"a tensor in an arena, whose shape overflows", "9b 01 01 c0c0c0c0c0c0c0c0 91 97 a178 a5 75696e7438 92 cf8000000000000000 02 c0 05 40 00", nil},
		{"an output with one more position", "9d 01 01 c0c0c0c0c0c0c0c0c0c0 91 95 a179 05 40 08 c0",
			&Request{ID: 1, Credit: 1, Outputs: []Output{{Name: "y", At: Range{5, 64, 8}}}}},
		{"an output of three positions", "9d 01 01 c0c0c0c0c0c0c0c0c0c0 91 93 a179 05 40", nil},
		{"1025 outputs", "9d 01 01 c0c0c0c0c0c0c0c0c0c0 dc0401" + strings.Repeat("90", 1025), nil},
		{"an end that is leased", "93 02 01 03", &Reply{ID: 1, End: true, Leased: true}},
		{"an error with one more position", "97 02 01 01 c0c0c0 96 a143 a152 a14d 05 80 c3", &Reply{ID: 1, End: true, Err: &Error{"C", "R", "M", 5 * time.Millisecond, nil}}},
		{"an action with one more position and a flag", "97 05 00 01 01 a0 91 93 a161 cc83 c0 80", &Hello{MinVersion: 1, MaxVersion: 1, Actions: []Action{{Name: "a", Stream: true, Idempotent: true}}}},
		{"a limit that does not exist yet", "97 05 00 01 01 a0 90 82 a2 7a7a 93010203 ab 6d61785f6d657373616765 07", &Hello{MinVersion: 1, MaxVersion: 1, MaxMessage: 7}},
		{"flags that are negative", "93 02 01 ff", nil},
		{"reply flags that do not exist yet", "93 02 01 7d", &Reply{ID: 1, End: true}},
		{"ping flags that do not exist yet", "93 08 01 02", Ping{ID: 1}},
		{"an array header that is longer than needed", "dd00000002 0601", KindDrain},
		{"a number that is longer than needed", "93 04 cf0000000000000001 d3 0000000000000002", Credit{1, 2}},
		{"a string that is longer than needed", "93 03 01 db00000001 78", Cancel{1, "x"}},
		{"credit beyond 32 bits", "93 04 01 cf0000000100000000", Credit{1, math.MaxUint32}},
		{"a timeout beyond what Go can count", "97 01 01 c0c0c0c0 cfffffffffffffffff", &Request{ID: 1, Credit: 1, Timeout: math.MaxInt64 / 1000 * 1000}},
		{"nil for every default", "9b 01 01 c0c0c0c0c0c0c0c0c0", &Request{ID: 1, Credit: 1}},
		{"request flags that do not exist yet", "9c 01 01 c0c0c0c0c0c0c0c0c0 02", &Request{ID: 1, Credit: 1}},
		{"a batch of more than one call may have", "93 0c 00 dc0401" + strings.Repeat("01", MaxBatch+1), nil},
		{"a batch of something else", "93 0c 00 91 a178", nil},
		{"a batch that is no array", "93 0c 00 05", nil},
		{"credit 0", "98 01 01 c0c0c0c0c0 00", &Request{ID: 1, Credit: 1}},
	} {
		got, err := Decode(unhex(t, c.hex))
		switch {
		case c.want == nil && err == nil:
			t.Errorf("%s: decoded %+v, want an error", c.name, got)
		case c.want != nil && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != nil && !reflect.DeepEqual(normal(got), normal(c.want)):
			t.Errorf("%s: decoded %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestDecodeRefusesWhatIsMalformed(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		reason    string
		id        uint64 // of the message that is returned beside the error; 0: none is
		says      string
	}{
		{"nothing", "", "bad_message", 0, "cut off"},
		{"not an array", "01", "bad_message", 0, "begin with [kind, id"},
		{"an empty array", "90", "bad_message", 0, "begin with"},
		{"a kind alone", "91 01", "bad_message", 0, "begin with"},
		{"a kind of nil", "92 c0 01", "bad_message", 0, "begin with"},
		{"an id of nil", "92 01 c0", "bad_message", 0, "begin with"},
		{"a kind that is a string", "92 a131 01", "bad_message", 0, "begin with"},
		{"a negative id", "92 01 ff", "bad_message", 0, "begin with"},
		{"a second value", "92 01 05 c0", "bad_message", 5, "follow"},
		{"a claim of four thousand million elements", "9a 01 05 c0c0c0c0c0c0c0 ddffffffff", "bad_message", 5, "exceeds"},
		{"a reply of the same sort", "96 02 05 00 c0 dfffffffff c0", "bad_message", 5, "exceeds"},
		{"the byte c1", "93 01 05 c1", "bad_message", 5, "c1"},
		{"a pool that is a number", "93 01 05 07", "bad_message", 5, "a string"},
		{"a pool that is a binary", "93 01 05 c40178", "bad_message", 5, "a string"},
		{"a context that is a string", "96 01 05 c0c0c0 a178", "bad_message", 5, "a binary"},
		{"a negative timeout", "97 01 05 c0c0c0c0 d0ff", "bad_message", 5, "unsigned"},
		{"a timeout that is a float", "97 01 05 c0c0c0c0 cb0000000000000000", "bad_message", 5, "unsigned"},
		{"headers that are an array", "99 01 05 c0c0c0c0c0c0 90", "bad_message", 5, "a map"},
		{"a header that is a number", "99 01 05 c0c0c0c0c0c0 81 a16b 01", "bad_message", 5, "a string"},
		{"tensors that are a map", "9b 01 05 c0c0c0c0c0c0c0c0 80", "bad_message", 5, "an array"},
		{"a tensor of three positions", "9b 01 05 c0c0c0c0c0c0c0c0 91 93 a178 a1 78 90", "bad_message", 5, "four positions"},
		{"a tensor of nil", "9b 01 05 c0c0c0c0c0c0c0c0 91 c0", "bad_message", 5, "four positions"},
		{"a dtype that does not exist", "9b 01 05 c0c0c0c0c0c0c0c0 91 94 a178 a5 666c6f6174 90 c400", "bad_tensor", 5, `unknown dtype "float"`},
		{"a tensor that is too short", "9b 01 05 c0c0c0c0c0c0c0c0 91 94 a178 a5 75696e7438 9102 c40101", "bad_tensor", 5, "needs 2 bytes, got 1"},
		{"a shape that overflows", "9b 01 05 c0c0c0c0c0c0c0c0 91 94 a178 a5 75696e7438 92 cf8000000000000000 02 c400", "bad_tensor", 5, "overflows"},
		{"a malformed cancel", "93 03 05 01", "bad_message", 0, "a string"},
		{"an error that is a string", "97 02 05 01 c0c0c0 a178", "bad_message", 5, "an array"},
	} {
		got, err := Decode(unhex(t, c.hex))
		var e *Error
		if !errors.As(err, &e) || e.Code != InvalidArgument || e.Reason != c.reason || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: got %v, want %s about %q", c.name, err, c.reason, c.says)
		}
		var id uint64
		switch m := got.(type) {
		case *Request:
			id = m.ID
		case *Reply:
			id = m.ID
		case nil:
		default:
			t.Errorf("%s: a %T was returned beside the error", c.name, got)
		}
		if id != c.id {
			t.Errorf("%s: the error is about id %d, want %d", c.name, id, c.id)
		}
	}
}

// An action takes a byte in a message and thirty times as much decoded, and a client may send a hello as large as a request.
func TestDecodeRefusesAHelloOfTooManyActions(t *testing.T) {
	for n, good := range map[int]bool{maxActions: true, maxActions + 1: false, 1 << 20: false} {
		b := appendArray([]byte{0x96, byte(KindHello), 0, 1, 1, 0xa0}, n)
		got, err := Decode(append(b, bytes.Repeat([]byte{0x90}, n)...))
		if !good {
			wantError(t, err, InvalidArgument, "bad_message")
		} else if m, ok := got.(*Hello); err != nil || !ok || len(m.Actions) != n {
			t.Errorf("%d actions: %T, %v", n, got, err)
		}
	}
}

// What a message has that is passed over counts as deep as it lies.
func TestDecodeRefusesWhatIsNestedTooDeep(t *testing.T) {
	for _, c := range []struct {
		name, hex string // all but the last value
		within    int    // how many containers are around that
	}{
		{"a body", "9a 01 01 c0c0c0c0c0c0c0", 1},
		{"a position that is not known", "94 04 01 01", 1},
		{"a position of a kind that is not known", "93 63 01", 1},
		{"a position behind a tensor's", "9b 01 01 c0c0c0c0c0c0c0c0 91 98 a178 a5 75696e7438 9101 c40107 00 40 01", 3},
		{"a position behind an output's", "9d 01 01 c0c0c0c0c0c0c0c0c0c0 91 95 a179 05 40 08", 3},
		{"a position behind an error's", "97 02 01 01 c0c0c0 96 a143 a152 a14d 05 80", 2},
		{"a position behind an action's", "96 05 00 01 01 a0 91 95 a161 00 90 90", 3},
		{"a position behind a port's", "96 05 00 01 01 a0 91 93 a161 00 91 94 a178 a3 737472 90", 5},
		{"a limit that is not known", "97 05 00 01 01 a0 90 81 a2 7a7a", 2},
	} {
		for depth, want := range map[int]bool{maxDepth: true, maxDepth + 1: false} {
			_, err := Decode(unhex(t, c.hex+strings.Repeat("91", depth-c.within)+"c0"))
			if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "nested deeper than 64 at") {
				t.Errorf("%s, which ends %d deep: %v", c.name, depth, err)
			}
		}
	}
}

// Whatever a golden message is cut down to, it is refused, and its id known as soon as it is there.
func TestDecodeRefusesEveryTruncation(t *testing.T) {
	for _, g := range readGolden(t) {
		b := unhex(t, g.Hex)
		for n := range min(len(b), 400) {
			if _, err := Decode(b[:n]); err == nil {
				t.Fatalf("%s: its first %d of %d bytes are taken for a message", g.Name, n, len(b))
			}
		}
	}
}

func TestDecodeHead(t *testing.T) {
	for _, c := range []struct {
		hex  string
		kind Kind
		id   uint64
		ok   bool
	}{
		{"9b 01 05 a0 a1", KindRequest, 5, true},
		{"dd0000000b 01 cd0100", KindRequest, 256, true},
		{"92 02 07", KindReply, 7, true},
		{"9b 01 cd01", 0, 0, false},
		{"9b", 0, 0, false},
		{"", 0, 0, false},
		{"c0 01 05", 0, 0, false},
		{"91 01 05", 0, 0, false},
		{"a5 01 05", 0, 0, false},
	} {
		k, id, ok := DecodeHead(unhex(t, c.hex))
		if ok != c.ok || ok && (k != c.kind || id != c.id) {
			t.Errorf("%s: kind %d, id %d, %v; want %d, %d, %v", c.hex, k, id, ok, c.kind, c.id, c.ok)
		}
	}
}

// A message whose blobs are parts of their own has the bytes of one whose are not.
func TestLargeBlobsAreNotCopiedIntoTheEnvelope(t *testing.T) {
	blob := bytes.Repeat([]byte{7}, inlineBlob+1)
	e := newEncoder()
	defer e.free()
	e.request(&Request{ID: 1, Context: blob, Body: append(Body{0xc5, 0x10, 0x01}, blob...), Tensors: []Tensor{{Name: "x", DType: "uint8", Shape: []uint64{uint64(len(blob))}, Data: blob}}})
	parts, size := e.message()
	shared := 0
	for _, p := range parts {
		if len(p) > inlineBlob && (&p[0] == &blob[0] || len(p) == len(blob)+3) {
			shared++
		}
	}
	if shared != 3 || len(parts) != 6 {
		t.Errorf("%d parts of %d bytes in all, %d of them blobs; want 6 and 3", len(parts), size, shared)
	}
	if _, err := Decode(bytes.Join(parts, nil)); err != nil {
		t.Error(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// FuzzDecode: no bytes make Decode panic; what it accepts, Scan accepts; and a message that is accepted means the same when it is encoded and decoded again.
func FuzzDecode(f *testing.F) {
	for _, g := range readGolden(f) {
		if b := unhex(f, g.Hex); len(b) < 1000 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		if err := Scan(b); err != nil {
			t.Fatalf("%x decoded as %+v, but is no MessagePack: %v", b, m, err)
		}
		if k, ok := m.(Kind); ok && k != KindDrain && k != KindStop {
			return // of a kind that is not known only that much is read
		}
		again, err := Decode(encodeMessage(m))
		if err != nil {
			t.Fatalf("%x decoded as %+v, which encodes to something else: %v", b, m, err)
		}
		if !reflect.DeepEqual(normal(again), normal(m)) {
			t.Fatalf("%x decoded as %+v and then as %+v", b, m, again)
		}
	})
}
