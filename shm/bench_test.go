package shm

import (
	"io"
	"net"
	"os"
	"sync"
	"testing"

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
