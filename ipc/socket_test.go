package ipc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// rawFrame is a socket's frame.
func rawFrame(message []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(message))), message...)
}

func write(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func TestSocketFramesArriveInAnyPieces(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	s := NewSocket(b, 1000, 0)
	stream := append(rawFrame([]byte("one")), rawFrame([]byte("two"))...)
	for i := range stream {
		write(t, a, stream[i:i+1])
	}
	for _, want := range []string{"one", "two"} {
		if got, err := s.Recv(); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestSocketEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes []byte
		check func(error) bool
	}{
		{"between frames", rawFrame([]byte("x")), isEOF},
		{"in a length", append(rawFrame([]byte("x")), 1, 2), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"in a message", append(rawFrame([]byte("x")), 9, 0, 0, 0, 'y'), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"in an oversize message", append(rawFrame([]byte("x")), 0xff, 0, 0, 0, 'y'), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"with a frame of length 0", append(rawFrame([]byte("x")), 0, 0, 0, 0), func(err error) bool { return AsError(err).Reason == "protocol" }},
		{"with a frame far over the limit", append(rawFrame([]byte("x")), 0xff, 0xff, 0xff, 0xff), func(err error) bool { return AsError(err).Reason == "protocol" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			a, b := connPair(t)
			s := NewSocket(b, 100, 0)
			write(t, a, c.bytes)
			_ = a.Close()
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); !c.check(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnOversizeFrameIsAnswered(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	serve(t, NewSocket(b, 1000, 0), ServeConfig{}, echoAll)
	peer := NewSocket(a, 1<<20, 0)
	for _, size := range []int{1001, 2000, 4000 - 20} {
		say(t, peer, &Request{ID: uint64(size), Context: make([]byte, size)})
		hearError(t, peer, uint64(size), ResourceExhausted, "too_large")
	}
	say(t, peer, &Request{ID: 1})
	if r := hear(t, peer).(*Reply); r.ID != 1 || r.Err != nil {
		t.Errorf("after oversize frames: %+v", r)
	}
}

func TestAnOversizeFrameThatCannotBeAnswered(t *testing.T) {
	for _, c := range []struct {
		name   string
		first  any // message to send before it
		head   []byte
		strict bool
	}{
		{name: "its id cannot be read", head: []byte{0xc1}},
		{name: "it is not a request", head: []byte{0x96, 2, 7}},
		{name: "its id is 0", head: []byte{0x96, 1, 0}},
		{name: "its id is open", first: &Request{ID: 7, Action: "hang"}, head: []byte{0x96, 1, 7}},
		{name: "a supervisor would not send it", head: []byte{0x96, 1, 7}, strict: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			a, b := connPair(t)
			s := serve(t, NewSocket(b, 1000, 0), ServeConfig{Strict: c.strict}, func(ctx context.Context, _ *Request, _ *Responder) { <-ctx.Done() })
			peer := NewSocket(a, 1<<20, 0)
			if c.first != nil {
				say(t, peer, c.first)
			}
			if _, err := peer.Send(c.head, make([]byte, 2000)); err != nil {
				t.Fatal(err)
			}
			hearError(t, peer, 0, ResourceExhausted, "too_large")
			wantError(t, s.wait(), ResourceExhausted, "too_large")
		})
	}
}

func TestAFrameFarOverTheLimitClosesTheConnection(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	s := serve(t, NewSocket(b, 1000, 0), ServeConfig{}, echoAll)
	write(t, a, binary.LittleEndian.AppendUint32(nil, 4001))
	wantError(t, s.wait(), DataLoss, "protocol")
	if _, err := NewSocket(a, 1000, 0).Recv(); err == nil {
		t.Error("the connection is still open")
	}
}

// A length is a claim: it costs the receiver nothing until the bytes come.
func TestMemoryFollowsTheBytesThatArrive(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	s := NewSocket(b, 1<<30, 0)
	go func() {
		_, _ = a.Write(append(binary.LittleEndian.AppendUint32(nil, 1<<30), make([]byte, 100)...))
		_ = a.Close()
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := s.Recv()
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 2*growStep {
		t.Errorf("a claim of 1 GiB took %d bytes", used)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

func TestAPeerThatTakesNothingLosesTheConnection(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	s := NewSocket(b, 16<<20, 10*time.Millisecond)
	_, err := s.Send(make([]byte, 8<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Send into a full socket: %v", err)
	}
	if _, again := s.Send([]byte("x")); !errors.Is(again, os.ErrDeadlineExceeded) {
		t.Errorf("the next Send: %v, want the same", again)
	}
	if _, err := s.Recv(); !isEOF(err) {
		t.Errorf("Recv: %v, want EOF", err)
	}
	if _, err := io.Copy(io.Discard, a); err != nil {
		t.Errorf("the peer: %v", err)
	}
}

// What a server says as it closes reaches a client that is writing at that moment.
func TestTheLastWordsSurviveAFailedWrite(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	client := NewSocket(a, 1000, 0)
	write(t, b, rawFrame([]byte("because")))
	_ = b.Close()
	var err error
	for err == nil {
		_, err = client.Send([]byte("request"))
	}
	if got, err := client.Recv(); err != nil || string(got) != "because" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := client.Recv(); err == nil {
		t.Error("the connection did not end")
	}
}

func TestStalledReadersAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		const stall = time.Minute
		s := NewSocket(b, 1000, 0)
		ends := make(chan error, 1)
		go func() {
			ends <- Serve(context.Background(), s, handlerFunc(func(ctx context.Context, _ *Request, w *Responder) {
				var err error
				for err == nil {
					err = w.Send(ctx, &Reply{})
				}
				_ = w.Fail(err)
			}), ServeConfig{StallTimeout: stall})
		}()
		peer := NewSocket(a, 1000, 0)
		start := time.Now()
		say(t, peer, &Request{ID: 1, Credit: 2})
		hear(t, peer)
		hear(t, peer)
		time.AfterFunc(stall-time.Second, func() { say(t, peer, Credit{1, 1}) }) // just in time, once
		if r := hear(t, peer).(*Reply); r.End {
			t.Fatalf("heard %+v after %v, want a chunk", r, time.Since(start))
		}
		hearError(t, peer, 1, ResourceExhausted, "slow_reader")
		if took := time.Since(start); took != 2*stall-time.Second {
			t.Errorf("the reader was given up after %v, want %v", took, 2*stall-time.Second)
		}
		say(t, peer, &Request{ID: 2, Credit: 1})
		hear(t, peer)
		say(t, peer, Cancel{ID: 2})
		hearError(t, peer, 2, Cancelled, "cancelled")
		_ = a.Close()
		if err := <-ends; !isEOF(err) {
			t.Errorf("Serve returned %v", err)
		}
	})
}

func TestDeadlinesTickWhileARequestRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		ends := make(chan error, 1)
		go func() {
			ends <- Serve(context.Background(), NewSocket(b, 1000, 0), handlerFunc(func(ctx context.Context, _ *Request, w *Responder) {
				<-ctx.Done()
				_ = w.Fail(ctx.Err())
			}), ServeConfig{})
		}()
		peer := NewSocket(a, 1000, 0)
		start := time.Now()
		say(t, peer, &Request{ID: 1, Timeout: 3 * time.Second})
		hearError(t, peer, 1, DeadlineExceeded, "deadline")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("a timeout of 3 s took %v", took)
		}
		_ = a.Close()
		<-ends
	})
}

func TestHello(t *testing.T) {
	checkLeaks(t)
	a, b := connPair(t)
	client, server := NewSocket(a, 1000, 0), NewSocket(b, MaxHello, 0)
	type answer struct {
		theirs *Hello
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		theirs, err := ServerHello(server, Hello{SDK: "server", MaxMessage: 5000, MaxInFlight: 7})
		answers <- answer{theirs, err}
	}()
	got, err := ClientHello(client, "test/1")
	if err != nil {
		t.Fatal(err)
	}
	if want := (&Hello{MinVersion: 1, MaxVersion: 1, SDK: "server", MaxMessage: 5000, MaxInFlight: 7}); !equalMessages(got, want) {
		t.Errorf("the client got %+v, want %+v", got, want)
	}
	if r := await(t, answers, "the server"); r.err != nil || r.theirs.SDK != "test/1" {
		t.Errorf("the server got %+v, %v", r.theirs, r.err)
	}
	for _, s := range []*Socket{client, server} {
		if limit := s.limit.Load(); limit != 5000 {
			t.Errorf("a limit is %d, want 5000", limit)
		}
	}
}

func TestServerHelloRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		first  []byte
		code   Code
		reason string
	}{
		{"a version that is too new", encodeMessage(&Hello{MinVersion: 2, MaxVersion: 9}), Unimplemented, "version"},
		{"no version", encodeMessage(&Hello{}), Unimplemented, "version"},
		{"versions the wrong way round", encodeMessage(&Hello{MinVersion: 2, MaxVersion: 1}), Unimplemented, "version"},
		{"a request", encodeMessage(&Request{ID: 1}), InvalidArgument, "bad_message"},
		{"a kind that does not exist yet", []byte{0x92, 99, 0}, InvalidArgument, "bad_message"},
		{"not MessagePack", []byte{0xc1}, InvalidArgument, "bad_message"},
		{"HTTP, by its look", []byte("GET / HTTP/1.1\r\n"), InvalidArgument, "bad_message"},
		{"a hello that is too long", encodeMessage(&Hello{MinVersion: 1, MaxVersion: 1, SDK: strings.Repeat("x", MaxHello)}), InvalidArgument, "bad_message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			a, b := connPair(t)
			answers := make(chan error, 1)
			go func() {
				_, err := ServerHello(NewSocket(b, MaxHello, 0), Hello{})
				answers <- err
			}()
			peer := NewSocket(a, 1<<20, 0)
			if _, err := peer.Send(c.first); err != nil {
				t.Fatal(err)
			}
			wantError(t, await(t, answers, "the refusal"), c.code, c.reason)
			hearError(t, peer, 0, c.code, c.reason)
		})
	}
}

func TestServerHelloPicksTheHighestCommonVersion(t *testing.T) {
	for _, c := range []struct{ low, high uint32 }{{1, 1}, {0, 1}, {1, 9}, {0, 4000000000}} {
		a, b := connPair(t)
		answers := make(chan error, 1)
		go func() {
			_, err := ServerHello(NewSocket(b, MaxHello, 0), Hello{})
			answers <- err
		}()
		peer := NewSocket(a, MaxHello, 0)
		say(t, peer, &Hello{MinVersion: c.low, MaxVersion: c.high})
		if h := hear(t, peer).(*Hello); h.MinVersion != 1 || h.MaxVersion != 1 {
			t.Errorf("%d to %d: the server chose %d to %d, want 1", c.low, c.high, h.MinVersion, h.MaxVersion)
		}
		if err := await(t, answers, "the hello"); err != nil {
			t.Error(err)
		}
	}
}

func TestClientHelloRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []byte // nil: the connection ends
		code   Code
		reason string
	}{
		{"a refusal", encodeMessage(&Reply{End: true, Err: Errorf(Unimplemented, "version", "no")}), Unimplemented, "version"},
		{"a version that is too new", encodeMessage(&Hello{MinVersion: 2, MaxVersion: 2}), Unimplemented, "version"},
		{"no version", encodeMessage(&Hello{}), Unimplemented, "version"},
		{"a reply", encodeMessage(&Reply{ID: 1}), DataLoss, "protocol"},
		{"a request", encodeMessage(&Request{ID: 1}), DataLoss, "protocol"},
		{"not MessagePack", []byte{0xc1}, DataLoss, "protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLeaks(t)
			a, b := connPair(t)
			write(t, b, rawFrame(c.answer))
			_, err := ClientHello(NewSocket(a, 1000, 0), "test/1")
			wantError(t, err, c.code, c.reason)
		})
	}
	a, b := connPair(t)
	_ = b.Close()
	if _, err := ClientHello(NewSocket(a, 1000, 0), "test/1"); err == nil {
		t.Error("a server that is gone said hello")
	}
}
