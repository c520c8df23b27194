package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestManyClients(t *testing.T) {
	s := start(t, newFake(), Config{})
	before := openFDs(t)
	var wg sync.WaitGroup
	for range 32 {
		c := dial(t, s.path)
		wg.Go(func() {
			defer c.hangUp()
			for range 10 {
				c.echo(t)
			}
		})
	}
	wg.Wait()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestHelloTellsLimits(t *testing.T) {
	s := start(t, newFake(), Config{MaxMessage: 1 << 20, MaxInFlight: 7})
	h := dial(t, s.path).hello
	if h.MinVersion != 1 || h.MaxVersion != 1 || h.MaxMessage != 1<<20 || h.MaxInFlight != 7 || h.SDK == "" {
		t.Errorf("hello: %+v", h)
	}
}

func TestDeadClientCancelsItsRequests(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{})
	c := dial(t, s.path)
	c.call(t, "block")
	if got := await(t, f.ended, "the request to begin"); got != "begun" {
		t.Fatal(got)
	}
	c.hangUp()
	if got := await(t, f.ended, "the request to be cancelled"); got != "disconnected" {
		t.Errorf("cancelled for %q, want disconnected", got)
	}
}

func TestCancelAndDeadlineReachTheBackend(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{})
	c := dial(t, s.path)

	call := c.call(t, "block")
	await(t, f.ended, "the request to begin")
	call.Cancel("cancelled")
	if got := await(t, f.ended, "the cancel"); got != "cancelled" {
		t.Errorf("ended by %q, want cancelled", got)
	}

	call = c.call(t, "block", func(r *ipc.Request) { r.Timeout = time.Millisecond })
	_, err := recv(call)
	wantReason(t, err, "DEADLINE_EXCEEDED/deadline")
	c.echo(t)
}

func TestBackendErrorReachesTheClient(t *testing.T) {
	s := start(t, newFake(), Config{})
	c := dial(t, s.path)
	_, err := recv(c.call(t, "nonsense"))
	wantReason(t, err, "NOT_FOUND/unknown_action")
}

// A client that grants no more credit: its request fails, others do not notice.
func TestReaderWithoutCreditHurtsOnlyItself(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{StallTimeout: 30 * time.Millisecond})
	slow, quick := dial(t, s.path), dial(t, s.path)
	call := slow.call(t, "stream", func(r *ipc.Request) { r.Credit = 4 })
	for {
		quick.echo(t)
		slow.echo(t) // its other requests go on, too
		select {
		case reason := <-f.ended:
			if reason != "slow_reader" {
				t.Errorf("the backend was told %q, want slow_reader", reason)
			}
		default:
			continue
		}
		break
	}
	for range 4 {
		if _, err := recv(call); err != nil {
			t.Fatal(err)
		}
	}
	_, err := recv(call)
	wantReason(t, err, "RESOURCE_EXHAUSTED/slow_reader")
}

// A client that grants credit and then does not read its socket loses the connection; others do not notice.
func TestReaderOfNothingHurtsOnlyItself(t *testing.T) {
	f := newFake()
	f.chunk = append([]byte{0xc6, 0, 1, 0, 0}, make([]byte, 1<<16)...)
	s := start(t, f, Config{WriteTimeout: 50 * time.Millisecond})
	conn := connect(t, s.path)
	sock := ipc.NewSocket(conn, 1<<20, patience)
	if _, err := ipc.ClientHello(sock, "test"); err != nil {
		t.Fatal(err)
	}
	// No Run: nobody reads.
	if _, err := ipc.NewCaller(sock, ipc.Events{}).Start(&ipc.Request{Pool: "p", Action: "stream", Credit: 1 << 20}, nil); err != nil {
		t.Fatal(err)
	}
	quick := dial(t, s.path)
	for len(f.ended) == 0 {
		quick.echo(t)
	}
	await(t, f.ended, "the backend to be cancelled")
	wantClosed(t, conn)
}

func TestHelloTimeout(t *testing.T) {
	s := start(t, newFake(), Config{helloTimeout: 20 * time.Millisecond})
	conn := connect(t, s.path)
	m, err := firstMessage(t, conn)
	if r, ok := m.(*ipc.Reply); !ok || r.ID != 0 || !r.End {
		t.Fatalf("got %+v, %v", m, err)
	}
	wantReason(t, m.(*ipc.Reply).Err, "DEADLINE_EXCEEDED/deadline")
	wantClosed(t, conn)
}

func frame(payload ...byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(payload))), payload...)
}

var (
	hello      = frame(0x95, 5, 0, 1, 1, 0xa1, 't') // [5, 0, 1, 1, "t"]
	futureOnly = frame(0x95, 5, 0, 9, 12, 0xa1, 't')
)

func TestBadBeginnings(t *testing.T) {
	s := start(t, newFake(), Config{})
	neighbour := dial(t, s.path)
	for _, tt := range []struct {
		name string
		sent []byte
		want string // code/reason of the reply before the close; "": none
	}{
		{"almost HTTP", []byte("get / HTTP/1.1\r\nHost: x\r\n\r\n"), ""},
		{"an empty frame", frame(), ""},
		{"the largest length", []byte{0xff, 0xff, 0xff, 0xff}, ""},
		{"not MessagePack", frame(0xc1), "INVALID_ARGUMENT/bad_message"},
		{"a memory bomb", frame(0xdd, 0xff, 0xff, 0xff, 0xff), "INVALID_ARGUMENT/bad_message"},
		{"a request first", frame(0x94, 1, 1, 0xa1, 'p', 0xa4, 'e', 'c', 'h', 'o'), "INVALID_ARGUMENT/bad_message"},
		{"only versions to come", futureOnly, "UNIMPLEMENTED/version"},
		{"a large hello", append(binary.LittleEndian.AppendUint32(nil, ipc.MaxHello+1), make([]byte, ipc.MaxHello+1)...), "INVALID_ARGUMENT/bad_message"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := connect(t, s.path)
			go func() { _, _ = conn.Write(tt.sent) }()
			m, err := firstMessage(t, conn)
			if tt.want == "" {
				if err == nil {
					t.Errorf("got %+v, want the connection closed", m)
				}
			} else if r, ok := m.(*ipc.Reply); ok {
				wantReason(t, r.Err, tt.want)
			} else {
				t.Errorf("got %+v, %v, want %s", m, err, tt.want)
			}
			wantClosed(t, conn)
			neighbour.echo(t)
		})
	}
}

func TestBadFramesAfterHello(t *testing.T) {
	const limit = 1 << 16
	s := start(t, newFake(), Config{MaxMessage: limit})
	neighbour := dial(t, s.path)
	request := func(id byte) []byte { return []byte{0x94, 1, id, 0xa1, 'p', 0xa4, 'e', 'c', 'h', 'o'} }
	padded := func(size int) []byte {
		b := make([]byte, size)
		copy(b, request(5))
		return frame(b...)
	}
	for _, tt := range []struct {
		name  string
		sent  []byte
		want  string // the first reply's
		wants uint64 // its id
		alive bool   // afterwards
	}{
		{"a wrong type", frame(0x93, 1, 3, 0x01), "INVALID_ARGUMENT/bad_message", 3, true},
		{"cut off", frame(0x94, 1, 4, 0xa1), "INVALID_ARGUMENT/bad_message", 4, true},
		{"garbage", frame(0xc1, 0xc1), "INVALID_ARGUMENT/bad_message", 0, false},
		{"id 0", frame(request(0)...), "INVALID_ARGUMENT/bad_message", 0, false},
		{"too large", padded(limit + 1), "RESOURCE_EXHAUSTED/too_large", 5, true},
		{"an unknown kind", append(frame(0x92, 99, 1), frame(0x93, 1, 6, 1)...), "INVALID_ARGUMENT/bad_message", 6, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := connect(t, s.path)
			sock := ipc.NewSocket(conn, 1<<20, patience)
			if _, err := ipc.ClientHello(sock, "test"); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(tt.sent); err != nil {
				t.Fatal(err)
			}
			r := nextReply(t, sock)
			wantReason(t, r.Err, tt.want)
			if r.ID != tt.wants {
				t.Errorf("answered under id %d, want %d", r.ID, tt.wants)
			}
			if tt.alive {
				if _, err := conn.Write(frame(request(77)...)); err != nil {
					t.Fatal(err)
				}
				if r := nextReply(t, sock); r.ID != 77 || r.Err != nil {
					t.Errorf("after it: %+v", r)
				}
			} else {
				wantClosed(t, conn)
			}
			neighbour.echo(t)
		})
	}
	t.Run("far too large", func(t *testing.T) {
		conn := connect(t, s.path)
		if _, err := conn.Write(append(bytes.Clone(hello), binary.LittleEndian.AppendUint32(nil, 4*limit+1)...)); err != nil {
			t.Fatal(err)
		}
		wantClosed(t, conn)
		neighbour.echo(t)
	})
	t.Run("half a frame", func(t *testing.T) {
		conn := connect(t, s.path)
		if _, err := conn.Write(append(bytes.Clone(hello), 9, 0, 0, 0, 0x94)); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		neighbour.echo(t)
	})
}

func nextReply(t *testing.T, sock *ipc.Socket) *ipc.Reply {
	t.Helper()
	b, err := sock.Recv()
	if err != nil {
		t.Fatal(err)
	}
	m, err := ipc.Decode(b)
	r, ok := m.(*ipc.Reply)
	if err != nil || !ok {
		t.Fatalf("got %+v, %v", m, err)
	}
	return r
}

func TestTooManyRequests(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{MaxInFlight: 2})
	c := dial(t, s.path)
	for range 2 {
		c.call(t, "block")
		await(t, f.ended, "a request to begin")
	}
	_, err := recv(c.call(t, "echo"))
	wantReason(t, err, "RESOURCE_EXHAUSTED/too_many_requests")
	dial(t, s.path).echo(t)
}

func TestTooManyConnections(t *testing.T) {
	s := start(t, newFake(), Config{MaxConnections: 2})
	first, second := dial(t, s.path), dial(t, s.path)
	_, err := ipc.ClientHello(ipc.NewSocket(connect(t, s.path), 1<<20, patience), "test")
	wantReason(t, err, "RESOURCE_EXHAUSTED/too_many_connections")
	first.hangUp()
	second.echo(t)
	// The server notices the hang-up in its own time.
	for deadline := time.Now().Add(patience); ; {
		sock := ipc.NewSocket(connect(t, s.path), 1<<20, patience)
		_, err := ipc.ClientHello(sock, "test")
		_ = sock.Close()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestDrainAnswersWhatIsInFlight(t *testing.T) {
	release := make(chan struct{})
	s := start(t, backendFunc(func(context.Context, *ipc.Request) (ipc.Replies, error) {
		<-release
		return &echoReplies{body: ipc.Body{42}}, nil
	}), Config{})
	busy, idle := dial(t, s.path), dial(t, s.path)
	call := busy.call(t, "echo")
	busy.ping(t) // the request has been read
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()

	await(t, busy.drain, "drain")
	await(t, idle.drain, "drain")
	if _, err := net.Dial("unix", s.path); err == nil {
		t.Error("a draining server takes new connections")
	}
	_, err := recv(busy.call(t, "echo"))
	wantReason(t, err, "UNAVAILABLE/draining")
	await(t, idle.gone, "the idle connection to be closed")
	close(release)
	if _, err := recv(call); err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := await(t, stopped, "Serve to return"); err != nil {
		t.Error(err)
	}
}

type backendFunc func(ctx context.Context, req *ipc.Request) (ipc.Replies, error)

func (f backendFunc) Call(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
	return f(ctx, req)
}

func (c *testClient) ping(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestDrainEndsInTime(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{DrainTimeout: 10 * time.Millisecond})
	c := dial(t, s.path)
	call := c.call(t, "block")
	await(t, f.ended, "the request to begin")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	_, err := recv(call)
	wantReason(t, err, "UNAVAILABLE/draining")
}

func TestDrainOfClientThatNeverSaidHello(t *testing.T) {
	s := start(t, newFake(), Config{})
	conn := connect(t, s.path)
	dial(t, s.path).echo(t) // accepted after conn
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, conn)
}

// faulty is a listener whose Accept fails a few times.
type faulty struct {
	net.Listener
	errs []error
}

func (l *faulty) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	return l.Listener.Accept()
}

func TestAcceptSurvivesLackOfDescriptors(t *testing.T) {
	ln, err := Listen(filepath.Join(t.TempDir(), "rm.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	ln.Listener = &faulty{Listener: ln.Listener, errs: []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM}}
	s := startOn(t, ln, newFake(), Config{})
	dial(t, s.path).echo(t)
}

func TestBrokenListenerEndsServe(t *testing.T) {
	ln, err := Listen(filepath.Join(t.TempDir(), "rm.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	ln.Listener = &faulty{Listener: ln.Listener, errs: []error{syscall.EBADF}}
	err = Serve(context.Background(), ln, newFake(), Config{Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, syscall.EBADF) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := os.Lstat(ln.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file was left behind: %v", err)
	}
}

func TestPipelinedHello(t *testing.T) {
	s := start(t, newFake(), Config{})
	conn := connect(t, s.path)
	if _, err := conn.Write(append(bytes.Clone(hello), frame(0x94, 1, 9, 0xa1, 'p', 0xa4, 'e', 'c', 'h', 'o')...)); err != nil {
		t.Fatal(err)
	}
	sock := ipc.NewSocket(conn, 1<<20, 0)
	b, err := sock.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ipc.Decode(b); err != nil || m.(*ipc.Hello).MaxVersion != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if r := nextReply(t, sock); r.ID != 9 || !r.End {
		t.Errorf("%+v", r)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	return len(p), nil
}

func (b *syncBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b)
}

var _ io.Writer = (*syncBuffer)(nil)
