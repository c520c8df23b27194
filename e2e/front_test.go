package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// openai runs OpenAI's own client over the socket.
func (s *server) openai(t *testing.T) {
	app := exec.Command(python, filepath.Join(root, "e2e", "testdata", "openai_app.py"))
	app.Env = s.command().Env
	out, err := app.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all good") {
		t.Errorf("%v (the client comes with `make py`)\n%s", err, out)
	}
}

// curl asks over the socket and returns what it printed, the status last.
func (s *server) curl(t *testing.T, path string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl")
	}
	args = append([]string{"--silent", "--show-error", "--max-time", "60", "--unix-socket", s.socket, "--write-out", "%{http_code}"}, append(args, "http://localhost"+path)...)
	out, err := exec.Command("curl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (s *server) curls(t *testing.T) {
	for _, version := range []string{"--http1.1", "--http2-prior-knowledge"} {
		if out := s.curl(t, "/healthz", version); out != "{\"ok\":true}\n200" {
			t.Errorf("%s: healthz: %s", version, out)
		}
		if out := s.curl(t, "/readyz", version); !strings.HasSuffix(out, "200") || !strings.Contains(out, `"name":"smollm2"`) {
			t.Errorf("%s: readyz: %s", version, out)
		}
		if out := s.curl(t, "/v1/chat/completions", version, "-d", `{"model":"smollm2","temperature":0,`+question("What is the capital of France?")[1:]); !strings.HasSuffix(out, "200") || !strings.Contains(out, "Paris") {
			t.Errorf("%s: chat: %s", version, out)
		}
		if out := s.curl(t, "/rpc", version, "-H", "Accept: text/event-stream", "-d", fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"smollm2.chat","params":%s}`, question("What is the capital of France?"))); strings.Count(out, "event: chunk\n") < 3 || strings.Count(out, "event: response\n") != 1 {
			t.Errorf("%s: a stream: %s", version, out)
		}
	}
}

// metrics has what the tests before it did: one worker was killed, and each was asked something.
func (s *server) metrics(t *testing.T) {
	out := s.curl(t, "/metrics")
	for _, want := range []string{
		`ringmaster_worker_exits_total{cause="signal",pool="smollm2"} 1`, `ringmaster_workers{pool="smollm2",state="ready"} 2`, `ringmaster_requests_total{action="chat",code="ABORTED",pool="smollm2"} 1`,
		`ringmaster_requests_total{action="",code="NOT_FOUND",pool=""} `, `ringmaster_request_compute_seconds_bucket{action="chat",pool="smollm2",le="+Inf"}`, `ringmaster_request_queue_seconds_count{pool="smollm2"}`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

// The same request has the same answer, and the same error, from the shell by frames and by JSON-RPC.
func (s *server) sameByRPC(t *testing.T) {
	for _, tt := range []struct{ pool, action, body string }{
		{"echo", "echo", `{"b":[1,2.5,null,true],"a":"ü"}`},
		{"echo", "nothing", `1`},
		{"nowhere", "echo", `1`},
		{"smollm2", "chat", `{"messages":[]}`},
	} {
		out := s.curl(t, "/rpc", "-d", fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"%s.%s","params":%s}`, tt.pool, tt.action, tt.body))
		var got struct {
			Result json.RawMessage
			Error  struct {
				Message string
				Data    struct{ Code, Reason string }
			}
		}
		if err := json.Unmarshal([]byte(strings.TrimSuffix(out, "200")), &got); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		native, errs, code := s.output("call", tt.pool, tt.action, "--data", tt.body)
		switch {
		case code == 0:
			var a, b any
			if json.Unmarshal([]byte(native), &a) != nil || json.Unmarshal(got.Result, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%+v: by frames %s, by JSON-RPC %s", tt, native, got.Result)
			}
		case !strings.Contains(errs, got.Error.Data.Code+"/"+got.Error.Data.Reason) || !strings.Contains(errs, got.Error.Message):
			t.Errorf("%+v: by frames %s, by JSON-RPC %+v", tt, errs, got.Error)
		}
	}
}
