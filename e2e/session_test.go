package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/client"
)

// A reload changes what a running server can change of sessions, and keeps them.
func TestSessionsAfterAReload(t *testing.T) {
	s := serve(t, sessions("{store: memory}"), "llm")
	c, ctx := s.dial(), testContext(t)
	if _, _, err := say(ctx, c, "tea", "one"); err != nil {
		t.Fatal(err)
	}
	s.reload(t, strings.Replace(sessions("{store: memory, max_bytes: 2KiB, on_conflict: abort}"), "session: {conversation: true}", "session: {conversation: false}", 1))
	if got, version, err := say(ctx, c, "tea", "two"); err != nil || got.Turn != 1 || version != 2 || !slices.Equal(got.Asked, []string{"two"}) {
		t.Errorf("%+v, version %d, %v", got, version, err)
	}
	s.reload(t, sessions("{store: memory, max_bytes: 2KiB}"))
	if got, version, err := say(ctx, c, "tea", "three"); err != nil || got.Turn != 2 || version != 3 || !slices.Equal(got.Asked, []string{"one", "three"}) {
		t.Errorf("%+v, version %d, %v", got, version, err)
	}
	_, _, err := say(ctx, c, "tea", strings.Repeat("x", 3000))
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != "session_full" {
		t.Errorf("beyond the new limit: %v", err)
	}
}

// reload gives the server another configuration.
func (s *server) reload(t *testing.T, config string) {
	t.Helper()
	file := filepath.Join(filepath.Dir(s.socket), "ringmaster.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "${SELF}", os.Args[0])), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := s.output("reload"); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
}

// sessions is a pool that converses, and where its sessions are kept.
func sessions(store string) string {
	return `
pools:
  llm: {command: ["${SELF}", worker], workers: 3, balance: hash, affinity_wait: 30s, session: {conversation: true}}
sessions: ` + store
}

// say continues a session, and returns what the worker got.
func say(ctx context.Context, c *client.Client, session, text string) (got chatted, version int, err error) {
	body := map[string]any{"messages": []map[string]string{{"role": "user", "content": text}}}
	answer := ""
	for chunk, err := range c.Stream(ctx, "llm", "chat", body, client.WithSession(session)) {
		if err != nil {
			return got, 0, err
		}
		var part struct {
			Text string `msgpack:"text"`
		}
		if err := chunk.Decode(&part); err != nil {
			return got, 0, err
		}
		answer += part.Text
		if v := chunk.Headers["session-version"]; v != "" {
			if version, err = strconv.Atoi(v); err != nil {
				return got, 0, err
			}
		}
	}
	return got, version, json.Unmarshal([]byte(answer), &got)
}

// A session goes on over frames, over HTTP, and in the hands of one worker; it can be looked at and removed; another one knows nothing of it.
func TestSessions(t *testing.T) {
	s := serve(t, sessions("{store: memory}"), "llm")
	eventually(t, time.Minute, "all workers", func() bool { // a session goes home when its worker is ready
		return !slices.ContainsFunc(s.workers("llm"), func(w worker) bool { return w.State != "ready" })
	})
	c, ctx := s.dial(), testContext(t)
	pids := map[int]bool{}
	for i := range 4 {
		got, version, err := say(ctx, c, "tea", fmt.Sprint("words ", i))
		if err != nil || got.Turn != i || version != i+1 || got.Messages != 2*i+1 || got.Asked[i] != fmt.Sprint("words ", i) {
			t.Errorf("turn %d: %+v, version %d, %v", i, got, version, err)
		}
		pids[got.PID] = true
	}
	answer, header := s.completes(t, "tea", "by HTTP")
	if got := answer.Asked; answer.Turn != 4 || answer.Messages != 9 || len(got) != 5 || got[4] != "by HTTP" || header != "5" {
		t.Errorf("%+v, version %s", answer, header)
	}
	pids[answer.PID] = true
	if len(pids) != 1 {
		t.Errorf("the session went through %d workers", len(pids))
	}
	if got, version, err := say(ctx, c, "other", "hello"); err != nil || got.Turn != 0 || version != 1 || got.Messages != 1 {
		t.Errorf("another session: %+v, version %d, %v", got, version, err)
	}
	if out, errs, code := s.output("session", "list"); code != 0 || !strings.Contains(out, "tea") || !strings.Contains(out, "other") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	var shown struct {
		Version  int
		Messages []struct{ Role, Content string }
	}
	out, errs, _ := s.output("session", "show", "tea", "--json")
	if err := json.Unmarshal([]byte(out), &shown); err != nil || shown.Version != 5 || len(shown.Messages) != 10 || shown.Messages[8].Content != "by HTTP" || shown.Messages[9].Role != "assistant" {
		t.Errorf("%v: %s%s", err, out, errs)
	}
	if out, errs, code := s.output("session", "rm", "tea"); code != 0 {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if got, version, err := say(ctx, c, "tea", "anew"); err != nil || got.Turn != 0 || version != 1 {
		t.Errorf("after it was removed: %+v, version %d, %v", got, version, err)
	}
	if text := s.get(t, "/metrics"); !strings.Contains(text, "ringmaster_sessions 2\n") {
		t.Errorf("the metrics lack 2 sessions:\n%s", text)
	}
	s.interrupted(t, c)
}

// interrupted: a stream that its client leaves is no part of the session.
func (s *server) interrupted(t *testing.T, c *client.Client) {
	body := map[string]any{"wait": true, "messages": []map[string]string{{"role": "user", "content": "never mind"}}}
	for _, err := range c.Stream(testContext(t), "llm", "chat", body, client.WithSession("other")) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	if got, version, err := say(testContext(t), c, "other", "again"); err != nil || got.Turn != 1 || version != 2 || !slices.Equal(got.Asked, []string{"hello", "again"}) {
		t.Errorf("%+v, version %d, %v", got, version, err)
	}
}

func (s *server) web() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}}}
}

func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	r, err := s.web().Get("http://localhost" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v", path, r.StatusCode, err)
	}
	return string(b)
}

// completes continues a session through OpenAI's path.
func (s *server) completes(t *testing.T, session, text string) (got chatted, version string) {
	t.Helper()
	req, err := http.NewRequestWithContext(testContext(t), http.MethodPost, "http://localhost/v1/chat/completions", strings.NewReader(`{"model": "llm", "messages": [{"role": "user", "content": "`+text+`"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Ringmaster-Session", session)
	r, err := s.web().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || len(answer.Choices) != 1 {
		t.Fatalf("%d, %+v, %v", r.StatusCode, answer, err)
	}
	if err := json.Unmarshal([]byte(answer.Choices[0].Message.Content), &got); err != nil {
		t.Fatal(err)
	}
	return got, r.Header.Get("X-Ringmaster-Session-Version")
}

// The server is killed again and again while sessions go on. Each goes on after the last answer that its client had, or after one that the client did not hear the end of.
func TestSessionsSurviveTheServersDeath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	const talkers = 4
	acknowledged := make([][]string, talkers)
	for round := range 4 {
		s := serve(t, sessions("{store: bbolt, path: "+path+"}"), "llm")
		c := s.dial()
		enough := make(chan struct{}, 3*talkers)
		var killed atomic.Bool
		var wg sync.WaitGroup
		for i := range talkers {
			wg.Go(func() {
				for n := 0; ; n++ {
					text := fmt.Sprintf("%d: %d.%d", i, round, n)
					got, _, err := say(testContext(t), c, fmt.Sprint("talker-", i), text)
					if err != nil {
						if !killed.Load() {
							t.Errorf("talker %d: %v", i, err)
						}
						return
					}
					if !remembers(got, acknowledged[i], fmt.Sprint(i, ": ")) {
						t.Errorf("round %d: of %q the worker got %q", round, acknowledged[i], got.Asked)
					}
					acknowledged[i] = append(acknowledged[i], text)
					select {
					case enough <- struct{}{}:
					default:
					}
				}
			})
		}
		eventually(t, time.Minute, "some turns", func() bool { return len(enough) == cap(enough) || t.Failed() })
		killed.Store(true)
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-s.ended
		s.gone = true
		wg.Wait()
		eventually(t, 10*time.Second, "its workers' end", func() bool { return len(s.tree()) == 0 })
	}
	t.Logf("%d, %d, %d, %d turns", len(acknowledged[0]), len(acknowledged[1]), len(acknowledged[2]), len(acknowledged[3]))
}

// remembers reports whether a conversation has what was acknowledged, in order, and besides only what its own client has asked.
func remembers(got chatted, acknowledged []string, prefix string) bool {
	next := 0
	for _, text := range got.Asked {
		if !strings.HasPrefix(text, prefix) {
			return false
		}
		if next < len(acknowledged) && text == acknowledged[next] {
			next++
		}
	}
	return next == len(acknowledged) && got.Turn == got.Messages/2
}

// A server that was told of a Redis says so when it is not there, and goes on when it is.
func TestSessionsInRedis(t *testing.T) {
	binary, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("RINGMASTER_TEST_REDIS") != "" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("there is no redis-server on this machine: apt-get install redis-server")
	}
	dir, err := os.MkdirTemp("", "rmredis") // not t.TempDir: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "r.sock")
	s := serve(t, sessions("{store: redis, url: 'unix://"+socket+"'}"), "llm")
	c, ctx := s.dial(), testContext(t)
	_, _, err = say(ctx, c, "tea", "one")
	var e *client.Error
	if !errors.As(err, &e) || e.Code != "UNAVAILABLE" || e.Reason != "session_store" {
		t.Errorf("without Redis: %v", err)
	}
	if _, errs, code := s.output("call", "llm", "pid", "-H", "session=tea"); code != 3 || !strings.Contains(errs, "UNAVAILABLE/session_store") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if _, errs, code := s.output("call", "llm", "pid"); code != 0 {
		t.Errorf("without a session: exit %d, %s", code, errs)
	}
	redis := exec.Command(binary, "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "no")
	if err := redis.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = redis.Process.Kill()
		_ = redis.Wait()
	})
	eventually(t, 30*time.Second, "Redis", func() bool {
		got, version, err := say(ctx, c, "tea", "two")
		return err == nil && version == 1 && got.Messages == 1
	})
	if got, version, err := say(ctx, c, "tea", "three"); err != nil || version != 2 || !slices.Equal(got.Asked, []string{"two", "three"}) {
		t.Errorf("%+v, version %d, %v", got, version, err)
	}
}
