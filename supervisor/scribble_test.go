package supervisor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// How long the hostile workers scribble, and from which seed on they count: RINGMASTER_FUZZ=5m RINGMASTER_FUZZ_SEED=123 go test ./supervisor -run TestScribblers -v
const (
	scribbleFor  = "RINGMASTER_FUZZ"
	scribbleFrom = "RINGMASTER_FUZZ_SEED"
	scribbleTime = 4 * time.Second
)

// scribbler is what makes a worker hostile: everything that it does is drawn from one seed. When it happens is not.
type scribbler struct {
	r   *rand.Rand
	mem []byte // the segment
}

// scribbling is the main of a worker that does anything at all to the segment while it serves. Each process has a seed of its own, which it says on stderr.
func scribbling() error {
	base, err := strconv.ParseUint(os.Getenv(scribbleFrom), 10, 64)
	if err != nil {
		return err
	}
	var mark string
	var n uint64
	if _, err := fmt.Sscanf(strings.ReplaceAll(os.Getenv(workerIDKey), ".", " "), "%s %d", &mark, &n); err != nil {
		return err
	}
	seed := base + n
	fmt.Fprintln(os.Stderr, "seed", seed)
	mem, err := mapSegment()
	if err != nil {
		return err
	}
	s := &scribbler{r: rand.New(rand.NewPCG(seed, 0)), mem: mem}
	if seed%2 == 0 {
		return s.babble()
	}
	go s.scribble()
	return serveTestWorker()
}

// scribble changes one thing after the other, at random moments.
func (s *scribbler) scribble() {
	patience := time.Duration(s.r.IntN(200)) * time.Millisecond
	for {
		<-time.After(patience)
		for range 1 << s.r.IntN(4) {
			s.change()
		}
		patience = time.Duration(s.r.IntN(1<<s.r.IntN(16))) * time.Microsecond
	}
}

// change changes something.
func (s *scribbler) change() {
	ring := 0x1000 + 0x400*s.r.IntN(2)
	switch s.r.IntN(8) {
	case 0, 1: // a position
		off := ring + 0x80*s.r.IntN(2)
		binary.LittleEndian.PutUint64(s.mem[off:], s.position(binary.LittleEndian.Uint64(s.mem[off:])))
	case 2: // a semaphore
		off := ring + 0x100 + 0x80*s.r.IntN(2) + 4*s.r.IntN(2)
		binary.LittleEndian.PutUint32(s.mem[off:], uint32(s.position(uint64(binary.LittleEndian.Uint32(s.mem[off:])))))
	case 3: // what the two say of themselves
		s.mem[0x80+s.r.IntN(0x180)] = byte(s.r.Uint32())
	case 4: // the geometry
		s.mem[s.r.IntN(0x80)] = byte(s.r.Uint32())
	case 5: // anything in the headers
		s.mem[s.r.IntN(0x2000)] ^= 1 << s.r.IntN(8)
	default: // a frame, its header or what it carries, near where the ring is used
		near := binary.LittleEndian.Uint64(s.mem[ring:]) - uint64(s.r.IntN(1<<(4+s.r.IntN(10))))
		begin := 0x2000 + (ring-0x1000)/0x400*ringCapacity
		off := begin + int(near%ringCapacity)
		s.mem[off] = byte(s.r.Uint32()) >> s.r.IntN(8)
	}
	v := &villain{mem: s.mem}
	v.wake()
}

// position returns a value that is near the old one, or is not.
func (s *scribbler) position(old uint64) uint64 {
	switch s.r.IntN(8) {
	case 0:
		return 0
	case 1:
		return old + 16*uint64(s.r.IntN(8))
	case 2:
		return old - 16*uint64(s.r.IntN(8))
	case 3:
		return old + 8
	case 4:
		return old + ringCapacity
	case 5:
		return old ^ 1<<s.r.IntN(64)
	case 6:
		return ^uint64(0) - uint64(s.r.IntN(32))
	}
	return s.r.Uint64() >> s.r.IntN(64)
}

// babble answers in valid frames whose messages are valid, almost valid, or noise.
func (s *scribbler) babble() error {
	seg, err := shm.Open(ipc.SegmentFD)
	if err != nil {
		return err
	}
	if err := seg.UseEventfd(ipc.EventFD); err != nil {
		return err
	}
	v := &villain{ring: ipc.WorkerRing(seg, 1<<30), mem: s.mem}
	fmt.Println("1|1|unix|fd:4|netrpc")
	if err := ipc.SendHello(v.ring, ipc.Hello{SDK: "villain", Actions: []ipc.Action{{Name: "echo"}}}); err != nil {
		return err
	}
	for {
		b, err := v.ring.Recv()
		if err != nil {
			return err
		}
		m, err := ipc.Decode(b)
		if err != nil {
			return err
		}
		req, ok := m.(*ipc.Request)
		if !ok {
			v.send(s.mutated(b)...)
			continue
		}
		id := binary.BigEndian.AppendUint64([]byte{0xcf}, req.ID)
		chunk := slices.Concat([]byte{0x92, 2}, id)
		end := slices.Concat([]byte{0x96, 2}, id, []byte{1, 0x80, 0xa1, 'x', 0x90})
		failure := slices.Concat([]byte{0x97, 2}, id, []byte{1, 0x80, 0xc0, 0x90, 0x95, 0xa1, 'X', 0xa1, 'y', 0xa1, 'z', 0, 0x80})
		for _, message := range [][]byte{chunk, b, end, failure} {
			if s.r.IntN(3) == 0 {
				continue
			}
			if s.r.IntN(4) == 0 {
				message = s.mutated(message)
			}
			v.send(message...)
		}
		v.send(end...)
	}
}

// mutated returns a message with a few things changed; it is not empty.
func (s *scribbler) mutated(message []byte) []byte {
	m := slices.Clone(message)
	for range 1 + s.r.IntN(3) {
		i := s.r.IntN(len(m))
		switch s.r.IntN(5) {
		case 0:
			m[i] = byte(s.r.Uint32())
		case 1:
			m[i] ^= 1 << s.r.IntN(8)
		case 2:
			m = m[:i+1]
		case 3:
			m = slices.Insert(m, i, byte(s.r.Uint32()))
		case 4:
			m = append(m, m[i:]...)
		}
	}
	return m
}

// Whatever workers do to the memory that they share with the supervisor, every request has one outcome in time, other pools do not notice, and the supervisor does not grow.
func TestScribblers(t *testing.T) {
	duration, seed := scribbleTime, uint64(rand.Uint32())
	if text := os.Getenv(scribbleFor); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s=%s: %v", scribbleFor, text, err)
		}
	}
	if text := os.Getenv(scribbleFrom); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s=%s: %v", scribbleFrom, text, err)
		}
	}
	t.Logf("%s=%d", scribbleFrom, seed)
	cfg := PoolConfig{Name: "test", Command: []string{testBinary(t), "hostile", "anything"}, Workers: 2, Concurrency: 4, Env: map[string]string{scribbleFrom: fmt.Sprint(seed)}}
	h := runWith(t, func(s *Supervisor) {
		s.backoffMax, s.hungGrace, s.endGrace = time.Millisecond, time.Second, 100*time.Millisecond // the other pool's worker is slow, too, where the machine is busy
		s.handshakeTimeout = 5 * time.Second
	}, cfg, other())
	h.allReady("other")
	pid := h.worker("other", 0).PID

	tr := &traffic{h: h, causes: map[string]int{}, outcomes: map[string]int{}}
	tr.run(t, duration/2)
	before, rssBefore := heldNow(t)
	tr.run(t, duration/2)
	after, rssAfter := heldNow(t)
	t.Logf("ends of workers: %v", tr.causes)
	t.Logf("outcomes of requests: %v", tr.outcomes)
	t.Logf("before %+v, %d MiB; after %+v, %d MiB", before, rssBefore>>20, after, rssAfter>>20)
	// Workers are being replaced at every moment, so a few of everything may come and go.
	if after.fds > before.fds+20 || after.goroutines > before.goroutines+40 || after.maps > before.maps+100 || after.threads > before.threads+20 {
		t.Error("the supervisor has grown")
	}
	if rssAfter > rssBefore+64<<20 {
		t.Error("the supervisor's memory has grown")
	}
	if w := h.worker("other", 0); w.PID != pid || w.State != "ready" {
		t.Errorf("the other pool's worker: %+v", w)
	}
	if tr.causes["protocol"] == 0 {
		t.Error("no worker was discarded for breaking the protocol")
	}
}

// heldNow is what the supervisor's process holds, its memory included, once what can be given back is.
func heldNow(t *testing.T) (holdings, uint64) {
	runtime.GC()
	debug.FreeOSMemory()
	return holds(t), residentBytes(os.Getpid())
}

// traffic is requests to the hostile pool and to the other one.
type traffic struct {
	h *harness

	mu       sync.Mutex
	causes   map[string]int // of workers' ends; guarded by mu
	outcomes map[string]int // of requests; guarded by mu
}

// honest are the ways in which a worker may be said to have ended, whatever it did.
var honest = []string{"protocol", "hung", "exited", "signal", "handshake", "load_timeout"}

func (tr *traffic) run(t *testing.T, duration time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	var calls atomic.Int64
	for i := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), uint64(duration)))
			for ctx.Err() == nil {
				tr.count(&tr.outcomes, tr.one(t, r))
				calls.Add(1)
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			_, err := tr.h.call(ctx, request(t, "other", "echo", "hello"))
			cancel()
			if err != nil {
				t.Errorf("a request to another pool: %v", err)
				return
			}
		}
	})
	wg.Go(func() {
		seen := map[*Exit]bool{}
		poll := time.NewTicker(time.Millisecond)
		defer poll.Stop()
		for ctx.Err() == nil {
			<-poll.C
			for slot := range 2 {
				exit := tr.h.worker("test", slot).LastExit
				if exit == nil || seen[exit] {
					continue
				}
				seen[exit] = true
				tr.count(&tr.causes, exit.Cause)
				if !slices.Contains(honest, exit.Cause) {
					t.Errorf("a worker's end: %+v", exit)
				}
			}
		}
	})
}

func (tr *traffic) count(counts *map[string]int, what string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	(*counts)[what]++
}

// one makes one request, takes its replies to the end, and says how it ended.
func (tr *traffic) one(t *testing.T, r *rand.Rand) string {
	const timeout, grace = 300 * time.Millisecond, 10 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), timeout+grace)
	defer cancel()
	body := make([]byte, 8+r.IntN(1<<r.IntN(21)))
	binary.LittleEndian.PutUint64(body, rand.Uint64()) // one that has ended workers before is refused
	req := request(t, "test", "echo", body)
	req.Timeout, req.Credit = timeout, uint32(1+r.IntN(4))
	replies, err := tr.h.Call(ctx, req)
	if err == nil {
		if r.IntN(8) == 0 {
			replies.Cancel("cancelled")
			return "cancelled"
		}
		_, err = last(ctx, replies)
		if _, again := replies.Recv(ctx); !errors.Is(again, io.EOF) {
			t.Errorf("after the end, %v: %v", err, again)
		}
	}
	if ctx.Err() != nil {
		t.Errorf("a request with a timeout of %v had not ended after %v", timeout, timeout+grace)
	}
	if err == nil {
		return "answered"
	}
	return ipc.AsError(err).Reason
}

// Scribblers draw the same from the same seed.
func TestScribblersSeed(t *testing.T) {
	draw := func() []byte {
		s := &scribbler{r: rand.New(rand.NewPCG(7, 0)), mem: make([]byte, 0x2000+2*ringCapacity)}
		for range 1000 {
			s.change()
		}
		return s.mem
	}
	if !slices.Equal(draw(), draw()) {
		t.Error("they differ")
	}
}
