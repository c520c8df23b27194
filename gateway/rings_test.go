package gateway

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestRingCapacity(t *testing.T) {
	const gib, mib = 1 << 30, 1 << 20
	for _, c := range []struct {
		asked        uint64
		memory, held int64
		want         uint64
	}{
		{1 * mib, 4 * gib, 0, 1 * mib},
		{1*mib + 1, 4 * gib, 0, 1 * mib},
		{64 * mib, 4 * gib, 0, maxRing},
		{minRing, 4 * gib, 0, minRing},
		{minRing - 1, 4 * gib, 0, 0},
		{1 << 63, 4 * gib, 0, maxRing},
		{1 * mib, 256 * mib, 32 * mib, 1 * mib},
		{1 * mib, 256 * mib, 33 * mib, 512 << 10},
		{1 * mib, 256 * mib, 62 * mib, minRing},
		{1 * mib, 256 * mib, 63 * mib, 0},
		{1 * mib, 256 * mib, 65 * mib, 0},
		{1 * mib, 16 * mib, 0, 128 << 10},
	} {
		if got := ringCapacity(c.asked, c.memory, c.held); got != c.want {
			t.Errorf("%d asked, %d of %d held: %d, want %d", c.asked, c.held, c.memory, got, c.want)
		}
	}
}

// segments counts the rings that are mapped in this process.
func segments(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "/memfd:ringmaster")
}

// A client over rings: what it asks is answered, large or small, streamed or cancelled, and its rings are charged to it.
func TestClientWithRings(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{MaxMessage: 1 << 20})
	c := dialRing(t, s.path, 64<<10)
	if held := s.clients.memory.Used(); held != 2*64<<10+8<<10 {
		t.Errorf("the rings hold %d bytes", held)
	}
	c.echo(t)
	large := append(ipc.Body{0xc6, 0, 8, 0, 0}, make([]byte, 512<<10)...)
	r, err := recv(c.call(t, "echo", func(r *ipc.Request) { r.Body = large }))
	if err != nil || len(r.Body) != len(large) {
		t.Errorf("512 KiB: %d bytes, %v", len(r.Body), err)
	}
	stream := c.call(t, "stream", func(r *ipc.Request) { r.Credit = 4 })
	for range 100 {
		if _, err := recv(stream); err != nil {
			t.Fatal(err)
		}
	}
	stream.Cancel("cancelled")
	if why := await(t, f.ended, "the stream's end"); why != "cancelled" {
		t.Errorf("the stream ended with %q", why)
	}
	blocked := c.call(t, "block")
	await(t, f.ended, "the request's beginning")
	c.hangUp()
	_, err = recv(blocked)
	wantReason(t, err, "UNAVAILABLE/connection_lost")
	if why := await(t, f.ended, "the request's end"); why != "disconnected" {
		t.Errorf("the request ended with %q", why)
	}
}

// Where there is no memory for rings a client uses the socket.
func TestNoMemoryForRings(t *testing.T) {
	s := start(t, newFake(), Config{MaxMessage: 64 << 10, Memory: 1 << 20})
	hello, ring, err := ipc.ClientHelloRing(ipc.NewSocket(connect(t, s.path), 1<<20, patience), "test", 1<<20)
	if err != nil || ring != nil || hello.Ring != 0 {
		t.Errorf("%+v, %v, %v", hello, ring, err)
	}
}

// A drain reaches a client with rings, what it has in flight is answered, and what it asks then is refused.
func TestDrainOfClientsWithRings(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{})
	c, idle := dialRing(t, s.path, 64<<10), dialRing(t, s.path, 64<<10)
	stream := c.call(t, "stream", func(r *ipc.Request) { r.Credit = 2 })
	if _, err := recv(stream); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	await(t, c.drain, "the news of the drain")
	await(t, idle.drain, "the news of the drain")
	_, err := recv(c.call(t, "echo"))
	wantReason(t, err, "UNAVAILABLE/draining")
	if _, err := recv(stream); err != nil {
		t.Errorf("what is in flight ends: %v", err)
	}
	await(t, idle.gone, "the idle client's end")
	stream.Cancel("cancelled")
	if err := await(t, stopped, "the end of Serve"); err != nil {
		t.Error(err)
	}
}

// Hundreds of idle clients with rings take no thread each, and give everything back when they go.
func TestManyIdleClientsWithRings(t *testing.T) {
	const n = 300
	s := start(t, newFake(), Config{Memory: 1 << 30, Clients: Limits{Connections: n}})
	fds := openFDs(t)
	clients := make([]*testClient, n)
	for i := range clients {
		clients[i] = dialRing(t, s.path, minRing)
		clients[i].echo(t)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks) > 60 { // both sides of all of them are in this process
		t.Errorf("%d clients with rings take %d threads", n, len(tasks))
	}
	if got := openFDs(t) - fds; got > 6*n+10 {
		t.Errorf("%d clients with rings take %d descriptors on both sides together", n, got)
	}
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			for range 5 {
				c.echo(t)
			}
			c.hangUp()
		})
	}
	all.Wait()
	eventually(t, "the server has freed all rings", func() bool { return s.clients.memory.Used() == 0 && segments(t) == 0 })
}

// ringer is a client process that does all sorts of things over rings until it is killed.
func ringer(path string) {
	raw, err := net.Dial("unix", path)
	if err != nil {
		panic(err)
	}
	_, ring, err := ipc.ClientHelloRing(ipc.NewSocket(raw, 1<<20, patience), "ringer", 64<<10)
	if err != nil {
		panic(err)
	}
	c := ipc.NewCaller(ring, ipc.Events{})
	fmt.Println("ready")
	for i := range 8 {
		go func() {
			body := append(ipc.Body{0xc6, 0, 1, 0, 0}, make([]byte, 64<<10)...)
			for {
				action := []string{"echo", "stream", "block"}[i%3]
				call, err := c.Start(&ipc.Request{Pool: "p", Action: action, Credit: 8, Body: body}, nil)
				for n := 0; err == nil && n < 50; n++ {
					_, err = call.Recv(context.Background())
				}
				if call != nil {
					call.Cancel("cancelled")
				}
			}
		}()
	}
	_ = c.Run()
	os.Exit(1)
}

// A client with rings that dies, wherever it is, leaves nothing behind, and its neighbours do not notice.
func TestDeathOfClientsWithRings(t *testing.T) {
	s := start(t, newFake(), Config{MaxMessage: 1 << 20})
	neighbour := dialRing(t, s.path, 64<<10)
	neighbour.echo(t)
	fds := openFDs(t)
	for range 10 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "GATEWAY_TEST_RINGER="+s.path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		for range rand.IntN(30) { // for a while, which is never the same
			neighbour.echo(t)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	eventually(t, "the server has freed the dead clients' rings", func() bool {
		return segments(t) == 2 && openFDs(t) <= fds && s.clients.memory.Used() <= 2*64<<10+8<<10
	})
	neighbour.echo(t)
}

// A client gets the doors that it says it can do with, and no others.
func TestRingsHaveTheDoorsAskedFor(t *testing.T) {
	s := start(t, newFake(), Config{})
	c, refusal := s.clients.enter(chain.Peer{UID: 1, PID: 1})
	if refusal != nil {
		t.Fatal(refusal)
	}
	defer s.clients.leave(c)
	for _, doors := range []uint64{0, ipc.DoorEventfd, ipc.DoorSocket, ipc.DoorEventfd | ipc.DoorSocket, 1<<63 | 1} {
		g, ok := s.clients.lend(c, &ipc.Hello{Ring: minRing, Doors: doors})
		if !ok || !g.Bell || g.Eventfd != (doors&ipc.DoorEventfd != 0) || g.Socket != (doors&ipc.DoorSocket != 0) {
			t.Errorf("doors %#x: %+v, %v", doors, g, ok)
		}
		s.clients.returned(c, g)
	}
}

// Connections are limited so that the three descriptors of each, with rings, leave some for workers.
func TestConnectionsFitTheDescriptors(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	few.Cur = 400
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	got := Config{}.withDefaults().MaxConnections
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if got != 100 {
		t.Errorf("%d connections where 400 descriptors may be open, want 100", got)
	}
}
