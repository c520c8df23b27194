package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

// babel is a backend that is asked the same in several languages: echo answers with the body and tensors, mirror with the headers, count with three chunks and an end, inspect with what reached it of the headers, block when it is
// cancelled; an action named for a code fails with it.
type babel struct {
	*fake
	most, now atomic.Int64 // requests under way
}

func newBabel() *babel { return &babel{fake: newFake()} }

// listed is an answer of several replies that are there already.
type listed struct {
	babel   *babel
	replies []*ipc.Reply
}

func (l *listed) Recv(context.Context) (*ipc.Reply, error) {
	r := l.replies[0]
	if l.replies = l.replies[1:]; r.End {
		l.babel.now.Add(-1)
		if r.Err != nil {
			return nil, r.Err
		}
	}
	return r, nil
}

func (l *listed) Cancel(reason string) {
	l.babel.now.Add(-1)
	l.babel.tell(reason)
}

func (b *babel) Call(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
	if req.Pool == "nowhere" {
		return nil, ipc.Errorf(ipc.NotFound, "unknown_pool", "there is no pool %q; there are p", req.Pool)
	}
	for now := b.now.Add(1); ; {
		if most := b.most.Load(); now <= most || b.most.CompareAndSwap(most, now) {
			break
		}
	}
	answer := func(replies ...*ipc.Reply) (ipc.Replies, error) { return &listed{b, replies}, nil }
	switch req.Action {
	case "echo":
		return answer(&ipc.Reply{End: true, Body: req.Body, Tensors: req.Tensors})
	case "count":
		return answer(&ipc.Reply{Body: ipc.Body{1}}, &ipc.Reply{Body: ipc.Body{2}}, &ipc.Reply{Body: ipc.Body{3}}, &ipc.Reply{End: true})
	case "inspect":
		body, err := ipc.Marshal(map[string]any{"timeout_ms": req.Timeout.Milliseconds(), "trace": req.TraceID, "headers": len(req.Headers), "pid": req.Client.PID})
		if err != nil {
			return nil, err
		}
		return answer(&ipc.Reply{End: true, Body: body})
	case "mirror":
		return answer(&ipc.Reply{End: true, Headers: req.Headers})
	case "block":
		b.now.Add(-1)
		return &blockReplies{b.fake}, nil
	}
	failure := &ipc.Error{Code: ipc.Code(req.Action), Reason: "why", Message: "it failed", RetryAfter: 1500 * time.Millisecond, Details: map[string]string{"type": "T"}}
	return answer(&ipc.Reply{End: true, Err: failure})
}

// rpcReply is a response, read back.
type rpcReply struct {
	JSONRPC string          `json:"jsonrpc"`
	Result  json.RawMessage `json:"result"`
	ID      json.RawMessage `json:"id"`
	Error   *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Data    struct {
			Code         ipc.Code          `json:"code"`
			Reason       string            `json:"reason"`
			RetryAfterMS int64             `json:"retry_after_ms"`
			Details      map[string]string `json:"details"`
		} `json:"data"`
	} `json:"error"`
}

func (r rpcReply) err() *ipc.Error {
	if r.Error == nil {
		return nil
	}
	return &ipc.Error{Code: r.Error.Data.Code, Reason: r.Error.Data.Reason, Message: r.Error.Message, RetryAfter: time.Duration(r.Error.Data.RetryAfterMS) * time.Millisecond, Details: r.Error.Data.Details}
}

func rpc(t testing.TB, c *http.Client, method, params string, headers ...string) (r rpcReply) {
	t.Helper()
	status, _, body := ask(t, c, "POST", "h/rpc", fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":%q,"params":%s}`, method, params), headers...)
	if err := json.Unmarshal([]byte(body), &r); err != nil || status != 200 || string(r.ID) != "7" || r.JSONRPC != "2.0" {
		t.Fatalf("%s: %d %s, %v", method, status, body, err)
	}
	return r
}

// The same request has the same answer, or the same error, as frames and as JSON-RPC.
func TestRPCIsNative(t *testing.T) {
	s := start(t, newBabel(), Config{})
	native := dial(t, s.path)
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		for _, params := range []string{`null`, `{"b":1,"a":[true,null,2.5,"x"]}`, `[1,2]`, `"text"`, `-5`, `{"$tensors":[{"name":"x","dtype":"uint16","shape":[2,1],"data":"AQIDBA=="}],"k":1}`} {
			body, tensors, err := jsonbody.DecodeMessage([]byte(params))
			if err != nil {
				t.Fatal(err)
			}
			reply, err := recv(native.call(t, "echo", func(r *ipc.Request) { r.Body, r.Tensors = body, tensors }))
			if err != nil {
				t.Fatal(err)
			}
			want, err := jsonbody.EncodeMessage(reply.Body, reply.Tensors)
			if got := rpc(t, c, "p.echo", params); err != nil || got.Error != nil || !bytes.Equal(got.Result, want) {
				t.Errorf("%s: %s, want %s, %v", params, got.Result, want, err)
			}
		}
		for code := range rpcCode {
			_, err := recv(native.call(t, string(code)))
			want := ipc.AsError(err)
			if got := rpc(t, c, "p."+string(code), "1"); !reflect.DeepEqual(*got.err(), *want) || got.Error.Code != rpcCode[code] {
				t.Errorf("%s: %#v, want %#v", code, got.err(), want)
			}
		}
	}
}

// Large bodies and answers come whole, by either version, and leave nothing charged.
func TestRPCLarge(t *testing.T) {
	s := start(t, newBabel(), Config{Memory: 1 << 30})
	large := `"` + strings.Repeat("0123456789abcdef", 1<<18) + `"`
	for version := 1; version <= 2; version++ {
		if r := rpc(t, browser(t, s.path, version), "p.echo", large); string(r.Result) != large {
			t.Errorf("HTTP/%d: %d bytes came back, %v", version, len(r.Result), r.Error)
		}
	}
	eventually(t, "everything to be given back", func() bool { return s.clients.memory.Used() == 0 })
}

func TestRPCHeaders(t *testing.T) {
	s := start(t, newBabel(), Config{})
	c := browser(t, s.path, 1)
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, tt := range []struct{ timeout, trace, want string }{
		{"1500", trace, `"timeout_ms":1500,"trace":"` + trace + `"`},
		{"2.5s", trace + "-x", `"timeout_ms":2500,"trace":""`},
		{"", strings.ToUpper(trace), `"timeout_ms":0,"trace":""`},
	} {
		if r := rpc(t, c, "p.inspect", "null", "X-Ringmaster-Timeout", tt.timeout, "Traceparent", tt.trace, "X-Other", "1"); !strings.Contains(string(r.Result), tt.want) || !strings.Contains(string(r.Result), `"headers":0`) {
			t.Errorf("%+v: %s", tt, r.Result)
		}
	}
	for _, bad := range []string{"x", "-1", "0", "1 s", "99999999999999999999"} {
		wantReason(t, rpc(t, c, "p.echo", "1", "X-Ringmaster-Timeout", bad).err(), "INVALID_ARGUMENT/invalid_argument")
	}
	wantReason(t, rpc(t, c, "p.block", "1", "X-Ringmaster-Timeout", "1").err(), "DEADLINE_EXCEEDED/deadline")
	wantReason(t, rpc(t, c, "p.count", "1").err(), "UNIMPLEMENTED/stream")
}

func TestBadRPC(t *testing.T) {
	s := start(t, newBabel(), Config{MaxMessage: 1 << 16, ReadTimeout: 100 * time.Millisecond})
	c := browser(t, s.path, 1)
	many := "[" + strings.TrimSuffix(strings.Repeat("1,", maxBatch+1), ",") + "]"
	for _, tt := range []struct {
		name, sent string
		status     int
		want       string
	}{
		{"nothing", "", 200, `"code":-32700`},
		{"half", `{"jsonrpc":`, 200, `"code":-32700`},
		{"two", `{} {}`, 200, `"code":-32700`},
		{"not UTF-8", "\"\xff\"", 200, `"code":-32700`},
		{"nested too deep", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), 200, `"code":-32700`},
		{"a number", `1`, 200, `"code":-32600`},
		{"an empty object", `{}`, 200, `"code":-32600`},
		{"another version", `{"jsonrpc":"1.0","method":"p.echo","id":1}`, 200, `"code":-32600`},
		{"a version of another type", `{"jsonrpc":2.0,"method":"p.echo","id":[1]}`, 200, `"id":[1]}`},
		{"a method of another type", `{"jsonrpc":"2.0","method":[1],"id":{"a":null}}`, 200, `"id":{"a":null}}`},
		{"no dot", `{"jsonrpc":"2.0","method":"echo","id":"x"}`, 200, `"code":-32601`},
		{"no pool", `{"jsonrpc":"2.0","method":".echo","id":null}`, 200, `"code":-32601`},
		{"an unknown pool", `{"jsonrpc":"2.0","method":"nowhere.echo","id":1}`, 200, `"unknown_pool"`},
		{"params that nest too deep", `{"jsonrpc":"2.0","method":"p.echo","id":1,"params":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, 200, `"code":-32602`},
		{"a number out of range", `{"jsonrpc":"2.0","method":"p.echo","id":1,"params":1e999}`, 200, `"code":-32602`},
		{"a bad tensor", `{"jsonrpc":"2.0","method":"p.echo","id":1,"params":{"$tensors":[{"name":"x","dtype":"int7"}]}}`, 200, `"bad_tensor"`},
		{"an empty batch", `[]`, 200, `"code":-32600`},
		{"a batch that is too long", many, 200, `"code":-32600`},
		{"a batch of nonsense", `[1,[]]`, 200, `[{"jsonrpc":"2.0","error":{"code":-32600`},
		{"a notification", `{"jsonrpc":"2.0","method":"p.echo"}`, 204, ``},
		{"a notification that fails", `{"jsonrpc":"2.0","method":"p.INTERNAL"}`, 204, ``},
		{"a batch of notifications", `[{"jsonrpc":"2.0","method":"p.count"}]`, 204, ``},
		{"too large", strings.Repeat(" ", 1<<16) + "1", 413, `too_large`},
	} {
		if status, _, body := ask(t, c, "POST", "h/rpc", tt.sent); status != tt.status || !strings.Contains(body, tt.want) || body != "" && !json.Valid([]byte(body)) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, status, body, tt.status, tt.want)
		}
	}
	for name, head := range map[string]string{"a body that stops": "Content-Length: 100\r\n\r\n{", "a chunked body that stops": "Transfer-Encoding: chunked\r\n\r\n5\r\n{"} {
		conn := connect(t, s.path)
		_, _ = conn.Write([]byte("POST /rpc HTTP/1.1\r\nHost: x\r\n" + head))
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "504") || !strings.Contains(string(answer), `"id":null`) {
			t.Errorf("%s: %s, %v", name, answer, err)
		}
	}
	conn := connect(t, s.path) // larger than it says, piece by piece
	_, _ = conn.Write([]byte("POST /rpc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n" + strings.Repeat(" ", 0x10001) + "\r\n0\r\n\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "413") {
		t.Errorf("a chunked body that is too large: %s, %v", line, err)
	}
}

// A batch's calls run side by side, a few at a time; its responses are in order, and notifications have none.
func TestRPCBatch(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{})
	var calls []string
	for i := range maxBatch {
		id := fmt.Sprintf(`,"id":%d`, i)
		if i%10 == 3 {
			id = ""
		}
		calls = append(calls, fmt.Sprintf(`{"jsonrpc":"2.0","method":"p.echo","params":[%d]%s}`, i, id))
	}
	_, _, body := ask(t, browser(t, s.path, 1), "POST", "h/rpc", "["+strings.Join(calls, ",")+"]")
	var replies []rpcReply
	if err := json.Unmarshal([]byte(body), &replies); err != nil {
		t.Fatal(err)
	}
	at := 0
	for i := range maxBatch {
		if i%10 == 3 {
			continue
		}
		if r := replies[at]; string(r.ID) != fmt.Sprint(i) || string(r.Result) != fmt.Sprintf("[%d]", i) {
			t.Fatalf("response %d: %s %s", at, r.ID, r.Result)
		}
		at++
	}
	if len(replies) != at || b.most.Load() > batchParallel {
		t.Errorf("%d responses, want %d; up to %d calls at a time", len(replies), at, b.most.Load())
	}
}

func TestRPCStream(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{})
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		for method, want := range map[string]string{
			"p.count": "event: chunk\ndata: 1\n\nevent: chunk\ndata: 2\n\nevent: chunk\ndata: 3\n\nevent: response\ndata: {\"jsonrpc\":\"2.0\",\"result\":null,\"id\":1}\n\n",
			"p.echo":  "event: response\ndata: {\"jsonrpc\":\"2.0\",\"result\":\"a\\nb\",\"id\":1}\n\n",
			"x":       "event: response\ndata: {\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32601,",
		} {
			status, header, body := ask(t, c, "POST", "h/rpc", `{"jsonrpc":"2.0","method":"`+method+`","params":"a\nb","id":1}`, "Accept", "text/event-stream")
			if status != 200 || header.Get("Content-Type") != "text/event-stream" || !strings.HasPrefix(body, want) {
				t.Errorf("%s: %d %q", method, status, body)
			}
		}
		pretty := "{\"jsonrpc\": \"2.0\", \"method\": \"p.echo\", \"id\": {\r\n  \"n\": [\n\n1\n]}, \"params\": 1}"
		if _, _, body := ask(t, c, "POST", "h/rpc", pretty, "Accept", "text/event-stream"); body != "event: response\ndata: {\"jsonrpc\":\"2.0\",\"result\":1,\"id\":{\"n\":[1]}}\n\n" {
			t.Errorf("an id of several lines: %q", body)
		}
		if _, _, body := ask(t, c, "POST", "h/rpc", `[{"jsonrpc":"2.0","method":"p.echo","id":1}]`, "Accept", "text/event-stream"); !strings.Contains(body, "-32600") {
			t.Errorf("a batch: %s", body)
		}
	}
}

// pausing is an answer whose chunks are long in coming.
type pausing struct {
	left  int
	pause time.Duration
}

func (p *pausing) Recv(context.Context) (*ipc.Reply, error) {
	<-time.After(p.pause)
	p.left--
	return &ipc.Reply{Body: ipc.Body{byte(p.left)}, End: p.left == 0}, nil
}
func (p *pausing) Cancel(string) {}

// A stream may pause for longer than any timeout of reading and writing.
func TestRPCStreamMayPause(t *testing.T) {
	const timeout = 50 * time.Millisecond
	s := start(t, backendFunc(func(context.Context, *ipc.Request) (ipc.Replies, error) { return &pausing{4, 2 * timeout}, nil }), Config{StallTimeout: timeout, WriteTimeout: timeout, ReadTimeout: timeout})
	for version := 1; version <= 2; version++ {
		_, _, body := ask(t, browser(t, s.path, version), "POST", "h/rpc", `{"jsonrpc":"2.0","method":"p.x","id":1}`, "Accept", "text/event-stream")
		if strings.Count(body, "event: chunk") != 3 || !strings.Contains(body, `"result":0,`) {
			t.Errorf("HTTP/%d: %s", version, body)
		}
	}
}

// A client that hangs up in mid-request cancels it.
func TestRPCHangUpCancels(t *testing.T) {
	for version := 1; version <= 2; version++ {
		b := newBabel()
		s := start(t, b, Config{})
		c := browser(t, s.path, version)
		ctx, cancel := context.WithCancel(context.Background())
		r, err := http.NewRequestWithContext(ctx, "POST", "http://h/rpc", strings.NewReader(`{"jsonrpc":"2.0","method":"p.block","id":1}`))
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan error, 1)
		go func() {
			answer, err := c.Do(r)
			if err == nil {
				answer.Body.Close()
			}
			gone <- err
		}()
		await(t, b.ended, "the request to begin")
		cancel()
		if got := await(t, b.ended, "the cancel"); got != "cancelled" {
			t.Errorf("HTTP/%d: cancelled for %q", version, got)
		}
		await(t, gone, "the client")
	}
}

// A client whose streams it does not read has them cancelled; others do not notice.
func TestRPCReaderOfNothing(t *testing.T) {
	f := newFake()
	f.chunk = sizedBody(1 << 16)
	s := start(t, f, Config{StallTimeout: 50 * time.Millisecond, WriteTimeout: 50 * time.Millisecond})
	for version := 1; version <= 2; version++ {
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://h/rpc", strings.NewReader(`{"jsonrpc":"2.0","method":"p.stream","id":1}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/event-stream")
		answer, err := browser(t, s.path, version).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := await(t, f.ended, "the cancel"); got != "slow_reader" && got != "cancelled" {
			t.Errorf("HTTP/%d: cancelled for %q", version, got)
		}
		answer.Body.Close()
		if r := rpc(t, browser(t, s.path, version), "p.echo", "1"); string(r.Result) != "1" {
			t.Error(r)
		}
	}
}

// A process's share and its number of requests bound what it asks by HTTP, too.
func TestRPCIsCharged(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{MaxMessage: 1 << 20, Memory: 4 << 20, Clients: Limits{InFlight: 1}})
	c := browser(t, s.path, 2)
	status, header, body := ask(t, c, "POST", "h/rpc", `"`+strings.Repeat("x", 1<<20-10)+`"`)
	if status != 429 || header.Get("Retry-After") != "1" || !strings.Contains(body, "memory_full") {
		t.Errorf("a body that is most of the memory: %d %v %s", status, header, body)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", "http://h/rpc", strings.NewReader(`{"jsonrpc":"2.0","method":"p.block","id":1}`))
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if answer, err := c.Do(r); err == nil {
			answer.Body.Close()
		}
	}()
	await(t, b.ended, "the request to begin")
	if status, _, body := ask(t, c, "POST", "h/rpc", `1`); status != 429 || !strings.Contains(body, "too_many_requests") {
		t.Errorf("a second request of one: %d %s", status, body)
	}
	cancel()
	<-gone
}

// Whatever is posted, what comes back is JSON-RPC.
func FuzzRPC(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","method":"p.echo","params":{"$tensors":[]},"id":1}`))
	f.Add([]byte(`[{"jsonrpc":"2.0","method":"p.count","id":[]},1]`))
	f.Add([]byte(`{"jsonrpc":"2.0","method":"p.INTERNAL","id":"\u0000"}`))
	s := start(f, newBabel(), Config{MaxMessage: 1 << 16})
	c := browser(f, s.path, 2)
	f.Fuzz(func(t *testing.T, body []byte) {
		if bytes.Contains(body, []byte("block")) {
			return
		}
		status, _, answer := ask(t, c, "POST", "h/rpc", string(body))
		if status == 204 && answer == "" {
			return
		}
		if !json.Valid([]byte(answer)) || !strings.Contains(answer, `"jsonrpc":"2.0"`) {
			t.Fatalf("%q: %d %s", body, status, answer)
		}
	})
}
