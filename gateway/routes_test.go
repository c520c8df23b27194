package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What no path or method answers is told in the form of the protocol that it belongs to, and the connection goes on.
func TestNobodyAnswersThere(t *testing.T) {
	s := start(t, manager(newFake(), healthOf(true, "")), Config{})
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		for _, tt := range []struct {
			method, path, body string
			status             int
			allow              string
			want               string // what the answer begins with
			there              string // and contains
		}{
			{"GET", "nowhere", "", 404, "", `{"error":{"code":"NOT_FOUND","message":"there is nothing at /nowhere; there are GET /, GET /healthz, `, `POST /rpc, OpenAI's below /v1/`},
			{"GET", "v1", "", 404, "", `{"error":{"code":"NOT_FOUND"`, "below /v1/"},
			{"GET", "v2x/models", "", 404, "", `{"error":{"code":"NOT_FOUND"`, ""},
			{"GET", "rpc/", "", 404, "", `{"error":{"code":"NOT_FOUND"`, "POST /rpc"},
			{"PUT", "healthz", "x", 405, "GET, HEAD", `{"error":{"code":"UNIMPLEMENTED","message":"/healthz takes GET and HEAD, not PUT","reason":"wrong_method"}}`, ""},
			{"DELETE", "", "", 405, "GET, HEAD", `{"error":{"code":"UNIMPLEMENTED"`, ""},
			{"GET", "rpc", "", 405, "POST", `{"jsonrpc":"2.0","error":{"code":-32012,"message":"/rpc takes POST, not GET"`, `"id":null`},
			{"POST", "v1/responses", `{"model":"m"}`, 404, "", `{"error":{"code":"unknown_path","message":"there is nothing at /v1/responses; there are POST /v1/chat/completions, `, `"type":"invalid_request_error"`},
			{"GET", "v1/chat/completions", "", 405, "POST", `{"error":{"code":"wrong_method","message":"/v1/chat/completions takes POST, not GET","param":null,"type":"invalid_request_error"}}`, ""},
			{"DELETE", "v1/models/m", "", 405, "GET, HEAD", `{"error":{"code":"wrong_method"`, ""},
			{"GET", "v2/models", "", 404, "", `{"error":"NOT_FOUND/unknown_path: there is nothing at /v2/models; there are GET /v2, GET /v2/, `, "POST /v2/models/{model}/infer"},
			{"PATCH", "v2", "{}", 405, "GET, HEAD", `{"error":"UNIMPLEMENTED/wrong_method: /v2 takes GET and HEAD, not PATCH"}`, ""},
			{"GET", "v2/models/m/versions/1/infer", "", 405, "POST", `{"error":"UNIMPLEMENTED/wrong_method`, ""},
			{"GET", strings.Repeat("x", 5000), "", 404, "", `{"error":{"code":"NOT_FOUND","message":"there is nothing at /xxx`, "…"},
		} {
			status, h, body := ask(t, c, tt.method, "h/"+tt.path, tt.body)
			if status != tt.status || !strings.HasPrefix(body, tt.want) || !strings.Contains(body, tt.there) || !json.Valid([]byte(body)) || len(body) > 1000 {
				t.Errorf("HTTP/%d, %s /%.30s: %d %s, want %d %s … %s", version, tt.method, tt.path, status, body, tt.status, tt.want, tt.there)
			}
			if h.Get("Content-Type") != "application/json" || h.Get("Allow") != tt.allow || h.Get("Connection") != "" {
				t.Errorf("HTTP/%d, %s /%.30s: %v", version, tt.method, tt.path, h)
			}
		}
	}
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	if s.clients.open > 2 {
		t.Errorf("%d connections; each client should have needed one", s.clients.open)
	}
}

// So is what has no path at all, and a body that nobody waits for does not hold the connection for ever.
func TestNobodyAnswersRawRequests(t *testing.T) {
	s := start(t, newFake(), Config{ReadTimeout: 50 * time.Millisecond})
	for _, request := range []string{
		"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
		"POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nnot all of it",
	} {
		conn := connect(t, s.path)
		if _, err := fmt.Fprint(conn, request); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		if answer.StatusCode != 404 || answer.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%q: %v", request, answer)
		}
		_ = answer.Body.Close()
		if strings.HasPrefix(request, "POST") {
			wantClosed(t, conn)
		}
	}
}
