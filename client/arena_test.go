package client_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/internal/arena"
	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// house is a server with real workers, in this process.
type house struct {
	t     testing.TB
	path  string
	cfg   gateway.Config
	store *arena.Store
	sup   *supervisor.Supervisor
	close func() // its door
}

// open opens its door.
func (h *house) open() {
	h.t.Helper()
	ln, err := gateway.Listen(h.path, "")
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var front sync.WaitGroup
	front.Go(func() { _ = gateway.Serve(ctx, ln, h.sup, h.cfg) })
	h.close = func() {
		cancel()
		front.Wait()
	}
}

// pools are the usual ones.
func pools() []supervisor.PoolConfig {
	return []supervisor.PoolConfig{{Name: "p", Builtin: "echo", Workers: 1, Concurrency: 4, Timeout: time.Minute}}
}

func serveHouse(t testing.TB, cfg gateway.Config, pools ...supervisor.PoolConfig) *house {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testLog{t}, nil))
	if _, ok := t.(*testing.B); ok {
		log = slog.New(slog.DiscardHandler)
	}
	store := cfg.NewArenas()
	sup, err := supervisor.New(supervisor.Config{Pools: pools, Executable: executable, Logger: log, Arenas: store})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Logger, cfg.Lent = log, store
	running, stopPools := context.WithCancel(context.Background())
	var back sync.WaitGroup
	back.Go(func() { _ = sup.Run(running) })
	h := &house{t: t, path: filepath.Join(t.TempDir(), "rm.sock"), cfg: cfg, store: store, sup: sup}
	h.open()
	t.Cleanup(func() {
		h.close()
		stopPools()
		back.Wait()
		if used := store.Usage(); used.Regions != 0 || used.Bytes != 0 {
			t.Errorf("%d arenas of %d bytes are left", used.Regions, used.Bytes)
		}
	})
	if err := sup.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	return h
}

type testLog struct{ t testing.TB }

func (w testLog) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (h *house) dial(opts ...client.DialOption) *client.Client {
	h.t.Helper()
	c, err := client.Dial(within(h.t), append(opts, client.WithAddress(h.path))...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			h.t.Error(err)
		}
	})
	return c
}

// arena opens one of so many bytes.
func (h *house) arena(c *client.Client, bytes int) *client.Arena {
	h.t.Helper()
	a, err := c.Arena(within(h.t), bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

// lent waits until the server has lent so many arenas.
func (h *house) lent(regions int) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%d arenas", regions), func() bool { return h.store.Usage().Regions == regions })
}

// tensor makes one of bytes in the arena, filled with a pattern.
func tensor(t testing.TB, a *client.Arena, name string, n int) client.Tensor {
	t.Helper()
	x, err := a.Tensor(name, "uint8", uint64(n))
	if err != nil {
		t.Fatal(err)
	}
	pattern(x.Data)
	return x
}

func pattern(b []byte) {
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
}

// inverted reports whether y is what invert makes of the pattern.
func inverted(y []byte) bool {
	for i, b := range y {
		if b != ^byte(i^i>>8) {
			return false
		}
	}
	return true
}

func TestArenaRoundTrip(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	a := h.arena(c, 15<<20)
	if a.Size() != 16<<20 {
		t.Errorf("it has %d bytes", a.Size())
	}
	const n = 1920 * 1080 * 3
	x, slot := tensor(t, a, "x", n), tensor(t, a, "y", n/3)
	clear(slot.Data)

	var places map[string]string
	r, err := c.Call(within(t), "p", "where", nil, client.WithTensors(x))
	if err == nil {
		err = r.Decode(&places)
	}
	if err != nil || !r.Arena || !strings.HasPrefix(places["x"], "/memfd:ringmaster-arena") {
		t.Fatalf("the worker has x in %q, %v", places["x"], err)
	}

	if _, err = c.Call(within(t), "p", "checksum", nil, client.WithTensors(x)); err != nil {
		t.Fatal(err)
	}
	small := tensor(t, a, "x", n/3)
	r, err = c.Call(within(t), "p", "invert", nil, client.WithTensors(small), client.WithOutputs(slot))
	if err != nil {
		t.Fatal(err)
	}
	var wrote string
	if err := r.Decode(&wrote); err != nil || !strings.HasPrefix(wrote, "/memfd:ringmaster-arena") {
		t.Errorf("the worker wrote y in %q, %v", wrote, err)
	}
	y := r.Tensor("y")
	if y == nil || len(y.Data) != n/3 || &y.Data[0] != &slot.Data[0] {
		t.Fatal("the result is not where it was asked for")
	}
	if !inverted(y.Data) {
		t.Error("the result is wrong")
	}

	// Echo copies into the slot what it was sent; a result that is too large for its slot comes by itself, and so does one that has none.
	slot.Name = "x"
	if r, err = c.Call(within(t), "p", "echo", nil, client.WithTensors(small), client.WithOutputs(slot)); err != nil {
		t.Fatal(err)
	}
	if got := r.Tensor("x"); &got.Data[0] != &slot.Data[0] || !bytes.Equal(got.Data, small.Data) {
		t.Error("what was echoed is not in the slot")
	}
	for _, opts := range [][]client.CallOption{{client.WithOutputs(slot)}, nil} {
		r, err = c.Call(within(t), "p", "echo", nil, append(opts, client.WithTensors(x))...)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Tensor("x"); &got.Data[0] == &slot.Data[0] || !bytes.Equal(got.Data, x.Data) {
			t.Error("what was too large for its slot has not come whole")
		}
	}
}

func TestArenaOfAStream(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	a := h.arena(c, 1<<20)
	x, slot := tensor(t, a, "x", 100_000), tensor(t, a, "y", 100_000)
	in := 0
	n := 0
	for r, err := range c.Stream(within(t), "p", "chunks", nil, client.WithTensors(x), client.WithOutputs(slot)) {
		if err != nil {
			t.Fatal(err)
		}
		y := r.Tensor("y")
		if !inverted(y.Data) {
			t.Errorf("chunk %d is wrong", n)
		}
		if &y.Data[0] == &slot.Data[0] {
			in++
		}
		n++
	}
	if n != 3 || in != 1 {
		t.Errorf("%d chunks, %d of them in the slot; want 3 and 1", n, in)
	}
}

// Large tensors are moved into the arena that a client opens by itself; small ones and those that find no room travel.
func TestArenaByItself(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial(client.WithArena(2 << 20))
	places := func(tensors ...client.Tensor) map[string]string {
		t.Helper()
		r, err := c.Call(within(t), "p", "where", nil, client.WithTensors(tensors...))
		if err != nil {
			t.Fatal(err)
		}
		var places map[string]string
		if err := r.Decode(&places); err != nil {
			t.Fatal(err)
		}
		return places
	}
	heap := func(name string, n int) client.Tensor {
		return client.Tensor{Name: name, DType: "uint8", Shape: []uint64{uint64(n)}, Data: make([]byte, n)}
	}
	if places(heap("small", 1000)); h.store.Usage().Regions != 0 {
		t.Error("a small tensor made an arena")
	}
	got := places(heap("small", 1000), heap("large", 1<<20), heap("larger", 1<<20+1))
	for name, arena := range map[string]bool{"small": false, "large": true, "larger": false} {
		if strings.HasPrefix(got[name], "/memfd:ringmaster-arena") != arena {
			t.Errorf("%s is in %q", name, got[name])
		}
	}
	for range 20 { // it is free again
		if got := places(heap("x", 2<<20)); !strings.HasPrefix(got["x"], "/memfd:ringmaster-arena") {
			t.Fatalf("x is in %q", got["x"])
		}
	}
	if used := h.store.Usage(); used.Regions != 1 || used.Bytes != 2<<20 {
		t.Errorf("lent: %+v", used)
	}
}

// Without being told how much, a client takes several times what it needs, more when that is full, and no more than its limit.
func TestArenasGrow(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	send := func(n, tensors int) map[string]string {
		t.Helper()
		var list []client.Tensor
		for i := range tensors {
			list = append(list, client.Tensor{Name: fmt.Sprint(i), DType: "uint8", Shape: []uint64{uint64(n)}, Data: make([]byte, n)})
		}
		r, err := c.Call(within(t), "p", "where", nil, client.WithTensors(list...))
		if err != nil {
			t.Fatal(err)
		}
		var places map[string]string
		if err := r.Decode(&places); err != nil {
			t.Fatal(err)
		}
		return places
	}
	for _, step := range []struct {
		bytes, tensors int
		regions        int
		lent           int64
		shared         bool
	}{
		{64 << 10, 1, 1, 2 << 20, true},
		{1 << 20, 1, 1, 2 << 20, true},
		{3 << 20, 1, 2, 14 << 20, true},
		{3 << 20, 4, 2, 14 << 20, true},
		{10 << 20, 2, 3, 64 << 20, true},
		{60 << 20, 1, 3, 64 << 20, false}, // it travels
	} {
		places := send(step.bytes, step.tensors)
		for i := range step.tensors {
			if place := places[fmt.Sprint(i)]; strings.HasPrefix(place, "/memfd:ringmaster-arena") != step.shared {
				t.Errorf("%+v: tensor %d is in %q", step, i, place)
			}
		}
		if used := h.store.Usage(); used.Regions != step.regions || used.Bytes != step.lent {
			t.Errorf("%+v: lent: %+v", step, used)
		}
	}
}

// Requests that are put into one call keep their own tensors and slots.
func TestArenaBatches(t *testing.T) {
	cfg := pools()[0]
	cfg.Workers, cfg.Concurrency, cfg.Actions = 1, 1, map[string]supervisor.ActionConfig{"inverts": {Batch: supervisor.Batch{Max: 8, Delay: time.Millisecond}}}
	h := serveHouse(t, gateway.Config{}, cfg)
	c := h.dial()
	a := h.arena(c, 8<<20)
	var calls sync.WaitGroup
	for range 32 {
		x, slot := tensor(t, a, "x", 100_000), tensor(t, a, "y", 100_000)
		calls.Go(func() {
			r, err := c.Call(within(t), "p", "inverts", nil, client.WithTensors(x), client.WithOutputs(slot))
			if err != nil {
				t.Error(err)
				return
			}
			if y := r.Tensor("y"); &y.Data[0] != &slot.Data[0] || !inverted(y.Data) {
				t.Error("a result is wrong")
			}
		})
	}
	calls.Wait()
}

// A worker that is killed with the request in hand is followed by one that is told of the arena first.
func TestArenaOutlivesWorkers(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	a := h.arena(c, 1<<20)
	for i := range 3 {
		x, slot := tensor(t, a, "x", 200_000), tensor(t, a, "y", 200_000)
		r, err := c.Call(within(t), "p", "doomed", filepath.Join(t.TempDir(), "died"), client.WithTensors(x), client.WithOutputs(slot))
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if y := r.Tensor("y"); &y.Data[0] != &slot.Data[0] || !inverted(y.Data) {
			t.Error("the result of the second worker is wrong")
		}
		a.Free(x)
		a.Free(slot)
	}
}

// What a request names stays out of use when its caller gives up before the worker does.
func TestArenaIsLeased(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	a := h.arena(c, 1<<20)
	dir := t.TempDir()
	begun, until := filepath.Join(dir, "begun"), filepath.Join(dir, "until")
	x, slot := tensor(t, a, "x", 100_000), tensor(t, a, "y", 900_000)
	ctx, giveUp := context.WithCancel(within(t))
	ended := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, "p", "late", map[string]string{"begun": begun, "until": until}, client.WithTensors(x), client.WithOutputs(slot))
		ended <- err
	}()
	eventually(t, "the worker to have it", func() bool { _, err := os.Stat(begun); return err == nil })
	giveUp()
	if err := <-ended; ipc.AsError(err).Code != ipc.Cancelled {
		t.Fatalf("the call ended with %v", err)
	}
	a.Free(slot)
	a.Free(x)
	// Another call makes the round trip: the END of the first has come.
	if _, err := c.Call(within(t), "p", "echo", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Tensor("z", "uint8", 800_000); ipc.AsError(err) == nil || ipc.AsError(err).Reason != "arena_full" {
		t.Fatalf("memory that a worker writes to was handed out: %v", err)
	}
	if err := os.WriteFile(until, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the release", func() bool {
		z, err := a.Tensor("z", "uint8", 1<<20)
		if err == nil {
			a.Free(z)
		}
		return err == nil
	})
}

// A deadline that passes is no end for the worker; its death is one.
func TestArenaIsReleasedByDeath(t *testing.T) {
	cfg := pools()[0]
	cfg.Grace = 50 * time.Millisecond
	h := serveHouse(t, gateway.Config{}, cfg)
	c := h.dial()
	a := h.arena(c, 1<<20)
	x := tensor(t, a, "x", 100_000)
	_, err := c.Call(within(t), "p", "hang", nil, client.WithTensors(x), client.WithTimeout(20*time.Millisecond))
	wantReason(t, err, "DEADLINE_EXCEEDED/deadline")
	a.Free(x)
	if all, err := a.Tensor("all", "uint8", 1<<20); err == nil {
		a.Free(all)
		t.Error("memory that a worker has was handed out")
	}
	eventually(t, "the hanging worker to be killed, and the release", func() bool {
		all, err := a.Tensor("all", "uint8", 1<<20)
		if err == nil {
			a.Free(all)
		}
		return err == nil
	})
	if _, err := c.Call(within(t), "p", "checksum", nil, client.WithTensors(tensor(t, a, "x", 100))); err != nil {
		t.Errorf("the next worker: %v", err)
	}
}

// Workers that take others' places are told of what there is.
func TestArenaWhenWorkersAreReplaced(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	a := h.arena(c, 1<<20)
	x, slot := tensor(t, a, "x", 100_000), tensor(t, a, "y", 100_000)
	for range 3 {
		r, err := c.Call(within(t), "p", "invert", nil, client.WithTensors(x), client.WithOutputs(slot))
		if err != nil {
			t.Fatal(err)
		}
		if y := r.Tensor("y"); &y.Data[0] != &slot.Data[0] || !inverted(y.Data) {
			t.Error("a result is wrong")
		}
		clear(slot.Data)
		if _, err := c.Call(within(t), "ringmaster", "restart", map[string]string{"pool": "p"}); err != nil {
			t.Fatal(err)
		}
	}
}

// Closing an arena with a call in it waits for the worker, and gives the memory back.
func TestArenaClosedInMidCall(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	a := h.arena(c, 1<<20)
	dir := t.TempDir()
	begun, until := filepath.Join(dir, "begun"), filepath.Join(dir, "until")
	x := tensor(t, a, "x", 100_000)
	ended := make(chan error, 1)
	go func() {
		_, err := c.Call(within(t), "p", "late", map[string]string{"begun": begun, "until": until}, client.WithTensors(x))
		ended <- err
	}()
	eventually(t, "the worker to have it", func() bool { _, err := os.Stat(begun); return err == nil })
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if h.store.Usage().Regions != 1 {
		t.Error("an arena in use is gone")
	}
	if err := os.WriteFile(until, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	h.lent(0)
	if _, err := a.Tensor("x", "uint8", 1); err == nil {
		t.Error("a closed arena gives tensors")
	}
}

// borrow is the main of a client in a process of its own: it has a worker begin, says so, and waits to be killed.
func borrow(args []string) {
	ctx := context.Background()
	c, err := client.Dial(ctx, client.WithAddress(args[0]))
	if err != nil {
		panic(err)
	}
	a, err := c.Arena(ctx, 4<<20)
	if err != nil {
		panic(err)
	}
	x, err := a.Tensor("x", "uint8", 1<<20)
	if err != nil {
		panic(err)
	}
	_, err = c.Call(ctx, "p", "late", map[string]string{"begun": args[1], "until": args[2]}, client.WithTensors(x))
	panic(err)
}

// A client that is killed leaves nothing: what it had comes back when its worker has finished.
func TestArenaOfAClientThatIsKilled(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	dir := t.TempDir()
	begun, until := filepath.Join(dir, "begun"), filepath.Join(dir, "until")
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(executable, "borrower", h.path, begun, until)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker to have it", func() bool { _, err := os.Stat(begun); return err == nil })
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	c := h.dial()
	if _, err := c.Call(within(t), "p", "echo", nil); err != nil {
		t.Fatal(err)
	}
	if used := h.store.Usage(); used.Regions != 1 || used.Bytes != 4<<20 {
		t.Errorf("while the worker still has it: %+v", used)
	}
	if err := os.WriteFile(until, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.lent(0)
	eventually(t, "the worker to unmap it", func() bool { return mapped(t, c) == 0 })
}

// mapped is how many arenas the only worker has mapped.
func mapped(t testing.TB, c *client.Client) int {
	t.Helper()
	var places map[string]string
	r, err := c.Call(within(t), "p", "where", nil)
	if err == nil {
		err = r.Decode(&places)
	}
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/" + places["pid"] + "/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "/memfd:ringmaster-arena")
}

func TestArenasComeAndGo(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial()
	round := func() (workers string) {
		t.Helper()
		a := h.arena(c, 256<<10)
		x := tensor(t, a, "x", 200_000)
		r, err := c.Call(within(t), "p", "where", nil, client.WithTensors(x))
		var places map[string]string
		if err == nil {
			err = r.Decode(&places)
		}
		if err != nil || !strings.HasPrefix(places["x"], "/memfd:ringmaster-arena") {
			t.Fatalf("%v, %v", places, err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		h.lent(0)
		return places["open"]
	}
	round()
	ours, theirs := openFiles(os.Getpid()), round()
	for range 300 {
		round()
	}
	if now := openFiles(os.Getpid()); now > ours {
		t.Errorf("this process had %d descriptors, now %d", ours, now)
	}
	if now := round(); now != theirs {
		t.Errorf("the worker had %s descriptors, now %s", theirs, now)
	}
	eventually(t, "the worker to unmap them", func() bool { return mapped(t, c) == 0 })
	if found, _ := filepath.Glob("/dev/shm/*ringmaster*"); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestArenaQuota(t *testing.T) {
	h := serveHouse(t, gateway.Config{Arenas: gateway.Arenas{Client: 4 << 20, Total: 6 << 20}}, pools()...)
	c := h.dial()
	a := h.arena(c, 3<<20) // 4 MiB, in whole pages of 2
	if a.Size() != 4<<20 {
		t.Errorf("it has %d bytes", a.Size())
	}
	for _, n := range []int{1, 1 << 40} {
		_, err := c.Arena(within(t), n)
		if wantReason(t, err, "RESOURCE_EXHAUSTED/arena_quota"); !strings.Contains(err.Error(), "arenas.client") {
			t.Errorf("%v names no limit", err)
		}
	}
	_, err := c.Arena(within(t), 0)
	wantReason(t, err, "INVALID_ARGUMENT/invalid_argument")
	var status supervisor.Status
	r, err := c.Call(within(t), "ringmaster", "status", nil)
	if err == nil {
		err = r.Decode(&status)
	}
	if want := (arena.Usage{Regions: 1, Bytes: 4 << 20, Limit: 6 << 20}); err != nil || status.Arenas != want {
		t.Errorf("the status says %+v, %v; want %+v", status.Arenas, err, want)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	h.lent(0)
	_ = h.arena(c, 4<<20)

	off := serveHouse(t, gateway.Config{Arenas: gateway.Arenas{Off: true}}, pools()...)
	_, err = off.dial().Arena(within(t), 1)
	wantReason(t, err, "UNIMPLEMENTED/arena")
	_, err = h.dial(client.WithRing(0)).Arena(within(t), 1)
	wantReason(t, err, "UNIMPLEMENTED/arena")
}

// A client whose connection is lost has its tensors still, and sends them like any others.
func TestArenaEndsWithItsConnection(t *testing.T) {
	h := serveHouse(t, gateway.Config{}, pools()...)
	c := h.dial(client.WithArena(0))
	a := h.arena(c, 1<<20)
	x, slot := tensor(t, a, "x", 100_000), tensor(t, a, "y", 100_000)
	h.close()
	h.open()
	eventually(t, "the arena to be lost", func() bool {
		z, err := a.Tensor("z", "uint8", 1)
		a.Free(z)
		return err != nil
	})
	r, err := c.Call(within(t), "p", "invert", nil, client.WithTensors(x), client.WithOutputs(slot))
	if err != nil {
		t.Fatal(err)
	}
	if y := r.Tensor("y"); &y.Data[0] == &slot.Data[0] || !inverted(y.Data) {
		t.Error("what a lost arena has was not sent")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	h.lent(0)
}

// Where a worker cannot do arenas, everything goes in the message, and from the second request on at once; where it is only busy, that one does.
func TestArenaThatTheWorkerCannotUse(t *testing.T) {
	for reason, named := range map[string]int{"UNIMPLEMENTED/arena": 1, "UNAVAILABLE/arena_busy": 3} {
		var mu sync.Mutex
		var refused, answered int
		s := newServer(t, func(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
			mu.Lock()
			defer mu.Unlock()
			if req.NamesArenas() {
				refused++
				code, why, _ := strings.Cut(reason, "/")
				_ = w.Fail(ipc.Errorf(ipc.Code(code), why, "no"))
				return
			}
			answered++
			echo(ctx, req, w)
		})
		c, err := client.Dial(within(t), client.WithAddress(s.path), client.WithArena(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		a, err := c.Arena(within(t), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		x, slot := tensor(t, a, "x", 100_000), tensor(t, a, "y", 10)
		for range 2 {
			r, err := c.Call(within(t), "p", "echo", nil, client.WithTensors(x), client.WithOutputs(slot))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(r.Tensor("x").Data, x.Data) {
				t.Error("another tensor comes back")
			}
			if r.Arena {
				t.Errorf("%s: the reply says that the request named an arena", reason)
			}
		}
		for _, err := range c.Stream(within(t), "p", "echo", nil, client.WithTensors(x)) {
			if err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		if refused != named || answered != 3 {
			t.Errorf("%s: %d requests named arenas, %d did not; want %d and 3", reason, refused, answered, named)
		}
		mu.Unlock()
	}
}
