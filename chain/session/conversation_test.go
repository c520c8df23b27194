package session

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Whatever a client sends: what becomes of it is valid, has as many members, and what was said before at the place where it belongs.
func FuzzExtend(f *testing.F) {
	before := []ipc.Body{encoded(f, says("system", "be kind")), encoded(f, says("user", "one")), encoded(f, says("assistant", "yes"))}
	for _, v := range []any{
		nil, map[string]any{"messages": []any{says("user", "two")}, "n": 1}, map[string]any{"messages": []any{says("system", "x"), says("user", "two")}}, map[string]any{"messages": []any{1, "x", nil}},
		map[string]any{"messages": map[string]any{}}, []any{"messages"},
	} {
		f.Add([]byte(encoded(f, v)))
	}
	f.Add([]byte{0xc7, 0x05, 0x00, 0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte("\x82\xa8messages\x91\xc0\xa8messages\x91\xc7\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		body := ipc.Body(bytes.Clone(b))
		extended, s := extend(body, "messages", before)
		if !bytes.Equal(body, b) {
			t.Fatal("the client's bytes were changed")
		}
		if s == nil {
			if !bytes.Equal(extended, b) {
				t.Fatalf("%x became %x", b, extended)
			}
			return
		}
		if err := extended.Validate(); err != nil {
			t.Fatalf("%x became %x: %v", b, extended, err)
		}
		was, _ := mapMembers(b)
		is, err := mapMembers(extended)
		if err != nil || len(was) != len(is) || s.size <= 0 {
			t.Fatalf("%d members became %d, %v", len(was), len(is), err)
		}
		n := instructions(s.messages)
		if said := before[1:]; !slices.EqualFunc(s.messages[n:n+2], said, func(a, b ipc.Body) bool { return bytes.Equal(a, b) }) {
			t.Fatalf("%q is not what was said before", s.messages)
		}
		r := record{context: b, messages: s.all()}
		again, err := decodeRecord(r.encode())
		if err != nil || !bytes.Equal(again.context, b) || len(again.messages) != len(r.messages) {
			t.Fatalf("%v, %d messages of %d", err, len(again.messages), len(r.messages))
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(record{}.encode())
	f.Add(record{context: []byte("abc"), messages: []ipc.Body{{0xc0}, {0x81, 0x01, 0x02}}}.encode())
	f.Add([]byte{0x93, 0x01, 0xc6, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x93, 0x02, 0xc4, 0x00, 0x90})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil || len(b) == 0 {
			return
		}
		again, err := decodeRecord(r.encode())
		if err != nil || !bytes.Equal(again.context, r.context) || len(again.messages) != len(r.messages) {
			t.Fatalf("%v", err)
		}
	})
}
