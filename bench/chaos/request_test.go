package chaos

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/worker"
)

// answers runs a request in a worker's action, here, and returns the replies as they would arrive.
func answers(t *testing.T, r *request) []*ipc.Reply {
	t.Helper()
	t.Setenv(worker.LedgerVariable, filepath.Join(t.TempDir(), "ledger"))
	actions, ok := worker.Builtin("chaos")
	if !ok {
		t.Fatal("there are no chaos actions")
	}
	var replies []*ipc.Reply
	add := func(from *worker.Reply) error {
		body, err := ipc.Marshal(from.Body)
		if err != nil {
			return err
		}
		replies = append(replies, &ipc.Reply{Body: body, Tensors: from.Tensors})
		return nil
	}
	action := actions[r.req.Action]
	if action.Stream != nil {
		if err := action.Stream(context.Background(), &r.req, add); err != nil {
			t.Fatal(err)
		}
		replies = append(replies, &ipc.Reply{End: true})
		return replies
	}
	reply, err := action.Unary(context.Background(), &r.req)
	if err != nil {
		t.Fatal(err)
	}
	if err := add(reply); err != nil {
		t.Fatal(err)
	}
	replies[0].End = true
	return replies
}

// judge is what is found to be wrong with the replies.
func judge(r *request, replies []*ipc.Reply) string {
	for _, reply := range replies {
		if err := r.check(reply); err != nil {
			return err.Error()
		}
	}
	return ""
}

// change decodes a body, changes it, and encodes it again.
func change(t *testing.T, reply *ipc.Reply, f func(map[string]any)) {
	t.Helper()
	var body map[string]any
	if err := reply.Body.Decode(&body); err != nil {
		t.Fatal(err)
	}
	f(body)
	var err error
	if reply.Body, err = ipc.Marshal(body); err != nil {
		t.Fatal(err)
	}
}

func TestWrongAnswersAreSeen(t *testing.T) {
	bytes := newNoise(1)
	tensors := []ipc.Tensor{{Name: "x", DType: "uint64", Shape: []uint64{100}, Data: bytes[:800]}, {Name: "y", DType: "uint64", Shape: []uint64{1}, Data: bytes[8:16]}}
	n := id{client: 3, class: once, seq: 70000}
	for name, tt := range map[string]struct {
		spoil func(*ipc.Reply)
		says  string
	}{
		"right": {func(*ipc.Reply) {}, ""},
		"another's answer": {func(r *ipc.Reply) {
			change(t, r, func(b map[string]any) { b["nonce"] = id{3, once, 70001}.nonce() })
		}, "it is the answer to request 0003020000011171"},
		"the worker saw other bytes": {func(r *ipc.Reply) {
			change(t, r, func(b map[string]any) { b["sum"] = strings.Repeat("0", 64) })
		}, "the worker did not get the bytes that were sent"},
		"one bit of the body": {func(r *ipc.Reply) {
			change(t, r, func(b map[string]any) { b["data"].([]byte)[49] ^= 1 })
		}, "the body's data is not what was sent"},
		"one bit of a tensor": {func(r *ipc.Reply) { r.Tensors[0].Data[567] ^= 0x80 }, "tensor x is wrong from byte 567 of 800"},
		"tensors swapped":     {func(r *ipc.Reply) { slices.Reverse(r.Tensors) }, "tensor 0 is y"},
		"a tensor lost":       {func(r *ipc.Reply) { r.Tensors = r.Tensors[:1] }, "1 tensors came back, 2 were sent"},
		"another shape":       {func(r *ipc.Reply) { r.Tensors[0].Shape = []uint64{10, 10} }, "tensor 0 is x uint64 [10 10]"},
		"a chunk":             {func(r *ipc.Reply) { r.End = false }, "a chunk came where an answer was due"},
		"no map":              {func(r *ipc.Reply) { r.Body = ipc.Body{0xc3} }, "bad_body"},
	} {
		r := newTransform(n, wide, 0, bytes[100:150], tensors...)
		replies := answers(t, r)
		tt.spoil(replies[0])
		if got := judge(r, replies); got != tt.says && (tt.says == "" || !strings.Contains(got, tt.says)) {
			t.Errorf("%s: found %q, want %q", name, got, tt.says)
		}
	}
}

func TestWrongStreamsAreSeen(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func([]*ipc.Reply) []*ipc.Reply
		says  string
	}{
		"right":         {func(r []*ipc.Reply) []*ipc.Reply { return r }, ""},
		"a chunk lost":  {func(r []*ipc.Reply) []*ipc.Reply { return slices.Delete(r, 2, 3) }, "chunk 3 came when 2 was due"},
		"a chunk twice": {func(r []*ipc.Reply) []*ipc.Reply { return slices.Insert(r, 2, r[1]) }, "chunk 1 came when 2 was due"},
		"cut":           {func(r []*ipc.Reply) []*ipc.Reply { return slices.Delete(r, 3, 5) }, "the stream ended after 3 of 5 chunks"},
		"one too many":  {func(r []*ipc.Reply) []*ipc.Reply { return slices.Insert(r, 5, r[4]) }, "chunk 4 came, there are 5"},
		"one bit": {func(r []*ipc.Reply) []*ipc.Reply {
			change(t, r[1], func(b map[string]any) { b["data"].([]byte)[999] ^= 4 })
			return r
		}, "chunk 1 is wrong from byte 999 of 1000"},
		"of another": {func(r []*ipc.Reply) []*ipc.Reply {
			change(t, r[4], func(b map[string]any) { b["nonce"] = id{1, stream, 8}.nonce() })
			return r
		}, "chunk 4 of request 0001010000000008 came"},
	} {
		r := newStream(id{1, stream, 7}, wide, 5, 1000, 0)
		if got := judge(r, tt.spoil(answers(t, r))); got != tt.says && (tt.says == "" || !strings.Contains(got, tt.says)) {
			t.Errorf("%s: found %q, want %q", name, got, tt.says)
		}
	}
}

// Two runs with one seed ask the same.
func TestLoadFollowsFromItsSeed(t *testing.T) {
	plan := func(seed uint64) (all []string) {
		rng := rand.New(rand.NewPCG(seed, 1))
		ids := &numbers{client: 1}
		bytes := newNoise(seed)
		for range 500 {
			r := bytes.next(rng, ids, []string{wide, narrow})
			size := len(r.req.Body)
			for _, x := range r.req.Tensors {
				if err := x.Validate(); err != nil {
					t.Fatal(err)
				}
				size += len(x.Data)
			}
			all = append(all, r.String()+strings.Repeat(".", size%97))
		}
		return all
	}
	if !slices.Equal(plan(1), plan(1)) {
		t.Error("one seed asked two things")
	}
	if slices.Equal(plan(1), plan(2)) {
		t.Error("two seeds ask the same")
	}
}

func TestNonces(t *testing.T) {
	for _, n := range []id{{}, {1, once, 2}, {0xffff, deaf, 1<<32 - 1}} {
		if back, err := parseNonce(n.nonce()); err != nil || back != n {
			t.Errorf("%v became %q, and that %v, %v", n, n.nonce(), back, err)
		}
	}
	for _, s := range []string{"", "x", "00000000000000000", "0000000000000000x", "0000ff0000000000", "0000000100000000ff"} {
		if n, err := parseNonce(s); err == nil {
			t.Errorf("%q is %v", s, n)
		}
	}
}
