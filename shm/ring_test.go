package shm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// geometries are small enough that everything that can happen happens often.
var geometries = []Geometry{
	{S2W: 4 << 10, W2S: 4 << 10, Eventfd: true, Socket: true},
	{S2W: 4 << 10, W2S: 8 << 10, MaxFrame: 64},
	{S2W: 16 << 10, W2S: 4 << 10, MaxFrame: 100},
	{S2W: 64 << 10, W2S: 64 << 10, Eventfd: true},
}

// newHeap returns a segment in Go memory, which may be damaged or destroyed by the end of the test.
func newHeap(t *testing.T, g Geometry) *Segment {
	t.Helper()
	s, err := NewHeap(g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.mem == nil {
			return
		}
		s.Shutdown()
		if err := s.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// twin returns the worker's view of a segment in Go memory, as another process would have it.
func twin(t testing.TB, supervisor *Segment) *Segment {
	t.Helper()
	worker := newSegment(supervisor.mem, supervisor.geo, false, nil)
	useDoors(t, supervisor, worker)
	if worker.socket != nil {
		t.Cleanup(func() { _ = worker.socket.file.Close() }) // nobody destroys it, and to do so twice does no harm
	}
	return worker
}

// useDoors tells a worker's view of a segment what the supervisor's has for it.
func useDoors(t testing.TB, supervisor, worker *Segment) {
	t.Helper()
	if supervisor.geo.Eventfd {
		if err := worker.UseEventfd(supervisor.event.fd); err != nil {
			t.Fatal(err)
		}
	}
	if supervisor.geo.Socket {
		fd, err := unix.FcntlInt(supervisor.Socket().Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = worker.UseSocket(fd)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// randomSize favours the sizes at which something changes.
func randomSize(rnd *rand.Rand, maxFrame, most int) int {
	var size int
	switch rnd.IntN(6) {
	case 0:
		size = 1 + rnd.IntN(40)
	case 1:
		size = maxFrame - 17 + rnd.IntN(34)
	case 2:
		size = (1+rnd.IntN(6))*maxFrame - 1 + rnd.IntN(3)
	case 3:
		size = 1 + rnd.IntN(most)
	default:
		size = 1 + rnd.IntN(maxFrame)
	}
	return min(max(size, 1), most)
}

// directions are the two rings of a segment with the ends that belong to them.
func directions(t *testing.T, g Geometry) map[string]struct {
	p *Producer
	c *Consumer
} {
	supervisor, worker := attach(t, g)
	sp, sc := supervisor.Supervisor()
	wp, wc := worker.Worker()
	return map[string]struct {
		p *Producer
		c *Consumer
	}{"s2w": {sp, wc}, "w2s": {wp, sc}}
}

// TestRingAgainstSlice sends and receives at random in one goroutine and compares with a slice of messages. Sends never have to
// wait: the sizes are chosen so that they fit.
func TestRingAgainstSlice(t *testing.T) {
	checkLeaks(t)
	for i, g := range geometries {
		for name, ring := range directions(t, g) {
			t.Run(fmt.Sprintf("%d/%s", i, name), func(t *testing.T) {
				againstSlice(t, ring.p, ring.c, rand.New(rand.NewPCG(1, uint64(i))))
			})
		}
	}
}

func againstSlice(t *testing.T, p *Producer, c *Consumer, rnd *rand.Rand) {
	type message struct {
		size int
		end  uint64
	}
	var (
		sent   []message
		got    int
		buf    []byte
		before uint64 // end of the message before
	)
	for range 5000 {
		if rnd.IntN(2) == 0 {
			// The worst that size bytes can take: full frames, the last one rounded up, one PAD.
			size := randomSize(rnd, int(p.maxFrame), int(p.capacity)/4)
			worst := uint64(0)
			for _, f := range layOut(1<<40, p.maxFrame, []int{size}) {
				worst = f.end
			}
			if worst+frameBytes(p.maxFrame)+(p.tail-c.head) <= p.capacity {
				msg := content(make([]byte, size), len(sent))
				cut := rnd.IntN(size + 1)
				end, err := p.Send(msg[:cut], nil, msg[cut:])
				if err != nil {
					t.Fatal(err)
				}
				if end < before+worst || end > before+worst+frameBytes(p.maxFrame) {
					t.Fatalf("message of %d bytes from %d on ends at %d", size, before, end)
				}
				before = end
				sent = append(sent, message{size, end})
			}
		} else if got < len(sent) {
			msg, err := c.Recv(buf, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := verify(msg, got, sent[got].size); err != nil {
				t.Fatal(err)
			}
			got++
			if rnd.IntN(2) == 0 {
				buf = msg
			}
		}
		// What the producer can tell about the messages around the last one received.
		for n := max(0, got-2); n < min(len(sent), got+2); n++ {
			if taken, err := p.Consumed(sent[n].end); err != nil || taken != (n < got) {
				t.Fatalf("Consumed(message %d) = %t, %v, but %d were received", n, taken, err, got)
			}
		}
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
	}
	frames := layOut(p.capacity, p.maxFrame, sizesOf(sent, func(m message) int { return m.size }))
	if last := frames[len(frames)-1]; last.end != p.tail || last.seq+1 != p.seq {
		t.Errorf("%d messages took %d bytes in %d frames, want %d in %d", len(sent), p.tail, p.seq, last.end, last.seq+1)
	}
	pads, fragments := 0, 0
	for _, f := range frames {
		if f.typ == typePad {
			pads++
		}
		if f.flags == flagMore {
			fragments++
		}
	}
	if pads < 10 || fragments < 10 {
		t.Errorf("only %d pads and %d fragments: the test tests too little", pads, fragments)
	}
}

func sizesOf[T any](from []T, size func(T) int) (sizes []int) {
	for _, v := range from {
		sizes = append(sizes, size(v))
	}
	return sizes
}

// TestRingConcurrently does it with both sides at once, also with messages larger than the ring, so that both sides have to wait.
func TestRingConcurrently(t *testing.T) {
	checkLeaks(t)
	for i, g := range geometries {
		for name, ring := range directions(t, g) {
			t.Run(fmt.Sprintf("%d/%s", i, name), func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(2, uint64(i)))
				sizes := make([]int, 1000)
				for n := range sizes {
					sizes[n] = randomSize(rnd, int(ring.p.maxFrame), 3*int(ring.p.capacity))
				}
				var wg sync.WaitGroup
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(3, uint64(i)))
					for n, size := range sizes {
						if _, err := ring.p.Send(content(make([]byte, size), n)); err != nil {
							t.Error(err)
							return
						}
						pause(rnd)
					}
				})
				rnd = rand.New(rand.NewPCG(4, uint64(i)))
				var buf []byte
				for n, size := range sizes {
					msg, err := ring.c.Recv(buf, 1<<20)
					if err == nil {
						err = verify(msg, n, size)
					}
					if err != nil {
						t.Fatal(err)
					}
					pause(rnd)
					buf = msg
				}
				wg.Wait()
			})
		}
	}
}

// pause now and then gives the other side time to run into a full or an empty ring.
func pause(rnd *rand.Rand) {
	if rnd.IntN(16) == 0 {
		for range rnd.IntN(2000) {
			runtime.Gosched()
		}
	}
}

// TestManySenders: messages of several goroutines do not interleave and each goroutine's keep their order.
func TestManySenders(t *testing.T) {
	checkLeaks(t)
	const senders, each = 8, 300
	ring := directions(t, Geometry{S2W: 4 << 10, W2S: 4 << 10})["w2s"]
	var wg sync.WaitGroup
	for id := range senders {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(5, uint64(id)))
			for n := range each {
				msg := content(make([]byte, 2+randomSize(rnd, 1008, 6000)), n)
				msg[0], msg[1] = byte(id), byte(n)
				if _, err := ring.p.Send(msg); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var next [senders]int
	for range senders * each {
		msg, err := ring.c.Recv(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		id := msg[0]
		if msg[1] != byte(next[id]) {
			t.Fatalf("sender %d: message %d came when %d was due", id, msg[1], byte(next[id]))
		}
		copy(msg, content(make([]byte, 2), next[id]))
		if err := verify(msg, next[id], len(msg)); err != nil {
			t.Fatal(err)
		}
		next[id]++
	}
	wg.Wait()
}

func TestSendOfNothingPanics(t *testing.T) {
	ring := directions(t, geometries[0])["s2w"]
	for _, parts := range [][][]byte{nil, {nil}, {{}, {}}} {
		mustPanic(t, "Send", func() { ring.p.Send(parts...) })
	}
	if _, err := ring.p.Send([]byte("still usable")); err != nil {
		t.Fatal(err)
	}
	mustPanic(t, "Recv", func() { ring.c.Recv(nil, 0) })
	mustPanic(t, "Consumed", func() { ring.p.Consumed(0) })
	mustPanic(t, "Consumed", func() { ring.p.Consumed(1 << 20) })
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
}

func TestRecvLimit(t *testing.T) {
	for _, test := range []struct{ size, limit int }{
		{1, 1}, {100, 100}, {101, 100}, {1008, 1007}, {5000, 5000}, {5000, 4999}, {5000, 1},
	} {
		ring := directions(t, Geometry{S2W: 32 << 10, W2S: 32 << 10, MaxFrame: 1008})["s2w"]
		if _, err := ring.p.Send(content(make([]byte, test.size), 0)); err != nil {
			t.Fatal(err)
		}
		msg, err := ring.c.Recv(nil, test.limit)
		if test.size <= test.limit {
			if err == nil {
				err = verify(msg, 0, test.size)
			}
			if err != nil {
				t.Error(err)
			}
			continue
		}
		var broken *ProtocolError
		if !errors.As(err, &broken) || broken.Ring != "s2w" {
			t.Errorf("%d bytes with limit %d: %v, want a *ProtocolError", test.size, test.limit, err)
		}
		if _, again := ring.c.Recv(nil, 1<<20); again != err {
			t.Errorf("then: %v, want the same error again", again)
		}
	}
}

// TestRecvUsesBuffer: a buffer that is large enough is used, one that is not stays as it was.
func TestRecvUsesBuffer(t *testing.T) {
	ring := directions(t, geometries[0])["s2w"]
	buf := make([]byte, 1000)
	for _, size := range []int{10, 1000, 1001} {
		if _, err := ring.p.Send(content(make([]byte, size), 0)); err != nil {
			t.Fatal(err)
		}
		msg, err := ring.c.Recv(buf, 1<<20)
		if err == nil {
			err = verify(msg, 0, size)
		}
		if err != nil {
			t.Fatal(err)
		}
		if used := unsafe.SliceData(msg) == unsafe.SliceData(buf); used != (size <= len(buf)) {
			t.Errorf("message of %d bytes: buffer used: %t", size, used)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	ring := directions(t, Geometry{S2W: 64 << 10, W2S: 64 << 10, MaxFrame: 1000})["s2w"]
	head, body, buf := make([]byte, 10), content(make([]byte, 5000), 0), make([]byte, 5010)
	for _, parts := range []int{1, 2} {
		allocs := testing.AllocsPerRun(1000, func() {
			var err error
			if parts == 1 {
				_, err = ring.p.Send(body)
			} else {
				_, err = ring.p.Send(head, body)
			}
			if err == nil {
				_, err = ring.c.Recv(buf, len(buf))
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("sending %d parts and receiving them allocates %v times", parts, allocs)
		}
	}
}

// TestShutdownUnblocks: whoever waits on this side of the segment returns, and the other side does not notice.
func TestShutdownUnblocks(t *testing.T) {
	checkLeaks(t)
	supervisor, worker := attach(t, geometries[0])
	p, c := supervisor.Supervisor()
	wp, wc := worker.Worker()
	var blocked, peer sync.WaitGroup
	for range 5 { // one waits for space, the others for the first one
		blocked.Go(func() {
			for {
				if _, err := p.Send(make([]byte, 1000)); err != nil {
					if err != ErrClosed {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	blocked.Go(func() {
		if _, err := c.Recv(nil, 1<<20); err != ErrClosed {
			t.Error(err)
		}
	})
	await(t, "the supervisor's side sleeps", func() bool { return asleep(&p.space)() && asleep(&c.items)() })
	supervisor.Shutdown()
	supervisor.Shutdown()
	blocked.Wait()
	if _, err := p.Send([]byte("late")); err != ErrClosed {
		t.Error(err)
	}
	if _, err := c.Recv(nil, 1<<20); err != ErrClosed {
		t.Error(err)
	}
	// The worker goes on until it is shut down itself.
	for range 4 {
		if _, err := wc.Recv(nil, 1<<20); err != nil {
			t.Error(err)
		}
	}
	peer.Go(func() {
		if _, err := wc.Recv(nil, 1<<20); err != ErrClosed {
			t.Error(err)
		}
	})
	if _, err := wp.Send([]byte("unheard")); err != nil {
		t.Error(err)
	}
	await(t, "the worker sleeps", asleep(&wc.items))
	worker.Shutdown()
	peer.Wait()
}

// TestCommittedBeforeShutdown: what was sent before a Shutdown is received after it, whatever the receiver was doing at that
// moment.
func TestCommittedBeforeShutdown(t *testing.T) {
	checkLeaks(t)
	rnd := rand.New(rand.NewPCG(6, 0))
	for round := range 500 {
		supervisor := newHeap(t, geometries[0])
		worker := twin(t, supervisor)
		p, c := supervisor.Supervisor()
		from, to := worker.Worker()
		closes := supervisor.Shutdown
		if round%2 == 0 {
			from, closes = p, worker.Shutdown
		} else {
			to = c
		}
		to.items.spin.enabled = rnd.IntN(2) == 0
		messages := rnd.IntN(3)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range rnd.IntN(200) {
				runtime.Gosched()
			}
			for range messages {
				from.Send([]byte("committed"))
			}
			closes()
		})
		got := 0
		var err error
		for {
			if _, err = to.Recv(nil, 100); err != nil {
				break
			}
			got++
		}
		wg.Wait()
		if got != messages || err != ErrClosed {
			t.Fatalf("received %d messages of %d, then %v", got, messages, err)
		}
	}
}

// TestShutdownEndsRecv: a peer that goes on sending does not keep Recv from ending.
func TestShutdownEndsRecv(t *testing.T) {
	supervisor, worker := attach(t, geometries[0])
	p, _ := supervisor.Supervisor()
	_, c := worker.Worker()
	send := func() {
		if _, err := p.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	send()
	worker.Shutdown()
	if _, err := c.Recv(nil, 1); err != nil {
		t.Error(err)
	}
	send()
	if _, err := c.Recv(nil, 1); err != ErrClosed {
		t.Errorf("%v, want ErrClosed", err)
	}
}

// TestShutdownInMidMessage: a message that was not committed as a whole is not delivered, not even its end that came later.
func TestShutdownInMidMessage(t *testing.T) {
	checkLeaks(t)
	supervisor, worker := attach(t, geometries[0])
	p, _ := supervisor.Supervisor()
	_, c := worker.Worker()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := p.Send(make([]byte, 50<<10)); err != ErrClosed {
			t.Error(err)
		}
	})
	await(t, "the ring is full", asleep(&p.space))
	worker.Shutdown()
	if _, err := c.Recv(nil, 1<<20); err != ErrClosed {
		t.Errorf("first: %v", err)
	}
	await(t, "the ring is full again", func() bool { return p.tailWord.Load()-p.headWord.Load() > 3000 && asleep(&p.space)() })
	if msg, err := c.Recv(nil, 1<<20); err != ErrClosed {
		t.Errorf("then: %d bytes, %v", len(msg), err)
	}
	supervisor.Shutdown()
	wg.Wait()
}

// TestPositionsWrap starts near the end of what 64 bits can count, and the frames near the end of 32.
func TestPositionsWrap(t *testing.T) {
	ring := directions(t, geometries[0])["s2w"]
	start := -ring.p.capacity * 3
	for _, word := range []*uint64{&ring.p.tail, &ring.p.head, &ring.c.tail, &ring.c.head} {
		*word = start
	}
	ring.p.tailWord.Store(start)
	ring.p.headWord.Store(start)
	ring.p.seq, ring.c.seq = 1<<32-5, 1<<32-5
	sizes := slices.Repeat([]int{1, 1000, 2500, 17}, 20)
	for n, size := range sizes {
		if _, err := ring.p.Send(content(make([]byte, size), n)); err != nil {
			t.Fatal(err)
		}
		msg, err := ring.c.Recv(nil, 1<<20)
		if err == nil {
			err = verify(msg, n, size)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if ring.p.tail > start || ring.p.seq > 1<<31 {
		t.Error("nothing wrapped")
	}
}

// TestSpinLearns is about the policy alone.
func TestSpinLearns(t *testing.T) {
	s := newSpin()
	s.enabled = true
	var rests []int // between spins in vain
	for rest := 0; len(rests) < 14; rest++ {
		if s.next() > 0 {
			rests, rest = append(rests, rest), -1
			s.learn(false)
		}
	}
	if want := []int{0, 0, 0, 0, 0, 1, 3, 7, 15, 31, 31, 31, 31, 31}; !slices.Equal(rests, want) {
		t.Errorf("it rests for %d waits, want %d", rests, want)
	}
	s.learn(true)
	if got := s.next(); got != maxSpin {
		t.Errorf("after one that paid the next may last %v, want %v", got, maxSpin)
	}
	var crowd atomic.Int32
	var pos atomic.Uint64
	var closed atomic.Bool
	s.budget, s.crowd = 0, &crowd
	crowd.Store(1 << 10)
	for range 10 {
		s.poll(&pos, 0, 1, &closed)
	}
	if s.rest != 1 {
		t.Errorf("where it may not spin it rests for %d waits, want 1", s.rest)
	}
	s.crowd, s.enabled = nil, false
	if got := s.next(); got != 0 {
		t.Errorf("on one processor the next may last %v, want 0", got)
	}
}
