package shm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var benchSizes = []struct {
	name string
	size int
}{{"64B", 64}, {"64KiB", 64 << 10}}

// BenchmarkPingPong is one message there and back, one at a time. "socket" is the plain control: the same bytes over a Unix
// stream socket.
func BenchmarkPingPong(b *testing.B) {
	for _, size := range benchSizes {
		b.Run("goroutines/"+size.name, func(b *testing.B) {
			s, w := attach(b, Geometry{})
			var wg sync.WaitGroup
			wg.Go(func() { echo(w) })
			pingPong(b, s, size.size)
			wg.Wait()
		})
		b.Run("processes/"+size.name, func(b *testing.B) {
			s, err := Create(Geometry{})
			if err != nil {
				b.Fatal(err)
			}
			cleanUp(b, s)
			child := startChild(b, s, "echo", "")
			pingPong(b, s, size.size)
			if err := child.Wait(); err != nil {
				b.Fatal(err)
			}
		})
		b.Run("socket/"+size.name, func(b *testing.B) { pingPongSocket(b, size.size) })
	}
}

func pingPong(b *testing.B, s *Segment, size int) {
	p, c := s.Supervisor()
	msg := content(make([]byte, size), 0)
	buf := make([]byte, size)
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Send(msg); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Recv(buf, size); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := p.Send([]byte("q")); err != nil {
		b.Fatal(err)
	}
}

func pingPongSocket(b *testing.B, size int) {
	near, far := socketPair(b)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(far, buf); err != nil {
				return
			}
			if _, err := far.Write(buf); err != nil {
				return
			}
		}
	})
	buf := make([]byte, size)
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := near.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(near, buf); err != nil {
			b.Fatal(err)
		}
	}
	near.Close()
	wg.Wait()
}

func socketPair(b *testing.B) (near, far net.Conn) {
	b.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conns[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

// BenchmarkFanIn is the supervisor's shape: many callers share one producer, one goroutine takes the replies and wakes the caller
// concerned.
func BenchmarkFanIn(b *testing.B) {
	const callers = 64
	for _, size := range benchSizes {
		b.Run("processes/"+size.name, func(b *testing.B) {
			s, err := Create(Geometry{S2W: 8 << 20, W2S: 8 << 20})
			if err != nil {
				b.Fatal(err)
			}
			cleanUp(b, s)
			child := startChild(b, s, "echo", "")
			fanIn(b, s, callers, size.size)
			if err := child.Wait(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func fanIn(b *testing.B, s *Segment, callers, size int) {
	p, c := s.Supervisor()
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	b.ResetTimer()
	answered := make([]chan struct{}, callers)
	var senders, receiver sync.WaitGroup
	for i := range answered {
		answered[i] = make(chan struct{}, 1)
		senders.Go(func() {
			msg := make([]byte, size)
			msg[0], msg[1] = 'r', byte(i)
			for n := i; n < b.N; n += callers {
				if _, err := p.Send(msg); err != nil {
					b.Error(err)
					return
				}
				<-answered[i]
			}
		})
	}
	receiver.Go(func() {
		buf := make([]byte, size)
		for range b.N {
			msg, err := c.Recv(buf, size)
			if err != nil {
				b.Error(err)
				return
			}
			answered[msg[1]] <- struct{}{}
		}
	})
	senders.Wait()
	receiver.Wait()
	b.StopTimer()
	if _, err := p.Send([]byte("q")); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSenders is goroutines that share a producer, and copy while they hold its lock. In "taken" a process takes what they send. In "filling" nobody does while they send what fits, so that each of two
// has a processor; only that is in ns/message. "control" is the same copies without a ring and a lock.
func BenchmarkSenders(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 16 << 10, 64 << 10, 256 << 10} {
		for _, senders := range []int{1, 2, 8} {
			b.Run(fmt.Sprintf("taken/%dB/%d", size, senders), func(b *testing.B) { taken(b, size, senders) })
			b.Run(fmt.Sprintf("filling/%dB/%d", size, senders), func(b *testing.B) { filling(b, size, senders) })
			b.Run(fmt.Sprintf("control/%dB/%d", size, senders), func(b *testing.B) { control(b, size, senders) })
		}
	}
}

func taken(b *testing.B, size, senders int) {
	s, err := Create(Geometry{})
	if err != nil {
		b.Fatal(err)
	}
	cleanUp(b, s)
	child := startChild(b, s, "sink", "")
	p, c := s.Supervisor()
	send := func(n int, msg []byte) {
		for range n {
			if _, err := p.Send(msg); err != nil {
				b.Error(err)
				return
			}
		}
	}
	msg := content(make([]byte, size), 0)
	send(64, msg) // then the child has started, and both have touched the ring
	b.SetBytes(int64(size))
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() { send((b.N+i)/senders, msg) })
	}
	wg.Wait()
	send(1, []byte("q"))
	if _, err := c.Recv(nil, 1); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if err := child.Wait(); err != nil {
		b.Fatal(err)
	}
}

func filling(b *testing.B, size, senders int) {
	s, w := attach(b, Geometry{})
	p, _ := s.Supervisor()
	_, c := w.Worker()
	inRounds(b, size, senders, func(msg []byte, _ int) {
		if _, err := p.Send(msg); err != nil {
			b.Error(err)
		}
	}, func() {
		var dropped *DroppedError
		if _, err := c.RecvIf(nil, size, func([]byte, int) bool { return false }); !errors.As(err, &dropped) {
			b.Fatal(err)
		}
	})
}

func control(b *testing.B, size, senders int) {
	to := make([]byte, 3<<20)
	inRounds(b, size, senders, func(msg []byte, n int) { copy(to[n*size:], msg) }, func() {})
}

// inRounds has senders send as much as surely fits, and takes it, again and again. n counts the messages of a round.
func inRounds(b *testing.B, size, senders int, send func(msg []byte, n int), take func()) {
	each := min(3<<20/size, 64) / senders
	msg := content(make([]byte, size), 0)
	var took time.Duration
	sent := 0
	for ; sent < b.N; sent += senders * each {
		start := time.Now()
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				for n := range each {
					send(msg, i*each+n)
				}
			})
		}
		wg.Wait()
		took += time.Since(start)
		for range senders * each {
			take()
		}
	}
	b.ReportMetric(float64(took)/float64(sent), "ns/message")
}
