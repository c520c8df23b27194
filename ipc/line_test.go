package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/shm"
)

// What is too large for a client's ring is skipped and answered; four times as much ends the connection.
func TestAClientsRequestThatIsTooLarge(t *testing.T) {
	onCharged(t, 100<<10, func(t *testing.T, p pair) {
		s := serve(t, p.answering, ServeConfig{}, echoAll)
		unbounded(p.asking)
		say(t, p.asking, &Request{ID: 1, Context: make([]byte, 300<<10)})
		hearError(t, p.asking, 1, ResourceExhausted, "too_large")
		say(t, p.asking, &Request{ID: 2})
		if r := hear(t, p.asking).(*Reply); r.ID != 2 || r.Err != nil {
			t.Errorf("the request after it: %+v", r)
		}
		_, _ = p.asking.Send(encodeMessage(&Request{ID: 3, Context: make([]byte, 500<<10)}))
		wantError(t, s.wait(), DataLoss, "protocol")
	})
}

// unbounded lets a transport send what its peer does not want.
func unbounded(tr Transport) {
	switch tr := tr.(type) {
	case *Socket:
		tr.SetLimit(1 << 30)
	case *Ring:
		tr.limit = 1 << 30
	}
}

// A client that stops in the midst of a message is told why, and loses the connection.
func TestAClientThatStopsHalfWayThroughARing(t *testing.T) {
	checkLeaks(t)
	client, tr := rawClient(t, 20*time.Millisecond)
	s := serve(t, tr, ServeConfig{}, echoAll)
	client.frame(make([]byte, client.g.MaxFrame), 1)
	wantError(t, s.wait(), DeadlineExceeded, "deadline")
	if got := client.published(0x1000); got == 0 {
		t.Error("the client was not told why")
	}
}

// A client that breaks the ring's protocol loses its connection.
func TestAClientThatBreaksItsRing(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*scribbler)
	}{
		{"a wrong guard", func(c *scribbler) { c.salt = 1; c.frame([]byte{1}, 0) }},
		{"a tail from nowhere", func(c *scribbler) { c.publish(0x1400, 1<<40) }},
		{"a head from nowhere", func(c *scribbler) {
			c.publish(0x1080, 1<<40)
			for range 8 { // an answer finds out when it wants their space
				body := append([]byte{0xc5, 900 >> 8, 900 & 0xff}, make([]byte, 900)...)
				c.frame(encodeMessage(&Request{ID: uint64(c.seq) + 1, Body: body}), 0)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			client, tr := rawClient(t, patience)
			s := serve(t, tr, ServeConfig{}, echoAll)
			c.spoil(client)
			if err := s.wait(); err == nil {
				t.Error("Serve goes on")
			}
			if _, err := client.conn.Read(make([]byte, 100)); err == nil {
				_, err = client.conn.Read(make([]byte, 100))
				if err == nil {
					t.Error("the line is still open")
				}
			}
		})
	}
}

// scribbler is a client that writes what it likes into its segment.
type scribbler struct {
	t    *testing.T
	conn net.Conn
	g    shm.Geometry
	mem  []byte
	salt uint32
	tail uint64
	seq  uint32
}

// rawClient makes a server's ring and a client beside it that has no code of ours.
func rawClient(t *testing.T, readTimeout time.Duration) (*scribbler, *Ring) {
	t.Helper()
	a, b := connPair(t)
	seg, err := shm.Create(shm.Geometry{S2W: 4 << 10, W2S: 16 << 10, Bell: true})
	if err != nil {
		t.Fatal(err)
	}
	g := seg.Geometry()
	mem, err := unix.Mmap(int(seg.File().Fd()), 0, 0x2000+int(g.S2W+g.W2S), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	ring := ServerRing(seg, NewSocket(b, 1<<20, patience), readTimeout, patience)
	t.Cleanup(func() {
		_ = ring.Close()
		if err := ring.Free(); err != nil {
			t.Error(err)
		}
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	return &scribbler{t: t, conn: a, g: g, mem: mem}, ring
}

// frame sends a DATA frame with these flags.
func (c *scribbler) frame(payload []byte, flags uint32) {
	le := binary.LittleEndian
	at := c.mem[0x2000+c.g.S2W+c.tail:]
	size := uint32(len(payload))
	le.PutUint32(at, size)
	le.PutUint32(at[4:], 1|flags<<16)
	le.PutUint32(at[8:], c.seq)
	le.PutUint32(at[12:], 0x5AFEC0DE^size^(1|flags<<16)^c.seq^uint32(c.g.Incarnation)^c.salt)
	copy(at[16:], payload)
	c.seq++
	c.tail += 16 + uint64(size+15)&^15
	c.publish(0x1400, c.tail)
}

// publish writes a position and rings. A server that looks before it hears the bell, and hangs up at what it sees, need not hear it.
func (c *scribbler) publish(at int, position uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&c.mem[at])), position)
	if _, err := c.conn.Write([]byte{shm.RungItems | shm.RungSpace}); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		c.t.Error(err)
	}
}

func (c *scribbler) published(at int) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&c.mem[at])))
}

// A client that takes nothing loses the connection when its ring has been full for a while.
func TestAClientThatDoesNotReadItsRing(t *testing.T) {
	checkLeaks(t)
	p := clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	answering := p.answering.(*Ring)
	answering.out.SetPatience(20 * time.Millisecond)
	var err error
	for err == nil {
		_, err = answering.Send(make([]byte, 10<<10))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := answering.Send([]byte{1}); err == nil {
		t.Error("a message was sent after half of one")
	}
	for err = nil; err == nil; { // what came before is still there, and then the line's end is noticed
		_, err = p.asking.Recv()
	}
	if !isEOF(err) {
		t.Errorf("the client's end: %v", err)
	}
}

// Whatever comes over the line, at most the rings are looked at; and its end is the rings' end.
func TestNoiseOnTheLine(t *testing.T) {
	checkLeaks(t)
	p := clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
	s := serve(t, p.answering, ServeConfig{}, echoAll)
	c := ask(t, p.asking, Events{})
	client := p.asking.(*Ring).line
	for i := range 50 {
		if _, err := client.sock.conn.Write(bytes.Repeat([]byte{byte(i), 0xff}, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := c.Ping(bounded(t)); err != nil {
			t.Fatal(err)
		}
	}
	_ = client.sock.Close()
	if err := s.wait(); !isEOF(err) {
		t.Errorf("Serve: %v", err)
	}
	if err := c.wait(); !isEOF(err) {
		t.Errorf("Run: %v", err)
	}
}

// The poller tells of a byte and of the end of file behind it only once.
func TestALineThatEndsWithItsLastBell(t *testing.T) {
	checkLeaks(t)
	for i := range 100 {
		p := clientRingPair(t, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
		dies, sees := p.asking.(*Ring), p.answering.(*Ring)
		if i%2 == 1 {
			dies, sees = sees, dies
		}
		dies.line.Ring(shm.RungItems)
		_ = dies.Close()
		await(t, sees.line.ended, "the end of the line")
	}
}

// A peer that never reads what is rung does not block who rings.
func TestALineThatIsFull(t *testing.T) {
	checkLeaks(t)
	a, _ := connPair(t)
	s := NewSocket(a, 1<<10, 0)
	l := newLine(s)
	for range 100_000 {
		l.Ring(shm.RungItems)
	}
}

// A client that was promised rings and gets none, or others than it asked for, does not go on.
func TestRingsThatAreNotAsPromised(t *testing.T) {
	for _, c := range []struct {
		name string
		g    *shm.Geometry
	}{
		{"none", nil},
		{"no bells", &shm.Geometry{S2W: 64 << 10, W2S: 64 << 10}},
		{"larger than asked for", &shm.Geometry{S2W: 64 << 10, W2S: 128 << 10, Bell: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			a, b := connPair(t)
			answered := make(chan error, 1)
			go func() {
				s := NewSocket(b, MaxHello, patience)
				theirs, err := ReadHello(s)
				if err == nil && c.g == nil {
					err = send(s, func(e *encoder) { e.hello(&Hello{MinVersion: 1, MaxVersion: 1, Ring: 64 << 10}) })
				} else if err == nil {
					seg, e := shm.Create(*c.g)
					if e != nil {
						t.Error(e)
					}
					err = AnswerHello(s, theirs, Hello{}, seg)
					seg.Shutdown()
					_ = seg.Destroy()
				}
				answered <- err
			}()
			_, ring, err := ClientHelloRing(NewSocket(a, DefaultMaxMessage, patience), "test", 64<<10)
			if ring != nil {
				t.Error("got rings")
			}
			wantError(t, err, DataLoss, "protocol")
			if err := await(t, answered, "the server"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A client whose rings come without what wakes their sides, or with something else, does not go on, and keeps none of it.
func TestDoorsThatAreNone(t *testing.T) {
	g := shm.Geometry{S2W: 64 << 10, W2S: 64 << 10, Bell: true, Eventfd: true, Socket: true}
	for name, rights := range map[string]func(seg *shm.Segment, pipe int) []int{
		"none":       func(seg *shm.Segment, _ int) []int { return []int{fdOf(t, seg.File())} },
		"no eventfd": func(seg *shm.Segment, pipe int) []int { return []int{fdOf(t, seg.File()), pipe, fdOf(t, seg.Socket())} },
		"no socket":  func(seg *shm.Segment, _ int) []int { return []int{fdOf(t, seg.File()), fdOf(t, seg.Eventfd())} },
		"a pipe for a socket": func(seg *shm.Segment, pipe int) []int {
			return []int{fdOf(t, seg.File()), fdOf(t, seg.Eventfd()), pipe}
		},
		"more than is foreseen": func(seg *shm.Segment, pipe int) []int {
			return []int{fdOf(t, seg.File()), pipe, pipe, pipe, pipe, pipe}
		},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			a, b := connPair(t)
			seg, err := shm.Create(g)
			if err != nil {
				t.Fatal(err)
			}
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			before := openDescriptors(t)
			frame := rawFrame(encodeMessage(&Hello{MinVersion: 1, MaxVersion: 1, Ring: g.S2W}))
			if _, _, err := b.(*net.UnixConn).WriteMsgUnix(frame, unix.UnixRights(rights(seg, pipe[1])...), nil); err != nil {
				t.Fatal(err)
			}
			_, ring, err := ClientHelloRing(NewSocket(a, DefaultMaxMessage, patience), "test", g.S2W)
			if ring != nil {
				t.Error("got rings")
			}
			wantError(t, err, DataLoss, "protocol")
			if after := openDescriptors(t); after != before {
				t.Errorf("%d descriptors are open, %d were before", after, before)
			}
			for _, fd := range pipe {
				_ = unix.Close(fd)
			}
			seg.Shutdown()
			if err := seg.Destroy(); err != nil {
				t.Error(err)
			}
		})
	}
}

func fdOf(t *testing.T, file *os.File) int {
	t.Helper()
	fd, err := descriptor(file)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A server that knows nothing of rings, or has none to give, leaves the client with the socket.
func TestAServerWithoutRings(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	answered := make(chan error, 1)
	server := NewSocket(b, MaxHello, patience)
	go func() {
		_, err := ServerHello(server, Hello{MaxMessage: 1 << 20})
		answered <- err
	}()
	client := NewSocket(a, DefaultMaxMessage, patience)
	hello, ring, err := ClientHelloRing(client, "test", 64<<10)
	if err != nil || ring != nil || hello.MaxMessage != 1<<20 {
		t.Fatalf("%+v, %v, %v", hello, ring, err)
	}
	if err := await(t, answered, "the server's hello"); err != nil {
		t.Fatal(err)
	}
	serve(t, server, ServeConfig{}, echoAll)
	if err := ask(t, client, Events{}).Ping(bounded(t)); err != nil {
		t.Error(err)
	}
}

// Descriptors that come uninvited are closed.
func TestUninvitedDescriptors(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	go func() {
		frame := rawFrame(encodeMessage(&Hello{MinVersion: 1, MaxVersion: 1}))
		if _, _, err := b.(*net.UnixConn).WriteMsgUnix(frame, unix.UnixRights(pipe[0], pipe[0], pipe[0]), nil); err != nil {
			t.Error(err)
		}
		_ = unix.Close(pipe[0])
	}()
	if _, ring, err := ClientHelloRing(NewSocket(a, DefaultMaxMessage, patience), "test", 64<<10); err != nil || ring != nil {
		t.Errorf("%v, %v", ring, err)
	}
	// When the last reader is gone, and not before, a write fails.
	deadline := time.Now().Add(patience)
	for {
		_, err := unix.Write(pipe[1], []byte{1})
		if errors.Is(err, unix.EPIPE) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a descriptor is still open")
		}
	}
	_ = unix.Close(pipe[1])
}

// A client's ring that is freed leaves no descriptor behind, on either side.
func TestFreedRingsLeaveNoDescriptors(t *testing.T) {
	for _, doors := range []uint64{0, DoorEventfd, DoorSocket, DoorEventfd | DoorSocket} {
		before := openDescriptors(t)
		t.Run(fmt.Sprint(doors), func(t *testing.T) {
			p := helloRingPair(t, pairOptions{askingLimit: 1 << 10, answeringLimit: 1 << 10}, doors)
			if _, err := p.asking.Send([]byte("x")); err != nil {
				t.Error(err)
			}
			if got, err := p.answering.Recv(); err != nil || string(got) != "x" {
				t.Errorf("%q, %v", got, err)
			}
		})
		if after := openDescriptors(t); after != before {
			t.Errorf("doors %d: %d descriptors are open, %d were before", doors, after, before)
		}
	}
}
