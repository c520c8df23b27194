package cache

import (
	"bytes"
	"context"
	"maps"
	"testing"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// What makes two requests different, and what does not.
func TestKey(t *testing.T) {
	h := start(t, one(nil), echoing())
	h2 := start(t, one(func(a *Action) { a.Shared = true }), echoing())
	key := func(h *harness, ctx context.Context, req *ipc.Request) Key {
		p := h.settings.Load().pools["p"]
		return h.key(ctx, req, p, p.actions["a"])
	}
	base := func() *ipc.Request {
		r := request(map[string]any{"x": 1})
		r.Context, r.Headers = []byte("ctx"), map[string]string{"lang": "de", "tone": "dry"}
		r.Tensors = []ipc.Tensor{{Name: "t", DType: "uint8", Shape: []uint64{2, 3}, Data: []byte("abcdef")}}
		return r
	}
	first := key(h, t.Context(), base())
	for what, change := range map[string]func(*ipc.Request){
		"pool":                   func(r *ipc.Request) { r.Pool = "q" },
		"action":                 func(r *ipc.Request) { r.Action = "b" },
		"body":                   func(r *ipc.Request) { r.Body = ipc.Body("\x81\xa1x\x02") },
		"an integer is no float": func(r *ipc.Request) { r.Body = ipc.Body("\x81\xa1x\xca\x3f\x80\x00\x00") },
		"no body":                func(r *ipc.Request) { r.Body = nil },
		"context":                func(r *ipc.Request) { r.Context = []byte("ctx2") },
		"no context":             func(r *ipc.Request) { r.Context = nil },
		"header":                 func(r *ipc.Request) { r.Headers["lang"] = "en" },
		"another header":         func(r *ipc.Request) { r.Headers["more"] = "" },
		"one header less":        func(r *ipc.Request) { delete(r.Headers, "tone") },
		"headers' borders":       func(r *ipc.Request) { r.Headers = map[string]string{"lang": "detone", "": "dry"} },
		"session":                func(r *ipc.Request) { r.Headers["session"] = "s" },
		"tensor's name":          func(r *ipc.Request) { r.Tensors[0].Name = "u" },
		"dtype":                  func(r *ipc.Request) { r.Tensors[0].DType = "int8" },
		"shape":                  func(r *ipc.Request) { r.Tensors[0].Shape = []uint64{3, 2} },
		"dimensions":             func(r *ipc.Request) { r.Tensors[0].Shape = []uint64{6} },
		"data":                   func(r *ipc.Request) { r.Tensors[0].Data = []byte("abcdeF") },
		"no tensor":              func(r *ipc.Request) { r.Tensors = nil },
		"tensor twice":           func(r *ipc.Request) { r.Tensors = append(r.Tensors, r.Tensors[0]) },
		"user":                   func(r *ipc.Request) { r.Client.UID = 2 },
		"principal":              func(r *ipc.Request) { r.Principal = "token robot" },
		"context to body":        func(r *ipc.Request) { r.Body, r.Context = append(r.Body, 'c'), []byte("tx") },
	} {
		r := base()
		change(r)
		if key(h, t.Context(), r) == first {
			t.Errorf("%s: the key is the same", what)
		}
		if what == "user" && key(h2, t.Context(), r) != key(h2, t.Context(), base()) {
			t.Error("a shared action tells users apart")
		}
	}
	for what, change := range map[string]func(*ipc.Request){
		"id":               func(r *ipc.Request) { r.ID = 7 },
		"trace":            func(r *ipc.Request) { r.TraceID = "00-1" },
		"timeout":          func(r *ipc.Request) { r.Timeout = 1 },
		"credit":           func(r *ipc.Request) { r.Credit = 9 },
		"process":          func(r *ipc.Request) { r.Client.PID++ },
		"priority":         func(r *ipc.Request) { r.Headers["priority"] = "high" },
		"wish":             func(r *ipc.Request) { r.Headers["cache"] = refresh },
		"width":            func(r *ipc.Request) { r.Body = ipc.Body("\xde\x00\x01\xd9\x01x\xd2\x00\x00\x00\x01") },
		"order of headers": func(r *ipc.Request) { r.Headers = maps.Clone(r.Headers) },
	} {
		r := base()
		change(r)
		if key(h, t.Context(), r) != first {
			t.Errorf("%s: the key is another", what)
		}
	}
	if key(h, chain.WithPeer(t.Context(), chain.Peer{UID: 5}), base()) == first {
		t.Error("the peer of the context does not count")
	}
	if key(h2, t.Context(), base()) == first {
		t.Error("an action that became shared has the keys of one that was not")
	}
}

// A body that has no canonical form is its bytes, and is not taken for another's canonical form.
func TestKeyOfOtherBodies(t *testing.T) {
	h := start(t, one(nil), echoing())
	p := h.settings.Load().pools["p"]
	key := func(body string) Key {
		r := request(nil)
		r.Body = ipc.Body(body)
		return h.key(t.Context(), r, p, p.actions["a"])
	}
	twice := "\x82\xa1a\x01\xa1a\x02"
	if key(twice) != key(string([]byte(twice))) || key(twice) == key("\x82\xa1a\x02\xa1a\x01") || key(twice) == key("\x81\xa1a\x02") {
		t.Error("a map with a key twice")
	}
	if key("") != key("\xc0") {
		t.Error("no body is not nil")
	}
	large := append([]byte{0xc6, 0, 0x20, 0, 0}, make([]byte, 2<<20)...)
	if key(string(large)) != key(string(bytes.Clone(large))) || key(string(large)) == key(string(large[:len(large)-1])) {
		t.Error("a large body")
	}
}

func FuzzKeyOfBodies(f *testing.F) {
	f.Add([]byte("\x01"), []byte("\xcc\x01"))
	f.Add([]byte("\x82\xa1a\x01\xa1b\x02"), []byte("\x82\xa1b\x02\xa1a\x01"))
	h := start(f, one(nil), echoing())
	p := h.settings.Load().pools["p"]
	f.Fuzz(func(t *testing.T, a, b []byte) {
		key := func(body []byte) Key {
			r := request(nil)
			r.Body = body
			return h.key(context.Background(), r, p, p.actions["a"])
		}
		var x, y any
		if ipc.Body(a).Decode(&x) != nil || ipc.Body(b).Decode(&y) != nil {
			return
		}
		if key(a) == key(b) && plainly(x) != plainly(y) {
			t.Errorf("%x and %x have the same key", a, b)
		}
	})
}
