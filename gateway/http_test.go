package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// browser is a client of HTTP, version 1.1 or 2.
func browser(t testing.TB, path string, version int) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(version == 1)
	protocols.SetUnencryptedHTTP2(version == 2)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// ask sends a request and returns the answer's status, headers and body.
func ask(t testing.TB, c *http.Client, method, url, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, "http://"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return answer.StatusCode, answer.Header, string(b)
}

// manager is a backend that answers the control pool's requests, and leaves the others to a fake.
func manager(f *fake, answers map[string]any) Backend {
	return backendFunc(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
		if req.Pool != controlPool {
			return f.Call(ctx, req)
		}
		if _, known := answers[req.Action]; !known {
			return nil, ipc.Errorf(ipc.NotFound, "unknown_action", "no action %q", req.Action)
		}
		body, err := ipc.Marshal(answers[req.Action])
		if err != nil {
			return nil, err
		}
		return &echoReplies{body: body}, nil
	})
}

func healthOf(ok bool, why string) map[string]any {
	pools := []map[string]any{{"name": "a", "ok": true, "round_trip_ms": 0.5}, {"name": "b", "ok": ok, "round_trip_ms": 0.0}}
	if why != "" {
		pools[1]["error"] = why
	}
	return map[string]any{"health": map[string]any{"pools": pools}}
}

func TestDetect(t *testing.T) {
	for first, want := range map[string]protocol{
		"": undecided, "G": undecided, "GE": undecided, "GET": undecided, "GET ": speaksHTTP, "POST": speaksHTTP, "PUT ": speaksHTTP, "PRI * HTTP/2.0": speaksHTTP,
		"get ": speaksNative, "G\x00\x00\x00": speaksNative, "GE\x00\x00": speaksNative, string(hello): speaksNative, "\xff\xff\xff\xff": speaksNative, "\x16\x03\x01": speaksNative,
	} {
		if got := detect([]byte(first)); got != want {
			t.Errorf("%q: %d, want %d", first, got, want)
		}
	}
}

// No hello of any length is taken for HTTP, however little of it is there.
func FuzzDetect(f *testing.F) {
	f.Add(uint32(71), []byte("ET "))
	f.Fuzz(func(t *testing.T, length uint32, rest []byte) {
		b := append(binary.LittleEndian.AppendUint32(nil, length%(4*ipc.MaxHello+1)), rest...)
		for n := range b {
			if detect(b[:n]) == speaksHTTP {
				t.Fatalf("% x", b[:n])
			}
		}
	})
}

func TestHealth(t *testing.T) {
	for version := 1; version <= 2; version++ {
		s := start(t, manager(newFake(), healthOf(true, "")), Config{})
		c := browser(t, s.path, version)
		if status, _, body := ask(t, c, "GET", "whatever.example:99/healthz", ""); status != 200 || body != "{\"ok\":true}\n" {
			t.Errorf("healthz: %d %s", status, body)
		}
		if status, _, body := ask(t, c, "GET", "h/readyz", ""); status != 200 || !json.Valid([]byte(body)) {
			t.Errorf("readyz: %d %s", status, body)
		}
		if status, _, _ := ask(t, c, "POST", "h/readyz", ""); status != 405 {
			t.Errorf("POST: %d", status)
		}
		if status, _, _ := ask(t, c, "GET", "h/nowhere", ""); status != 404 {
			t.Errorf("an unknown path: %d", status)
		}
		dial(t, s.path).echo(t) // and frames are what they were
	}
	s := start(t, manager(newFake(), healthOf(false, "no worker is ready")), Config{})
	if status, _, body := ask(t, browser(t, s.path, 1), "GET", "h/readyz", ""); status != 503 || !strings.Contains(body, `{"error":"no worker is ready","name":"b","ok":false`) {
		t.Errorf("readyz of a pool that is not: %d %s", status, body)
	}
}

// A connection of HTTP is let in, counted and turned away like any other.
func TestHTTPConnectionsAreCounted(t *testing.T) {
	s := start(t, newFake(), Config{Clients: Limits{Connections: 1}})
	first := browser(t, s.path, 1)
	if status, _, _ := ask(t, first, "GET", "h/healthz", ""); status != 200 {
		t.Fatal(status)
	}
	status, header, body := ask(t, browser(t, s.path, 1), "GET", "h/healthz", "")
	if status != 429 || header.Get("Retry-After") != "1" || !strings.Contains(body, "too_many_connections") {
		t.Errorf("a second one: %d %v %s", status, header, body)
	}
	first.CloseIdleConnections()
	for {
		if status, _, _ := ask(t, first, "GET", "h/healthz", ""); status == 200 {
			break
		}
		first.CloseIdleConnections()
	}
}

// Whatever stops in the midst of its headers, or sends too many, is gone; others do not notice.
func TestBadHTTP(t *testing.T) {
	patient, hasty := start(t, newFake(), Config{}), start(t, newFake(), Config{ReadTimeout: 50 * time.Millisecond, helloTimeout: 50 * time.Millisecond})
	neighbour := browser(t, patient.path, 2)
	for _, tt := range []struct{ name, sent, want string }{ // those that get an answer are given the time
		{"half a method", "GE", "the first frame"},
		{"a method alone", "GET ", ""},
		{"half the headers", "GET / HTTP/1.1\r\nHost: x\r\nA: ", ""},
		{"no HTTP after all", "GETTING STARTED\r\n\r\n", "400 Bad Request"},
		{"a flood of headers", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 20000), "431"},
		{"an old version", "GET /healthz HTTP/0.9\r\n\r\n", "505"},
		{"half a preface", "PRI * HTTP/2.0\r\n\r\n", ""},
		{"a preface and noise", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 100), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := patient
			if tt.want == "" || tt.want == "the first frame" {
				s = hasty
			}
			conn := connect(t, s.path)
			go func() { _, _ = conn.Write([]byte(tt.sent)) }()
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			var answer bytes.Buffer
			if _, err := io.Copy(&answer, conn); late(err) {
				t.Error("the server did not hang up")
			}
			if tt.want != "the first frame" && !strings.Contains(answer.String(), tt.want) {
				t.Errorf("got %q, want %s", answer.String(), tt.want)
			}
			if status, _, _ := ask(t, neighbour, "GET", "h/healthz", ""); status != 200 {
				t.Error(status)
			}
		})
	}
}

// A request in flight is answered while the server drains; connections that ask for nothing are closed.
func TestDrainOfHTTP(t *testing.T) {
	for version := 1; version <= 2; version++ {
		begun, finish := make(chan struct{}), make(chan struct{})
		peer := make(chan chain.Peer, 1)
		s := start(t, backendFunc(func(ctx context.Context, req *ipc.Request) (ipc.Replies, error) {
			p, _ := chain.PeerFrom(ctx)
			peer <- p
			close(begun)
			<-finish
			if req.Client.PID != p.PID || p.PID == 0 {
				t.Errorf("client %+v, peer %+v", req.Client, p)
			}
			return manager(newFake(), healthOf(true, "")).Call(ctx, req)
		}), Config{})
		idle := browser(t, s.path, version)
		ask(t, idle, "GET", "h/healthz", "")
		mute := connect(t, s.path)
		_, _ = mute.Write([]byte("GET "))
		busy := browser(t, s.path, version)
		answered := make(chan int, 1)
		go func() {
			status, _, _ := ask(t, busy, "GET", "h/readyz", "")
			answered <- status
		}()
		await(t, begun, "the request to begin")
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		wantClosed(t, mute)
		close(finish)
		if status := await(t, answered, "the answer"); status != 200 {
			t.Errorf("HTTP/%d: %d", version, status)
		}
		if err := await(t, stopped, "the end"); err != nil {
			t.Error(err)
		}
	}
}

// The end of a drain cuts requests off and says so.
func TestDrainOfHTTPEndsInTime(t *testing.T) {
	f := newFake()
	s := start(t, backendFunc(func(context.Context, *ipc.Request) (ipc.Replies, error) { return &blockReplies{fake: f}, nil }), Config{DrainTimeout: 10 * time.Millisecond})
	answered := make(chan string, 1)
	go func() {
		_, _, body := ask(t, browser(t, s.path, 1), "GET", "h/readyz", "")
		answered <- body
	}()
	await(t, f.ended, "the request to begin")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if body := await(t, answered, "the answer"); !strings.Contains(body, "draining") {
		t.Errorf("got %s", body)
	}
}
