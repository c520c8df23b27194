package supervisor

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
)

// lender lends arenas as the gateway does, to one connection.
type lender struct {
	t     testing.TB
	store *arena.Store
	set   *arena.Set
}

func newLender(t testing.TB) *lender {
	store := arena.New(arena.Limits{Client: 1 << 30, Total: 1 << 30, Regions: 4096, Files: 4096})
	l := &lender{t: t, store: store, set: store.Client(arena.ID{}).Set()}
	t.Cleanup(func() {
		l.set.Close()
		eventually(t, "every arena to come back, which workers have mapped until they are told", func() bool { return store.Usage().Regions == 0 })
	})
	return l
}

func (l *lender) region(bytes uint64) *arena.Region {
	l.t.Helper()
	r, err := l.set.Make(bytes)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// claim makes the request one that has arrived.
func (l *lender) claim(req *ipc.Request) *arena.Use {
	l.t.Helper()
	var ids []uint64
	for _, t := range req.Tensors {
		ids = append(ids, t.At.Region)
	}
	for _, o := range req.Outputs {
		ids = append(ids, o.At.Region)
	}
	use, missing, ok := l.set.Claim(ids)
	if !ok {
		l.t.Fatalf("there is no region %d", missing)
	}
	req.Arenas = use
	return use
}

func in(region *arena.Region, name string, offset, length uint64) ipc.Tensor {
	return ipc.Tensor{Name: name, DType: "uint8", Shape: []uint64{length}, At: ipc.Range{Region: region.ID, Offset: offset, Length: length}}
}

func out(region *arena.Region, name string, offset, length uint64) ipc.Output {
	return ipc.Output{Name: name, At: ipc.Range{Region: region.ID, Offset: offset, Length: length}}
}

// What a request says of arenas is checked before anybody acts on it.
func TestRequestsThatNameWhatTheyMayNot(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	l := newLender(t)
	r, other := l.region(8192), l.region(4096)
	foreign := newLender(t)
	theirs := foreign.region(4096)
	const most = math.MaxUint64
	for name, c := range map[string]struct {
		tensors []ipc.Tensor
		outputs []ipc.Output
		says    string
	}{
		"end beyond":            {tensors: []ipc.Tensor{in(r, "x", 4096, 4097)}, says: "4097 bytes at 4096 of region"},
		"offset beyond":         {tensors: []ipc.Tensor{in(r, "x", 8256, 0)}, says: "0 bytes at 8256"},
		"offset overflows":      {tensors: []ipc.Tensor{in(r, "x", most-63, 128)}, says: "of region"},
		"length overflows":      {tensors: []ipc.Tensor{in(r, "x", 64, most-63)}, says: "of region"},
		"not aligned":           {tensors: []ipc.Tensor{in(r, "x", 32, 1)}, says: "multiple of 64"},
		"slot beyond":           {outputs: []ipc.Output{out(r, "y", 8128, 128)}, says: "128 bytes at 8128"},
		"slot overflows":        {outputs: []ipc.Output{out(r, "y", most-63, most)}, says: "of region"},
		"slot not aligned":      {outputs: []ipc.Output{out(r, "y", 1, 1)}, says: "multiple of 64"},
		"empty slot":            {outputs: []ipc.Output{out(r, "y", 0, 0)}, says: "has no bytes"},
		"two of a name":         {outputs: []ipc.Output{out(r, "y", 0, 64), out(r, "y", 64, 64)}, says: "two outputs"},
		"slots overlap":         {outputs: []ipc.Output{out(r, "y", 64, 128), out(r, "z", 128, 1)}, says: "overlap"},
		"a slot around another": {outputs: []ipc.Output{out(r, "y", 0, 8192), out(r, "z", 4096, 1), out(r, "w", 4160, 1)}, says: "overlap"},
		"slot over a tensor":    {tensors: []ipc.Tensor{in(r, "x", 0, 65)}, outputs: []ipc.Output{out(r, "y", 64, 1)}, says: "overlap"},
		"tensor over a slot":    {tensors: []ipc.Tensor{in(r, "x", 64, 1), in(r, "w", 0, 1)}, outputs: []ipc.Output{out(r, "y", 0, 128)}, says: "overlap"},
		"the same place":        {tensors: []ipc.Tensor{in(r, "x", 0, 1)}, outputs: []ipc.Output{out(r, "y", 0, 1)}, says: "overlap"},
	} {
		req := request(t, "test", "echo", nil)
		req.Tensors, req.Outputs = c.tensors, c.outputs
		use := l.claim(req)
		_, err := h.call(testContext(t), req)
		if e := wantError(t, err, ipc.InvalidArgument, "bad_region"); !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %s", name, e.Message)
		}
		use.Settle()
	}
	req := request(t, "test", "echo", nil)
	req.Tensors = []ipc.Tensor{in(theirs, "x", 0, 1)}
	_, err := h.call(testContext(t), req) // as any adapter would that is not the gateway's own
	wantError(t, err, ipc.InvalidArgument, "bad_region")
	req.Tensors = []ipc.Tensor{in(r, "x", 0, 1)}
	req.Tensors[0].Shape = []uint64{1 << 32, 1 << 32}
	l.claim(req).Settle()
	_, err = h.call(testContext(t), req)
	wantError(t, err, ipc.InvalidArgument, "bad_tensor")

	// These may be: tensors overlap each other, and things only touch.
	req = request(t, "test", "echo", nil)
	req.Tensors = []ipc.Tensor{in(r, "x", 0, 128), in(r, "w", 64, 64), in(other, "v", 4032, 64)}
	req.Outputs = []ipc.Output{out(r, "x", 128, 8064), out(other, "v", 0, 4032)}
	use := l.claim(req)
	reply, err := h.call(testContext(t), req)
	if err != nil {
		t.Fatal(err)
	}
	use.Settle()
	if x := reply.Tensors[0]; x.At != (ipc.Range{Region: r.ID, Offset: 128, Length: 128}) || x.Data != nil {
		t.Errorf("the reply has x at %+v, %d bytes beside it", x.At, len(x.Data))
	}
	if w := reply.Tensors[1]; w.At.Region != 0 || len(w.Data) != 64 {
		t.Errorf("the reply has w at %+v, %d bytes beside it", w.At, len(w.Data))
	}
}

// A worker that says of its reply that it lies elsewhere than it was asked to is not one.
func TestRepliesOutsideTheirSlots(t *testing.T) {
	for how := range villainies {
		if !strings.HasPrefix(how, "slot") {
			continue
		}
		t.Run(how, func(t *testing.T) {
			h := run(t, villainPool(t, how)).waitReady()
			l := newLender(t)
			req := request(t, "test", "echo", nil)
			req.Outputs = []ipc.Output{out(l.region(4096), "y", 64, 64)}
			use := l.claim(req)
			_, err := h.call(testContext(t), req)
			wantError(t, err, ipc.Aborted, "worker_lost")
			use.Settle()
			if exit := h.lastExit(); exit.Cause != "protocol" || !strings.Contains(exit.Detail, "no output of that request") {
				t.Errorf("last exit %+v", exit)
			}
		})
	}
}

// A worker that cannot do arenas is not told of any.
func TestWorkerWithoutArenas(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	p := h.byName("test")
	p.mu.Lock()
	p.slots[0].inc.arenas = false
	p.mu.Unlock()
	l := newLender(t)
	req := request(t, "test", "echo", nil)
	req.Tensors = []ipc.Tensor{in(l.region(4096), "x", 64, 64)}
	use := l.claim(req)
	_, err := h.call(testContext(t), req)
	wantError(t, err, ipc.Unimplemented, "arena")
	if use.Leased() != nil {
		t.Error("what no worker has is leased")
	}
	use.Settle()
	h.must("echo", nil, nil)
}

// A worker that leaves its lifeline unread holds up nobody: its requests are refused once it is full, what it was not told of its arenas' ends it is told later, and its death settles all.
func TestLifelineThatIsFull(t *testing.T) {
	h := run(t, villainPool(t, "harmless: advisory state")).waitReady()
	l := newLender(t)
	ask := func(id *arena.Region) error {
		req := request(t, "test", "echo", nil)
		req.Tensors = []ipc.Tensor{in(id, "x", 0, 64)}
		use := l.claim(req)
		_, err := h.call(testContext(t), req)
		if err != nil && use.Leased() != nil {
			t.Error("what no worker has is leased")
		}
		use.Settle()
		return err
	}
	var regions []*arena.Region
	var err error
	for len(regions) < 4000 && err == nil {
		regions = append(regions, l.region(4096))
		err = ask(regions[len(regions)-1])
	}
	if e := wantError(t, err, ipc.Unavailable, "arena_busy"); e.RetryAfter == 0 {
		t.Error("it does not say when to try again")
	}
	if err := ask(regions[0]); err != nil {
		t.Errorf("a region that the worker knows: %v", err)
	}
	for _, r := range regions {
		l.set.Detach(r.ID)
	}
	if used := l.store.Usage(); used.Regions != 0 {
		t.Errorf("%d arenas are left", used.Regions)
	}
	p := h.byName("test")
	p.mu.Lock()
	inc := p.slots[0].inc
	p.mu.Unlock()
	inc.attached.mu.Lock()
	late, have := len(inc.attached.late), len(inc.attached.have)
	inc.attached.mu.Unlock()
	if late == 0 || have != 0 {
		t.Errorf("%d detaches wait, %d regions are attached", late, have)
	}
	kill(t, inc.proc.pid, unix.SIGKILL)
	h.lastExit()
	h.await("test", "the next worker", func(p PoolStatus) bool { return p.Workers[0].State == "ready" })
	if err := ask(l.region(4096)); err != nil {
		t.Errorf("the next worker: %v", err)
	}
}

// Two deaths at the same place say nothing about what lies there next: that one is to come in the message.
func TestPoisonInAnArena(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	l := newLender(t)
	r := l.region(4096)
	file := filepath.Join(t.TempDir(), "runs")
	ask := func() error {
		req := request(t, "test", "frail", map[string]any{"file": file, "line": "x", "deaths": 2})
		req.Tensors = []ipc.Tensor{in(r, "x", 0, 64)}
		use := l.claim(req)
		defer use.Settle()
		_, err := h.call(testContext(t), req)
		return err
	}
	wantError(t, ask(), ipc.Aborted, "poison_request")
	wantError(t, ask(), ipc.Unavailable, "arena_busy")
}

// What then comes in the message is tried once more, and not twice: two deaths are known. Another client's has nothing to do with it.
func TestPoisonOutOfAnArena(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	l := newLender(t)
	r := l.region(4096)
	file := filepath.Join(t.TempDir(), "runs")
	ask := func(pid int32, tensor ipc.Tensor) error {
		req := request(t, "test", "frail", map[string]any{"file": file, "line": "x", "deaths": 1000})
		req.Client = ipc.Client{UID: 1, PID: pid}
		req.Tensors = []ipc.Tensor{tensor}
		if tensor.At.Region != 0 {
			defer l.claim(req).Settle()
		}
		_, err := h.call(testContext(t), req)
		return err
	}
	inline := func(content byte) ipc.Tensor {
		data := make([]byte, 64)
		data[0] = content
		return ipc.Tensor{Name: "x", DType: "uint8", Shape: []uint64{64}, Data: data}
	}
	runs := func(want int) {
		t.Helper()
		b, err := os.ReadFile(file)
		if got := strings.Count(string(b), "x\n"); err != nil || got != want {
			t.Errorf("%d workers have had it, want %d (%v)", got, want, err)
		}
	}
	wantError(t, ask(1, in(r, "x", 0, 64)), ipc.Aborted, "poison_request")
	wantError(t, ask(1, in(r, "x", 0, 64)), ipc.Unavailable, "arena_busy")
	runs(2)
	wantError(t, ask(1, inline(1)), ipc.Aborted, "poison_request")
	runs(3)
	wantError(t, ask(1, inline(1)), ipc.Aborted, "poison_request")
	runs(3)
	wantError(t, ask(2, inline(2)), ipc.Aborted, "poison_request")
	runs(5)
}

// Whatever is attached and detached, the worker's mappings are those of the regions that there are.
func TestWorkerUnmapsWhatEnds(t *testing.T) {
	h := run(t, builtin(1, 1)).waitReady()
	l := newLender(t)
	pid := h.worker("test", 0).PID
	for range 200 {
		req := request(t, "test", "checksum", nil)
		r := l.region(4096)
		req.Tensors = []ipc.Tensor{in(r, "x", 0, 64)}
		use := l.claim(req)
		if _, err := h.call(testContext(t), req); err != nil {
			t.Fatal(err)
		}
		l.set.Detach(r.ID)
		use.Settle()
	}
	eventually(t, "the worker to unmap them", func() bool {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		return err == nil && !strings.Contains(string(maps), "/memfd:ringmaster-arena")
	})
}
