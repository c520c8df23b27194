package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// talk is a stream of lines that is open.
type talk struct {
	t    testing.TB
	to   *io.PipeWriter
	from *bufio.Scanner
}

// converse opens one. kind is its content type.
func converse(t testing.TB, c *http.Client, kind string) *talk {
	t.Helper()
	body, to := io.Pipe()
	r, err := http.NewRequestWithContext(patient(t), "POST", "http://h/rpc", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	answer, err := c.Do(r)
	if err != nil || answer.StatusCode != 200 || answer.Header.Get("Content-Type") != kind {
		t.Fatalf("%v, %v", answer, err)
	}
	t.Cleanup(func() {
		_ = to.Close()
		_ = answer.Body.Close()
	})
	from := bufio.NewScanner(answer.Body)
	from.Buffer(nil, 1<<20)
	return &talk{t, to, from}
}

func (k *talk) say(line string) {
	k.t.Helper()
	if _, err := io.WriteString(k.to, line+"\n"); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) call(id, method, params string) {
	k.t.Helper()
	k.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":%s}`, id, method, params))
}

func (k *talk) hear() string {
	k.t.Helper()
	if !k.from.Scan() {
		k.t.Fatalf("the stream ended: %v", k.from.Err())
	}
	return k.from.Text()
}

func (k *talk) wants(want string) {
	k.t.Helper()
	if got := k.hear(); !strings.Contains(got, want) || !json.Valid([]byte(strings.TrimPrefix(got, recordMark))) {
		k.t.Errorf("%s, want %s", got, want)
	}
}

// Calls share a stream: each has its response as soon as it is there, chunks come before it, and what blocks blocks nobody.
func TestRPCLines(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{MaxMessage: 1 << 16})
	for version := 1; version <= 2; version++ {
		for _, kind := range []string{"application/x-ndjson", "application/json-seq"} {
			k := converse(t, browser(t, s.path, version), kind)
			k.call(`"slow"`, "p.block", "null")
			await(t, b.ended, "it to begin")
			k.say("")
			k.say(recordMark + `{"jsonrpc":"2.0","id":1,"method":"p.echo","params":{"a":[1]}}`)
			if got := k.hear(); strings.HasPrefix(got, recordMark) != (kind == "application/json-seq") || !strings.HasSuffix(got, `{"jsonrpc":"2.0","result":{"a":[1]},"id":1}`) {
				t.Errorf("%s: %q", kind, got)
			}
			k.call("2", "p.count", "null")
			for want := 1; want <= 3; want++ {
				k.wants(fmt.Sprintf(`{"jsonrpc":"2.0","method":"rpc.chunk","params":{"id":2,"chunk":%d}}`, want))
			}
			k.wants(`"result":null,"id":2`)
			k.say(`{"jsonrpc":"2.0","method":"p.echo"}`)
			k.call("3", "p.UNAVAILABLE", "1")
			k.wants(`"code":-32014`)
			k.call(`"slow"`, "p.echo", "1")
			k.wants(`"duplicate_id"`)
			for bad, want := range map[string]string{"{": "-32700", "\"\xff\"": "-32700", "1": "-32600", "[]": "-32600", "{}": "-32600", `{"jsonrpc":"2.0","id":4,"method":"nodot"}`: "-32601", strings.Repeat("x", 1<<16+1): "too_large"} {
				k.say(bad)
				k.wants(want)
			}
			k.call("null", "p.block", "null") // what is no call is told with the same id, and has nothing to do with it
			await(t, b.ended, "it to begin")
			k.say("{}")
			k.wants("-32600")
			k.say(`{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":null}}`)
			k.wants(`"code":-32001`)
			await(t, b.ended, "the cancellation to reach the chain")
			k.say(`{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":"none"}}`)
			k.say(`{"jsonrpc":"2.0","method":"rpc.cancel","params":7}`)
			k.say(`{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":"slow"}}`)
			k.wants(`"code":-32001`)
			if why := await(t, b.ended, "the cancellation to reach the chain"); why != "cancelled" {
				t.Errorf("it ended with %s", why)
			}
			k.call("5", "p.echo", `"last"`)
			k.wants(`"result":"last"`)
			_ = k.to.Close()
			if k.from.Scan() {
				t.Errorf("after the end: %s", k.from.Text())
			}
		}
	}
	eventually(t, "everything to be given back", func() bool { return s.clients.memory.Used() == 0 })
}

// A client that goes away cancels what it had asked; one that stops in the midst of a line has its stream ended.
func TestRPCLinesEnd(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{ReadTimeout: 100 * time.Millisecond})
	k := converse(t, browser(t, s.path, 2), "application/x-ndjson")
	k.call("1", "p.block", "null")
	await(t, b.ended, "it to begin")
	_ = k.to.CloseWithError(errors.New("gone"))
	await(t, b.ended, "it to be cancelled")
	k = converse(t, browser(t, s.path, 2), "application/x-ndjson")
	if _, err := io.WriteString(k.to, `{"jsonrpc"`); err != nil {
		t.Fatal(err)
	}
	for k.from.Scan() {
		t.Errorf("after half a line: %s", k.from.Text())
	}
	c := browser(t, s.path, 2)
	for sent, want := range map[[2]string]int{{"application/x-ndjson", "gzip"}: 415, {"application/jsonl; charset=utf-8", ""}: 200} {
		if status, _, body := ask(t, c, "POST", "h/rpc", `{"jsonrpc":"2.0","id":1,"method":"p.echo","params":7}`, "Content-Type", sent[0], "Content-Encoding", sent[1]); status != want {
			t.Errorf("%v: %d %s", sent, status, body)
		}
	}
}

// A server that drains answers what is open on a stream, and ends it: nobody waits for the client.
func TestDrainOfStreams(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{DrainTimeout: patience})
	k := converse(t, browser(t, s.path, 2), "application/x-ndjson")
	k.call("1", "p.echo", "1")
	k.wants(`"result":1`)
	stream, err := ringmasterv1.NewRingmasterClient(grpcDial(t, s.path)).Converse(patient(t), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&ringmasterv1.ConverseRequest{Id: 1, What: &ringmasterv1.ConverseRequest_Call{Call: &ringmasterv1.CallRequest{Pool: "p", Action: "echo"}}}); err != nil {
		t.Fatal(err)
	}
	if out, err := stream.Recv(); err != nil || out.GetEnd() == nil {
		t.Errorf("%v, %v", out, err)
	}
	ended, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() {
		defer cancel()
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := stream.Recv(); asIPC(t, err).Reason != "draining" {
		t.Errorf("%v", err)
	}
	if k.from.Scan() {
		t.Errorf("lines: %s", k.from.Text())
	}
	if <-ended.Done(); !errors.Is(ended.Err(), context.Canceled) {
		t.Error("the server waits for its clients")
	}
}

// Whatever lines are sent, lines of JSON come back.
func FuzzRPCLines(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"p.echo","params":7}` + "\n" + `{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":1}}` + "\n"))
	f.Add([]byte(recordMark + `{"jsonrpc":"2.0","id":1,"method":"p.count"}` + "\n[]\n\xff\n{"))
	s := start(f, newBabel(), Config{MaxMessage: 1 << 16})
	c := browser(f, s.path, 2)
	f.Fuzz(func(t *testing.T, body []byte) {
		if strings.Contains(string(body), "block") {
			return
		}
		status, _, answer := ask(t, c, "POST", "h/rpc", string(body), "Content-Type", "application/x-ndjson")
		for line := range strings.Lines(answer) {
			if !json.Valid([]byte(line)) || status != 200 {
				t.Fatalf("%q: %d %q", body, status, line)
			}
		}
	})
}
