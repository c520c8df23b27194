package shm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The test binary starts itself as the worker. What the worker does is its role.
const roleVariable = "RINGMASTER_SHM_TEST_ROLE"

// crashBinary is this test binary built with the tag ringcrash.
var crashBinary struct {
	once sync.Once
	dir  string // temporary; removed by TestMain
	path string
	err  error
}

// runChild plays role and returns the exit status. fd 3 is the segment, fd 4 its eventfd, if it has one; the end of stdin means that the parent is gone.
func runChild(role string) int {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	play, ok := roles[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "unknown role %q\n", role)
		return 2
	}
	s, err := open(3, 0, flagEventfd|flagSocket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if s.Geometry().Eventfd {
		if err := s.UseEventfd(4); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	if s.Geometry().Socket {
		if err := s.UseSocket(5); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	if err := play(s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var roles = map[string]func(*Segment) error{
	"echo":    echo,
	"sink":    sink,
	"send":    send,
	"receive": receive,
	"stuff":   stuff,
}

// send sends messages of the sizes in sizesVariable. It waits until its peer sleeps before each, so that each first frame has
// somebody to wake.
func send(s *Segment) error {
	p, _ := s.Worker()
	for n, size := range sizesFromEnv() {
		for p.headWord.Load() != p.tail || !willWake(&p.items) {
			runtime.Gosched()
		}
		if _, err := p.Send(content(make([]byte, size), n)); err != nil {
			return err
		}
	}
	return errors.New("survived")
}

// receive receives messages. It waits until its peer sleeps for want of space before each.
func receive(s *Segment) error {
	_, c := s.Worker()
	for range sizesFromEnv() {
		for !willWake(&c.space) {
			runtime.Gosched()
		}
		if _, err := c.Recv(nil, 1<<20); err != nil {
			return err
		}
	}
	return errors.New("survived")
}

// stuff sends messages of one full frame, more than fit.
func stuff(s *Segment) error {
	p, _ := s.Worker()
	for n := range 100 {
		if _, err := p.Send(content(make([]byte, p.maxFrame), n)); err != nil {
			return err
		}
	}
	return errors.New("survived")
}

// willWake says that the next post on s will find a sleeper.
func willWake(s *sem) bool { return s.waiters.Load() != 0 && s.count.Load() == 0 }

// sizesVariable holds the sizes of messages, separated by spaces.
const sizesVariable = "RINGMASTER_SHM_TEST_SIZES"

func sizesFromEnv() (sizes []int) {
	for _, field := range strings.Fields(os.Getenv(sizesVariable)) {
		var size int
		fmt.Sscan(field, &size)
		sizes = append(sizes, size)
	}
	return sizes
}

// echo sends back each message until an empty-handed goodbye: a message of one byte 'q'.
func echo(s *Segment) error {
	p, c := s.Worker()
	var buf []byte
	for {
		msg, err := c.Recv(buf, 64<<20)
		if err != nil {
			return err
		}
		if len(msg) == 1 && msg[0] == 'q' {
			return nil
		}
		if _, err := p.Send(msg); err != nil {
			return err
		}
		buf = msg
	}
}

// sink takes messages until the goodbye, which it sends back.
func sink(s *Segment) error {
	p, c := s.Worker()
	var buf []byte
	for {
		msg, err := c.Recv(buf, 64<<20)
		if err != nil {
			return err
		}
		if len(msg) == 1 && msg[0] == 'q' {
			_, err := p.Send(msg)
			return err
		}
		buf = msg
	}
}

// startChild starts binary (this one if empty) as a worker on s.
func startChild(t testing.TB, s *Segment, role, binary string, env ...string) *exec.Cmd {
	t.Helper()
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), append(env, roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{s.File(), s.Eventfd(), s.Socket()}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// TestTwoProcesses sends messages of all sizes to another process and back, from several goroutines.
func TestTwoProcesses(t *testing.T) {
	checkLeaks(t)
	for i, g := range geometries {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s, err := Create(g)
			if err != nil {
				t.Fatal(err)
			}
			cleanUp(t, s)
			child := startChild(t, s, "echo", "")
			p, c := s.Supervisor()
			const senders, each = 4, 100
			sizes := [senders][]int{}
			var wg sync.WaitGroup
			for id := range senders {
				rnd := rand.New(rand.NewPCG(8, uint64(id)))
				for range each {
					sizes[id] = append(sizes[id], 8+randomSize(rnd, int(p.maxFrame), 3*int(p.capacity)))
				}
				wg.Go(func() {
					for n, size := range sizes[id] {
						tag := binary.LittleEndian.AppendUint64(nil, uint64(id))
						if _, err := p.Send(tag, content(make([]byte, size), n)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			var next [senders]int
			var buf []byte
			for range senders * each {
				msg, err := c.Recv(buf, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				id := binary.LittleEndian.Uint64(msg)
				if err := verify(msg[8:], next[id], sizes[id][next[id]]); err != nil {
					t.Fatal(err)
				}
				next[id]++
				buf = msg
			}
			wg.Wait()
			if _, err := p.Send([]byte("q")); err != nil {
				t.Fatal(err)
			}
			if err := child.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKilledAnywhere kills an echoing child in the middle of its work, no matter where.
func TestKilledAnywhere(t *testing.T) {
	checkLeaks(t)
	for round := range 10 {
		s, err := Create(geometries[0])
		if err != nil {
			t.Fatal(err)
		}
		cleanUp(t, s)
		child := startChild(t, s, "echo", "")
		p, c := s.Supervisor()
		size := func(n int) int { return 1 + n*37%3000 }
		var ends []uint64
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := 0; ; n++ {
				end, err := p.Send(content(make([]byte, size(n)), n))
				if err != nil {
					if err != ErrClosed {
						t.Error(err)
					}
					return
				}
				ends = append(ends, end)
			}
		})
		echoed := 0
		receive := func() error {
			msg, err := c.Recv(nil, 1<<20)
			if err == nil {
				err = verify(msg, echoed, size(echoed))
				echoed++
			}
			return err
		}
		for range 20 + 10*round {
			if err := receive(); err != nil {
				t.Fatal(err)
			}
		}
		killed(t, child, child.Process.Kill)
		s.Shutdown()
		wg.Wait()
		for err = nil; err == nil; {
			err = receive()
		}
		if err != ErrClosed {
			t.Error(err)
		}
		if taken := consumedPrefix(t, p, ends); taken < echoed || taken > echoed+1 {
			t.Errorf("%d messages came back, %d were taken", echoed, taken)
		}
	}
}

// consumedPrefix returns how many messages the peer has taken, and makes sure that they are the first ones.
func consumedPrefix(t *testing.T, p *Producer, ends []uint64) (taken int) {
	t.Helper()
	for n, end := range ends {
		ok, err := p.Consumed(end)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue
		}
		if n != taken {
			t.Errorf("message %d was taken, message %d before it was not", n, taken)
		}
		taken++
	}
	return taken
}

// killed waits until child has died of SIGKILL. how, unless nil, makes it.
func killed(t *testing.T, child *exec.Cmd, how func() error) {
	t.Helper()
	if how != nil {
		if err := how(); err != nil {
			t.Fatal(err)
		}
	}
	err := child.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v, want SIGKILL", err)
	}
}

// hasDied reports whether child has ended. It is still to be waited for.
func hasDied(t *testing.T, child *exec.Cmd) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

// buildCrashBinary builds this test binary with the steps compiled in.
func buildCrashBinary(t *testing.T) string {
	t.Helper()
	b := &crashBinary
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "shm-crash-"); b.err != nil {
			return
		}
		b.path = filepath.Join(b.dir, "crash.test")
		if out, err := exec.Command("go", "test", "-c", "-tags", "ringcrash", "-o", b.path, ".").CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go test -c -tags ringcrash: %w\n%s", err, out)
		}
	})
	if errors.Is(b.err, exec.ErrNotFound) {
		t.Skip("the child has to be built, and there is no go command")
	}
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// startDoomed starts a child that dies at where, which has the form that RINGMASTER_CRASH_AT takes.
func startDoomed(t *testing.T, s *Segment, role, where string, sizes []int) *exec.Cmd {
	t.Helper()
	return startChild(t, s, role, buildCrashBinary(t),
		"RINGMASTER_CRASH_AT="+where, sizesVariable+"="+strings.Trim(fmt.Sprint(sizes), "[]"))
}

// forEachCrash runs test in a fresh segment.
func forEachCrash(t *testing.T, step step, nth int, ring string, test func(t *testing.T, s *Segment, where string)) {
	where := fmt.Sprintf("%s:%d:%s", step, nth, ring)
	t.Run(where, func(t *testing.T) {
		s, err := Create(geometries[0])
		if err != nil {
			t.Fatal(err)
		}
		cleanUp(t, s)
		test(t, s, where)
	})
}

var (
	singles = []int{1000, 900, 1008, 1000, 1000, 1} // each one frame, some behind a PAD
	mixed   = []int{17, 2500, 900, 5000, 1}
)

// TestKilledWhileSending kills the child at each step of sending its nth frame. The parent receives exactly what was committed.
func TestKilledWhileSending(t *testing.T) {
	checkLeaks(t)
	for _, test := range []struct {
		step  step
		nth   int
		sizes []int
	}{
		{stepS1, 1, singles}, {stepS1, 6, mixed},
		{stepS2, 1, singles}, {stepS2, 6, mixed},
		{stepS3, 1, singles}, {stepS3, 4, mixed}, {stepS3, 6, mixed},
		{stepS4, 1, singles}, {stepS4, 4, mixed}, {stepS4, 6, mixed},
		{stepS5, 1, singles}, {stepS5, 5, singles},
		{stepS6, 1, singles}, {stepS6, 6, mixed},
	} {
		forEachCrash(t, test.step, test.nth, "w2s", func(t *testing.T, s *Segment, where string) {
			p, c := s.Supervisor()
			type result struct {
				messages int
				err      error
			}
			results := make(chan result)
			go func() {
				for n := 0; ; n++ {
					msg, err := c.Recv(nil, 1<<20)
					if err == nil {
						err = verify(msg, n, test.sizes[n])
					}
					if err != nil {
						results <- result{n, err}
						return
					}
				}
			}()
			killed(t, startDoomed(t, s, "send", where, test.sizes), nil)
			s.Shutdown()
			got := <-results

			// A PAD and the frame behind it are sent as one.
			want, sent := 0, 0
			for _, f := range layOut(4096, 1008, test.sizes) {
				if f.typ == typePad {
					continue
				}
				if sent++; sent > test.nth || sent == test.nth && test.step < stepS4 {
					break
				}
				if f.last {
					want++
				}
			}
			if got.messages != want || got.err != ErrClosed {
				t.Errorf("received %d messages, then %v, want %d", got.messages, got.err, want)
			}
			if _, err := p.Send([]byte("x")); err != ErrClosed {
				t.Error(err)
			}
		})
	}
}

// TestKilledWhileReceiving kills the child at each step of receiving its nth frame. The parent knows exactly what was taken.
func TestKilledWhileReceiving(t *testing.T) {
	checkLeaks(t)
	for _, test := range []struct {
		step  step
		nth   int
		sizes []int
	}{
		{stepR1, 1, singles}, {stepR1, 7, mixed},
		{stepR2, 1, singles}, {stepR2, 7, mixed},
		{stepR3, 1, singles}, {stepR3, 4, mixed}, {stepR3, 7, mixed},
		{stepR4, 1, singles}, {stepR4, 4, mixed}, {stepR4, 7, mixed},
		{stepR5, 1, singles}, {stepR5, 1, mixed},
		{stepR6, 1, singles}, {stepR6, 7, mixed},
	} {
		forEachCrash(t, test.step, test.nth, "s2w", func(t *testing.T, s *Segment, where string) {
			p, c := s.Supervisor()
			sizes := append(append([]int(nil), test.sizes...), make([]int, 100)...) // enough to fill the ring, whatever is taken
			for i := len(test.sizes); i < len(sizes); i++ {
				sizes[i] = 1000
			}
			var ends []uint64
			sent := make(chan error)
			go func() {
				for n, size := range sizes {
					end, err := p.Send(content(make([]byte, size), n))
					if err != nil {
						sent <- err
						return
					}
					ends = append(ends, end)
				}
				sent <- nil
			}()
			killed(t, startDoomed(t, s, "receive", where, sizes), nil)
			s.Shutdown()
			if err := <-sent; err != ErrClosed {
				t.Errorf("the sender ended with %v", err)
			}

			want, received := 0, 0
			for _, f := range layOut(4096, 1008, sizes) {
				if received++; received > test.nth || received == test.nth && test.step < stepR4 {
					break
				}
				if f.last {
					want++
				}
			}
			if got := consumedPrefix(t, p, ends); got != want {
				t.Errorf("%d messages count as taken, want %d", got, want)
			}
			if _, err := c.Recv(nil, 1); err != ErrClosed {
				t.Error(err)
			}
		})
	}
}

var waitSteps = []step{stepW1, stepW2, stepW3, stepW4, stepW5}

// TestKilledWhileWaitingForMessages kills the child at each step of waiting for a message. It has taken nothing.
func TestKilledWhileWaitingForMessages(t *testing.T) {
	checkLeaks(t)
	for _, step := range waitSteps {
		forEachCrash(t, step, 1, "s2w", func(t *testing.T, s *Segment, where string) {
			p, c := s.Supervisor()
			child := startDoomed(t, s, "echo", where, nil)
			var end uint64
			answered := false
			for dead := false; !dead; { // one who finds the message before he sleeps gets no further, answers, and waits again
				await(t, "the child waits", asleep(&p.items)) // or has died waiting
				var err error
				if end, err = p.Send([]byte("anybody there?")); err != nil {
					t.Fatal(err)
				}
				await(t, "the child dies, or answers", func() bool {
					dead = hasDied(t, child)
					answered = c.Pending()
					return dead || answered
				})
				if !answered {
					break
				}
				if _, err := c.Recv(nil, 100); err != nil {
					t.Fatal(err)
				}
				await(t, "the child dies, or waits again", func() bool {
					dead = hasDied(t, child)
					return dead || asleep(&p.items)()
				})
			}
			killed(t, child, nil)
			s.Shutdown()
			if taken, err := p.Consumed(end); err != nil || taken != answered {
				t.Errorf("Consumed: %t, %v, answered: %t", taken, err, answered)
			}
			if _, err := c.Recv(nil, 1); err != ErrClosed {
				t.Error(err)
			}
		})
	}
}

// TestKilledWhileWaitingForSpace kills the child at each step of waiting for space. All that it sent is received.
func TestKilledWhileWaitingForSpace(t *testing.T) {
	checkLeaks(t)
	for _, step := range waitSteps {
		forEachCrash(t, step, 1, "w2s", func(t *testing.T, s *Segment, where string) {
			_, c := s.Supervisor()
			child := startDoomed(t, s, "stuff", where, nil)
			await(t, "the ring is full", asleep(&c.space))
			got := 0
			receive := func() error {
				msg, err := c.Recv(nil, 1<<20)
				if err == nil {
					err = verify(msg, got, 1008)
					got++
				}
				return err
			}
			fits := 4
			for dead := false; !dead; { // one who finds space before he sleeps gets no further, sends, and waits again
				tail := c.tailWord.Load()
				if err := receive(); err != nil { // wakes the child, if it still lives
					t.Fatal(err)
				}
				await(t, "the child dies, or sends and waits again", func() bool {
					dead = hasDied(t, child)
					return dead || c.tailWord.Load() != tail && asleep(&c.space)()
				})
				if c.tailWord.Load() != tail {
					fits++
				}
			}
			killed(t, child, nil)
			s.Shutdown()
			var err error
			for err == nil {
				err = receive()
			}
			if got != fits || err != ErrClosed {
				t.Errorf("received %d messages, then %v, want the %d that fit", got, err, fits)
			}
		})
	}
}
