package ipc

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/shm"
)

func TestRangeWithin(t *testing.T) {
	const most = math.MaxUint64
	for _, c := range []struct {
		at    Range
		bytes uint64
		want  bool
	}{
		{Range{1, 0, 0}, 0, true}, {Range{1, 0, 64}, 64, true}, {Range{1, 64, 0}, 64, true}, {Range{1, 64, 64}, 128, true},
		{Range{1, 0, 65}, 64, false}, {Range{1, 64, 1}, 64, false}, {Range{1, 128, 0}, 64, false}, {Range{1, 1, 1}, 64, false},
		{Range{1, 64, most}, 4096, false}, {Range{1, most - 63, 64}, 4096, false}, {Range{1, most - 63, most}, most, false}, {Range{1, most - 63, 63}, most, true},
	} {
		if got := c.at.Within(c.bytes); got != c.want {
			t.Errorf("%+v within %d bytes: %v", c.at, c.bytes, got)
		}
	}
}

// Overlaps are found, and only overlaps: compared with looking at every pair.
func TestOutputsAreApart(t *testing.T) {
	set := arena.New(arena.Limits{Client: 1 << 20, Total: 1 << 20, Regions: 2, Files: 2}).Client(arena.ID{}).Set()
	defer set.Close()
	var ids []uint64
	for range 2 {
		r, err := set.Make(4096)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	use, _, _ := set.Claim(ids)
	defer use.Settle()
	overlap := func(a, b Range) bool {
		return a.Region == b.Region && a.Offset < b.Offset+b.Length && b.Offset < a.Offset+a.Length
	}
	found := [2]int{}
	for range 20_000 {
		random := func() Range {
			offset := 64 * rand.Uint64N(60)
			return Range{ids[rand.IntN(2)], offset, 1 + rand.Uint64N(200)}
		}
		req := &Request{Arenas: use}
		for range rand.IntN(4) {
			at := random()
			at.Length *= rand.Uint64N(2)
			req.Tensors = append(req.Tensors, Tensor{DType: "uint8", Shape: []uint64{at.Length}, At: at})
		}
		want := false
		for i := range rand.IntN(4) {
			at := random()
			for _, o := range req.Outputs {
				want = want || overlap(o.At, at)
			}
			for _, x := range req.Tensors {
				want = want || x.At.Length > 0 && overlap(x.At, at)
			}
			req.Outputs = append(req.Outputs, Output{Name: string(rune('a' + i)), At: at})
		}
		err := req.ValidateArenas()
		if (err != nil) != want {
			t.Fatalf("tensors %+v, outputs %+v: %v, want an overlap: %v", req.Tensors, req.Outputs, err, want)
		}
		if want {
			found[1]++
		} else {
			found[0]++
		}
	}
	if min(found[0], found[1]) < 100 {
		t.Errorf("%d without overlap and %d with: too few of one kind", found[0], found[1])
	}
}

// What an action is given to write to, and what becomes of what it answers with.
func TestOutputsOfAnAction(t *testing.T) {
	memory := make([]byte, 128)
	req := &Request{Outputs: []Output{{Name: "y", At: Range{5, 64, 64}, Data: memory[64:]}}}
	for _, bad := range []struct {
		dtype string
		shape []uint64
	}{{"float", nil}, {"uint8", []uint64{1 << 63, 4}}, {"uint8", []uint64{1 << 62}}} {
		if _, err := req.Output("y", bad.dtype, bad.shape...); err == nil || AsError(err).Reason != "bad_tensor" {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	large, err := req.Output("y", "float32", 17)
	if err != nil || len(large.Data) != 68 || &large.Data[0] == &memory[64] {
		t.Errorf("one that is too large: %v, %v", large, err)
	}
	y, err := req.Output("y", "float32", 2, 3)
	if err != nil || len(y.Data) != 24 || cap(y.Data) != 24 || &y.Data[0] != &memory[64] {
		t.Fatalf("%v, %v", y, err)
	}
	if again, err := req.Output("y", "uint8", 1); err != nil || &again.Data[0] == &memory[64] {
		t.Errorf("the same memory twice: %v", err)
	}
	y.Data[0] = 7
	stray := Tensor{Name: "x", DType: "uint8", Shape: []uint64{1}, Data: memory[:1], At: Range{5, 0, 1}}
	answer := []Tensor{stray, y, large}
	placed := req.Place(answer)
	if placed[0].At.Region != 0 || placed[2].At.Region != 0 || placed[1].At != (Range{5, 64, 24}) || memory[64] != 7 || answer[0].At.Region != 5 {
		t.Errorf("placed %+v", placed)
	}
	if second := req.Place([]Tensor{y}); second[0].At.Region != 0 {
		t.Errorf("a slot that was named is named again: %+v", second)
	}

	req = &Request{Outputs: []Output{{Name: "y", At: Range{5, 64, 64}, Data: memory[64:]}}}
	copied := req.Place([]Tensor{{Name: "y", DType: "uint8", Shape: []uint64{3}, Data: []byte{1, 2, 3}}})
	if copied[0].At != (Range{5, 64, 3}) || string(memory[64:67]) != "\x01\x02\x03" {
		t.Errorf("copied: %+v, % x", copied, memory[64:67])
	}
	plain := []Tensor{{Name: "y"}}
	if got := (&Request{}).Place(plain); &got[0] != &plain[0] {
		t.Error("a request without slots has its reply copied")
	}
}

// arenaPair is a client that may have arenas, and where its server, which handles requests with h, counts them.
func arenaPair(t *testing.T, h handlerFunc) (*asking, *arena.Store) {
	t.Helper()
	checkLeaks(t)
	p := clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	store := arena.New(arena.Limits{Client: 1 << 20, Total: 1 << 20, Regions: 8, Files: 8})
	set := store.Client(arena.ID{}).Set()
	t.Cleanup(func() {
		set.Close()
		if used := store.Usage(); used.Regions != 0 {
			t.Errorf("%d arenas are left", used.Regions)
		}
	})
	c := ask(t, p.asking, Events{})
	serve(t, p.answering, ServeConfig{Arenas: set}, h)
	return c, store
}

// eventually waits for what the other side is about to do.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	patient := bounded(t)
	for !ok() {
		select {
		case <-tick.C:
		case <-patient.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAttachAndDetach(t *testing.T) {
	c, store := arenaPair(t, func(context.Context, *Request, *Responder) {})
	for range 100 {
		region, size, file, err := c.Attach(bounded(t), 5000)
		if err != nil {
			t.Fatal(err)
		}
		memory, err := shm.OpenArena(int(file.Fd()), size)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := memory.Close(); err != nil {
			t.Error(err)
		}
		c.Detach(region)
		if err := c.Ping(bounded(t)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the arena to be given back", func() bool { return store.Usage().Regions == 0 })
	}
	_, _, _, err := c.Attach(bounded(t), 0)
	wantError(t, err, InvalidArgument, "invalid_argument")
	_, _, _, err = c.Attach(bounded(t), 1<<21)
	wantError(t, err, ResourceExhausted, "arena_quota")
	for range 20 { // whoever does not wait for the answer keeps nothing
		ctx, cancel := context.WithCancel(bounded(t))
		cancel()
		if region, _, file, err := c.Attach(ctx, 5000); err == nil {
			_ = file.Close()
			c.Detach(region)
		} else if !errors.Is(ctx.Err(), context.Canceled) || AsError(err).Code != Cancelled && AsError(err).Reason != "arena_quota" {
			t.Fatal(err)
		}
	}
	if err := c.Ping(bounded(t)); err != nil { // all have been answered: none is to be made any more
		t.Fatal(err)
	}
	eventually(t, "the arenas to be given back", func() bool { return store.Usage().Regions == 0 })
}

// The memory that a request names is said to be in use as long as a worker has it, though the requester has its answer.
func TestLeaseAndRelease(t *testing.T) {
	returned := make(chan *arena.Use, 1)
	c, _ := arenaPair(t, func(_ context.Context, req *Request, w *Responder) {
		if req.Action == "lent" {
			req.Arenas.Lend()
			returned <- req.Arenas
		}
		_ = w.Fail(Errorf(DeadlineExceeded, "deadline", "it takes too long"))
	})
	region, _, file, err := c.Attach(bounded(t), 4096)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	x := []Tensor{{Name: "x", DType: "uint8", Shape: []uint64{64}, At: Range{region, 0, 64}}}
	done := make(chan *Error, 1)
	call, err := c.Start(&Request{Action: "lent", Tensors: x}, func(e *Error) { done <- e })
	if err != nil {
		t.Fatal(err)
	}
	_, err = call.Recv(bounded(t))
	wantError(t, err, DeadlineExceeded, "deadline")
	if err := c.Ping(bounded(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Fatal("it is done, while a worker has it")
	default:
	}
	(<-returned).Return()
	if e := await(t, done, "the release"); e != nil {
		t.Error(e)
	}

	call, err = c.Start(&Request{Action: "not lent", Tensors: x}, func(e *Error) { done <- e })
	if err != nil {
		t.Fatal(err)
	}
	_, err = call.Recv(bounded(t))
	wantError(t, err, DeadlineExceeded, "deadline")
	if e := await(t, done, "the end"); e != nil {
		t.Error(e)
	}

	// What is leased ends with the connection.
	if _, err = c.Start(&Request{Action: "lent", Tensors: x}, func(e *Error) { done <- e }); err != nil {
		t.Fatal(err)
	}
	use := <-returned
	if err := c.Ping(bounded(t)); err != nil {
		t.Fatal(err)
	}
	c.die(errOwner, func(uint64) *Error { return errOwner })
	if e := await(t, done, "the end of what was leased"); e != errOwner {
		t.Error(e)
	}
	use.Return()
}

// Without arenas a server says so; and a worker is never asked.
func TestAttachWhereThereIsNone(t *testing.T) {
	onEach(t, pairOptions{}, func(t *testing.T, p pair) {
		c := ask(t, p.asking, Events{})
		serve(t, p.answering, ServeConfig{}, func(context.Context, *Request, *Responder) {})
		_, _, _, err := c.Attach(bounded(t), 4096)
		wantError(t, err, Unimplemented, "arena")
		call, err := c.Start(&Request{Tensors: []Tensor{{DType: "uint8", Shape: []uint64{1}, At: Range{1, 0, 1}}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = call.Recv(bounded(t))
		wantError(t, err, InvalidArgument, "bad_region")
	})
}
