package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestCall(t *testing.T) {
	c := newServer(t, echo).dial()
	tensor := client.Tensor{Name: "x", DType: "uint8", Shape: []uint64{2}, Data: []byte{1, 2}}
	r, err := c.Call(context.Background(), "p", "a", map[string]int{"n": 5}, client.WithTensors(tensor), client.WithHeaders(map[string]string{"k": "v"}))
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		N int `msgpack:"n"`
	}
	if err := r.Decode(&body); err != nil || body.N != 5 {
		t.Errorf("body %+v, %v", body, err)
	}
	if got := r.Tensor("x"); got == nil || !reflect.DeepEqual(*got, tensor) || r.Tensor("y") != nil {
		t.Errorf("tensors %+v", r.Tensors)
	}
	if r.Headers["k"] != "v" || !r.Last {
		t.Errorf("reply %+v", r)
	}
}

func TestRequestCarriesOptions(t *testing.T) {
	got := make(chan ipc.Request, 1)
	c := newServer(t, func(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
		got <- *req
		echo(ctx, req, w)
	}).dial()
	call := func(ctx context.Context, opts ...client.CallOption) ipc.Request {
		t.Helper()
		for _, err := range c.Stream(ctx, "p", "a", nil, opts...) {
			if err != nil {
				t.Fatal(err)
			}
		}
		return <-got
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	own := map[string]string{"k": "v", "session": "not this"}
	for _, opts := range [][]client.CallOption{{client.WithSession("s"), client.WithHeaders(own)}, {client.WithHeaders(own), client.WithSession("s")}} {
		if r := call(ctx, opts...); r.Headers["session"] != "s" || r.Headers["k"] != "v" || own["session"] != "not this" {
			t.Errorf("headers %+v of %+v", r.Headers, own)
		}
	}
	if r := call(ctx, client.WithSession("s")); len(r.Headers) != 1 || r.Headers["session"] != "s" {
		t.Errorf("headers %+v", r.Headers)
	}
	r := call(ctx, client.WithTraceID("00-1-2-01"), client.WithContext([]byte{9}), client.WithCredit(3))
	if r.Pool != "p" || r.Action != "a" || r.TraceID != "00-1-2-01" || len(r.Context) != 1 || r.Credit != 3 || r.Timeout > time.Hour || r.Timeout < 59*time.Minute {
		t.Errorf("request %+v", r)
	}
	if r = call(ctx, client.WithTimeout(time.Minute)); r.Timeout > time.Minute || r.Timeout < 50*time.Second || r.Credit < 2 {
		t.Errorf("request %+v", r)
	}
	if r = call(context.Background()); r.Timeout != 0 {
		t.Errorf("a timeout from nowhere: %v", r.Timeout)
	}
}

func TestStreamCancelsWhenLeft(t *testing.T) {
	ended := make(chan error, 1)
	c := newServer(t, func(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
		count(ctx, req, w)
		ended <- context.Cause(ctx)
	}).dial()
	n := 0
	for r, err := range c.Stream(context.Background(), "p", "count", nil) {
		var i int
		if err != nil || r.Decode(&i) != nil || i != n%100 || r.Last {
			t.Fatalf("chunk %d: %+v, %v", n, r, err)
		}
		if n++; n == 250 {
			break
		}
	}
	if err := await(t, ended, "the cancel to arrive"); !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context ended by %v", err)
	}
}

func TestStreamEndsWithContext(t *testing.T) {
	c := newServer(t, count).dial()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	n := 0
	for r, err := range c.Stream(ctx, "p", "count", nil) {
		if last = err; err != nil {
			if r != nil {
				t.Errorf("an error with a reply: %+v", r)
			}
			continue
		}
		if n++; n == 5 {
			cancel()
		}
	}
	wantReason(t, last, "CANCELLED/cancelled")
}

func TestStreamOfOneAnswerAndOfNone(t *testing.T) {
	c := newServer(t, echo).dial()
	for _, tt := range []struct {
		body any
		want int
	}{{"x", 1}, {nil, 0}} {
		n := 0
		for r, err := range c.Stream(context.Background(), "p", "echo", tt.body) {
			if err != nil || !r.Last {
				t.Errorf("%+v, %v", r, err)
			}
			n++
		}
		if n != tt.want {
			t.Errorf("body %v: %d replies, want %d", tt.body, n, tt.want)
		}
	}
}

func TestStreamCallsAnewEachTime(t *testing.T) {
	c := newServer(t, echo).dial()
	stream := c.Stream(context.Background(), "p", "echo", 1)
	for range 2 {
		n := 0
		for range stream {
			n++
		}
		if n != 1 {
			t.Errorf("%d replies", n)
		}
	}
}

func TestCallOfStream(t *testing.T) {
	ended := make(chan struct{})
	c := newServer(t, func(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
		count(ctx, req, w)
		close(ended)
	}).dial()
	_, err := c.Call(context.Background(), "p", "count", nil)
	wantReason(t, err, "UNIMPLEMENTED/stream")
	await(t, ended, "the stream to be cancelled")
}

func TestDeadline(t *testing.T) {
	c := newServer(t, func(ctx context.Context, _ *ipc.Request, w *ipc.Responder) {
		<-ctx.Done()
		_ = w.Fail(context.Cause(ctx))
	}).dial()
	_, err := c.Call(context.Background(), "p", "a", nil, client.WithTimeout(5*time.Millisecond))
	wantReason(t, err, "DEADLINE_EXCEEDED/deadline")
	ctx, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = c.Call(ctx, "p", "a", nil)
	wantReason(t, err, "DEADLINE_EXCEEDED/deadline")
	ctx, cancel = context.WithCancel(context.Background())
	cancel()
	_, err = c.Call(ctx, "p", "a", nil)
	wantReason(t, err, "CANCELLED/cancelled")
}

func TestBadRequestsAreNotSent(t *testing.T) {
	c := newServer(t, func(context.Context, *ipc.Request, *ipc.Responder) { t.Error("sent") }).dial()
	_, err := c.Call(context.Background(), "p", "a", func() {})
	wantReason(t, err, "INVALID_ARGUMENT/bad_body")
	_, err = c.Call(context.Background(), "p", "a", nil, client.WithTensors(client.Tensor{Name: "x", DType: "float32", Shape: []uint64{3}, Data: []byte{1}}))
	wantReason(t, err, "INVALID_ARGUMENT/bad_tensor")
	for _, err := range c.Stream(context.Background(), "p", "a", func() {}) {
		wantReason(t, err, "INVALID_ARGUMENT/bad_body")
	}
	_, err = c.Call(context.Background(), "p", "a", make([]byte, 2<<20)) // the server takes 1 MiB
	wantReason(t, err, "RESOURCE_EXHAUSTED/too_large")
}

func TestErrorReachesTheCaller(t *testing.T) {
	want := &client.Error{Code: ipc.ResourceExhausted, Reason: "queue_full", Message: "m", RetryAfter: 3 * time.Second, Details: map[string]string{"a": "b"}}
	c := newServer(t, func(_ context.Context, _ *ipc.Request, w *ipc.Responder) { _ = w.Fail(want) }).dial()
	_, err := c.Call(context.Background(), "p", "a", nil)
	var got *client.Error
	if !errors.As(err, &got) || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", err)
	}
}

func TestManyGoroutines(t *testing.T) {
	s := newServer(t, echo)
	c := s.dial()
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 20 {
				r, err := c.Call(context.Background(), "p", "echo", g*1000+i)
				var got int
				if err != nil || r.Decode(&got) != nil || got != g*1000+i {
					t.Errorf("call %d of %d: %d, %v", i, g, got, err)
				}
			}
		})
	}
	wg.Wait()
	if open, seen := s.connections(); open != 1 || seen != 1 {
		t.Errorf("%d connections, %d ever", open, seen)
	}
}

func TestNobodyThere(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	ln, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = ln.Close()
	for _, path := range []string{filepath.Join(dir, "none.sock"), dead} {
		_, err := client.Dial(context.Background(), client.WithAddress(path))
		wantReason(t, err, "UNAVAILABLE/no_server")
	}
	_, err = client.Dial(context.Background(), client.WithAddress("http://x"))
	wantReason(t, err, "INVALID_ARGUMENT/invalid_argument")
	_, err = client.Dial(context.Background(), client.WithAddress(dir))
	wantReason(t, err, "UNAVAILABLE/no_server")
}

// rawServer accepts one connection and hands it to f.
func rawServer(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rm.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := ln.Accept(); err == nil {
			defer conn.Close()
			f(conn)
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return path
}

func TestServersThatAreNone(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(net.Conn)
		want string
	}{
		{"hangs up", func(net.Conn) {}, "UNAVAILABLE/connection_lost"},
		{"speaks HTTP", func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "DATA_LOSS/protocol"},
		{"says what is no hello", func(c net.Conn) { _, _ = c.Write([]byte{2, 0, 0, 0, 0x92, 6}) }, "DATA_LOSS/protocol"},
		{"drains at once", func(c net.Conn) { _, _ = c.Write([]byte{3, 0, 0, 0, 0x92, 6, 0}) }, "DATA_LOSS/protocol"},
		{"refuses", func(c net.Conn) {
			s := ipc.NewSocket(c, ipc.MaxHello, 0)
			b, err := ipc.Marshal([]any{ipc.KindReply, 0, 1, nil, nil, nil, []any{"PERMISSION_DENIED", "peer", "go away"}})
			if err == nil {
				_, _ = s.Send(b)
			}
		}, "PERMISSION_DENIED/peer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := rawServer(t, func(conn net.Conn) {
				buf := make([]byte, 64)
				_, _ = conn.Read(buf)
				tt.say(conn)
			})
			_, err := client.Dial(context.Background(), client.WithAddress(path))
			wantReason(t, err, tt.want)
		})
	}
}

func TestSilentServer(t *testing.T) {
	path := rawServer(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<10)); _, _ = conn.Read(make([]byte, 1)) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := client.Dial(ctx, client.WithAddress(path))
	wantReason(t, err, "DEADLINE_EXCEEDED/deadline")

	path = rawServer(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<10)); _, _ = conn.Read(make([]byte, 1)) })
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(5*time.Millisecond, cancel)
	_, err = client.Dial(ctx, client.WithAddress(path))
	wantReason(t, err, "CANCELLED/cancelled")
}

// A server whose backlog is full is busy, not gone.
func TestBusyServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rm.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = client.Dial(ctx, client.WithAddress(path))
	wantReason(t, err, "DEADLINE_EXCEEDED/deadline")
}

// A server that says hello and hangs up, again and again: every call has an end.
func TestServerThatHangsUpAfterHello(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rm.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = ipc.ServerHello(ipc.NewSocket(conn, ipc.MaxHello, patience), ipc.Hello{})
			_ = conn.Close()
		}
	}()
	defer func() { <-done }()
	defer ln.Close()
	c, err := client.Dial(context.Background(), client.WithAddress(path))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 50 {
		_, err := c.Call(context.Background(), "p", "echo", 1)
		wantReason(t, err, "UNAVAILABLE/connection_lost")
	}
}

func TestReconnect(t *testing.T) {
	begun := make(chan struct{}, 10)
	s := newServer(t, func(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
		if req.Action == "block" {
			begun <- struct{}{}
			<-ctx.Done()
		}
		echo(ctx, req, w)
	})
	c := s.dial()
	lost := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "p", "block", nil)
		lost <- err
	}()
	await(t, begun, "the call to begin")
	s.stop()
	wantReason(t, await(t, lost, "the call to end"), "UNAVAILABLE/connection_lost")

	_, err := c.Call(context.Background(), "p", "echo", 1)
	wantReason(t, err, "UNAVAILABLE/no_server")
	s.start()
	if _, err := c.Call(context.Background(), "p", "echo", 1); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

// While a server comes and goes, and callers leave, every call has one outcome, which is its own, and once it stays all succeed.
func TestReconnectUnderLoad(t *testing.T) {
	s := newServer(t, echo)
	c := s.dial()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := g; ; n += 8 {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithCancel(context.Background())
				leaves := rand.IntN(4) == 0
				if leaves {
					go cancel()
				}
				r, err := c.Call(ctx, "p", "echo", n)
				cancel()
				var e *client.Error
				if err != nil {
					if !errors.As(err, &e) || e.Code != ipc.Unavailable && (!leaves || e.Code != ipc.Cancelled) {
						t.Errorf("got %v", err)
					}
					continue
				}
				var got int
				if err := r.Decode(&got); err != nil || got != n {
					t.Errorf("%d was answered with %d, %v", n, got, err)
				}
			}
		})
	}
	for range 10 {
		s.stop()
		_, before := s.connections()
		s.start()
		eventually(t, "a client to come back", func() bool { _, seen := s.connections(); return seen > before })
	}
	close(stop)
	wg.Wait()
	if _, err := c.Call(context.Background(), "p", "echo", 1); err != nil {
		t.Error(err)
	}
}

func TestDrain(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	s := newServer(t, func(ctx context.Context, req *ipc.Request, w *ipc.Responder) {
		if req.Action == "block" {
			close(begun)
			<-release
		}
		echo(ctx, req, w)
	})
	c := s.dial()
	answered := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "p", "block", nil)
		answered <- err
	}()
	await(t, begun, "the call to begin")
	s.drain()
	eventually(t, "calls to use another connection", func() bool {
		if _, err := c.Call(context.Background(), "p", "echo", 1); err != nil {
			t.Fatal(err)
		}
		_, seen := s.connections()
		return seen == 2
	})
	close(release)
	if err := await(t, answered, "the call in flight"); err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	eventually(t, "the drained connection to be closed", func() bool { open, _ := s.connections(); return open == 1 })
	s.drain()
	eventually(t, "the idle connection to be closed", func() bool { open, _ := s.connections(); return open == 0 })
	if _, err := c.Call(context.Background(), "p", "echo", 1); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	begun := make(chan struct{})
	s := newServer(t, func(ctx context.Context, _ *ipc.Request, _ *ipc.Responder) {
		close(begun)
		<-ctx.Done()
	})
	c := s.dial()
	ended := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "p", "block", nil)
		ended <- err
	}()
	await(t, begun, "the call to begin")
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	wantReason(t, await(t, ended, "the call to end"), "CANCELLED/client_closed")
	_, err := c.Call(context.Background(), "p", "echo", nil)
	wantReason(t, err, "CANCELLED/client_closed")
	eventually(t, "the connection to be closed", func() bool { open, _ := s.connections(); return open == 0 })
}

func TestCloseWhileConnecting(t *testing.T) {
	s := newServer(t, echo)
	c := s.dial()
	s.stop()
	accepted := make(chan struct{})
	ln, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() { // a server that never says hello
		conn, err := ln.Accept()
		if err == nil {
			close(accepted)
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1<<10))
			_, _ = conn.Read(make([]byte, 1))
		}
	}()
	ended := make(chan error, 2)
	for range 2 { // one connects, the other waits for it
		go func() {
			_, err := c.Call(context.Background(), "p", "echo", nil)
			for e := (*client.Error)(nil); errors.As(err, &e) && e.Reason == "connection_lost"; { // the first server's end came in between
				_, err = c.Call(context.Background(), "p", "echo", nil)
			}
			ended <- err
		}()
	}
	await(t, accepted, "the client to connect")
	_ = c.Close()
	for range 2 {
		wantReason(t, await(t, ended, "the call to end"), "CANCELLED/client_closed")
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	s := newServer(t, echo)
	before := fds(t)
	for range 20 {
		c, err := client.Dial(context.Background(), client.WithAddress(s.path))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Call(context.Background(), "p", "echo", 1); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	eventually(t, fmt.Sprintf("%d descriptors", before), func() bool { return fds(t) <= before })
}

func fds(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
