package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

// scraper is a client of the server's HTTP.
func (s *server) scraper() *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
	}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// total sums up the values of a metric whose labels match.
func (s *server) total(web *http.Client, name, labels string) (sum float64) {
	s.t.Helper()
	r, err := web.Get("http://localhost/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(\{[^}]*\})? (\S+)$`).FindAllSubmatch(text, -1) {
		if v, err := strconv.ParseFloat(string(m[2]), 64); err == nil && strings.Contains(string(m[1]), labels) {
			sum += v
		}
	}
	return sum
}

// ran is how many requests a pool's workers have answered.
func (s *server) ran(pool string) (n uint64) {
	s.t.Helper()
	for _, p := range s.status().Pools {
		if p.Name == pool {
			for _, w := range p.Workers {
				n += w.Requests
			}
		}
	}
	return n
}

// one makes a call, and returns what its reply says of the cache.
func (s *server) one(pool, action string, body any, opts ...client.CallOption) (*client.Reply, string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := s.client.Call(ctx, pool, action, body, opts...)
	if err != nil {
		s.t.Fatalf("%s.%s: %v\n%s", pool, action, err, s.log)
	}
	return r, r.Headers["cache"]
}

const sleeping = `pools: {a: {builtin: sleep, actions: {sleep: {cache: {ttl: 10m}}}}}`

// A hundred who ask the same at the same time have one run between them.
func TestCacheCoalesces(t *testing.T) {
	s := serve(t, sleeping)
	const many = 100
	said := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range many {
		wg.Go(func() {
			r, err := s.client.Call(context.Background(), "a", "sleep", map[string]any{"seconds": 0.5})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			said[r.Headers["cache"]]++
		})
	}
	wg.Wait()
	if n := s.ran("a"); n != 1 || said["miss"] != 1 || said["miss"]+said["coalesced"]+said["hit"] != many {
		t.Errorf("it ran %d times: %v", n, said)
	}
	web := s.scraper()
	if hits, shared := s.total(web, "ringmaster_cache_hits_total", ""), s.total(web, "ringmaster_cache_coalesced_total", `action="sleep"`); hits+shared != many-1 {
		t.Errorf("%v hits, %v shared", hits, shared)
	}
	if n := s.total(web, "ringmaster_cache_entries", ""); n != 1 {
		t.Errorf("%v entries", n)
	}
}

// The one who asked first may die: the others have their answer.
func TestCacheLeaderDies(t *testing.T) {
	s := serve(t, sleeping)
	web := s.scraper()
	leader := s.begin("call", "a", "sleep", "-d", `{"seconds": 1}`)
	eventually(t, "the first to run", func() bool { return s.status().Pools[0].InFlight == 1 })
	answer := make(chan error, 1)
	go func() {
		r, err := s.client.Call(context.Background(), "a", "sleep", map[string]any{"seconds": 1})
		if err == nil && r.Headers["cache"] != "coalesced" {
			err = fmt.Errorf("the reply says %v", r.Headers)
		}
		answer <- err
	}()
	eventually(t, "another to join", func() bool { return s.total(web, "ringmaster_cache_coalesced_total", "") == 1 })
	if err := leader.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil || s.ran("a") != 1 {
		t.Errorf("%v; it ran %d times", err, s.ran("a"))
	}
}

// The worker may die: an action that may run twice does, once for all.
func TestCacheWorkerDies(t *testing.T) {
	s := serve(t, sleeping)
	web := s.scraper()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.client.Call(context.Background(), "a", "sleep", map[string]any{"seconds": 1}); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all to wait", func() bool { return s.total(web, "ringmaster_cache_coalesced_total", "") == 9 })
	eventually(t, "the worker to have it", func() bool { return s.status().Pools[0].InFlight == 1 })
	if err := syscall.Kill(s.worker().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if n := s.total(web, "ringmaster_cache_misses_total", ""); n != 1 {
		t.Errorf("%v misses", n)
	}
}

// All who asked are cancelled: so is the worker.
func TestCacheCancels(t *testing.T) {
	s := serve(t, sleeping)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.client.Call(ctx, "a", "sleep", map[string]any{"seconds": 1000})
			done <- err
		}()
	}
	eventually(t, "it to run", func() bool { return s.status().Pools[0].InFlight == 1 })
	cancel()
	for range 2 {
		if err := <-done; ipc.AsError(err).Code != ipc.Cancelled {
			t.Error(err)
		}
	}
	eventually(t, "the worker to stop", func() bool { return s.status().Pools[0].InFlight == 0 })
}

// A reload that changes a pool's workers makes all that they said unfit, and one that does not come up, too.
func TestCacheReload(t *testing.T) {
	yaml := func(flavour, command string) string {
		return "pools: {a: {builtin: echo, env: {FLAVOUR: " + flavour + "}, actions: {env: {cache: {ttl: 10m}}}}, b: {" + command + ", actions: {echo: {cache: {ttl: 10m}}}}}\n"
	}
	s := serve(t, yaml("old", "builtin: echo"))
	flavour := func() (string, string) {
		t.Helper()
		r, said := s.one("a", "env", map[string]any{"names": []string{"FLAVOUR"}})
		var body struct {
			Env map[string]string `msgpack:"env"`
		}
		if err := r.Decode(&body); err != nil {
			t.Fatal(err)
		}
		return body.Env["FLAVOUR"], said
	}
	expect := func(want, wantSaid string) {
		t.Helper()
		if got, said := flavour(); got != want || said != wantSaid {
			t.Errorf("%s, %s; want %s, %s", got, said, want, wantSaid)
		}
	}
	expect("old", "miss")
	expect("old", "hit")
	s.one("b", "echo", 1)
	if r := s.run("reload"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	expect("old", "hit") // nothing has changed
	writeConfig(t, s.dir, yaml("new", "builtin: echo"))
	if r := s.run("reload"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	expect("new", "miss")
	if _, said := s.one("b", "echo", 1); said != "hit" {
		t.Errorf("another pool's: %s", said)
	}
	writeConfig(t, s.dir, yaml("old", "command: ['false']"))
	if r := s.run("reload"); r.code != exitFailed {
		t.Fatalf("%+v", r)
	}
	expect("old", "miss") // not the answer of long ago
	for _, want := range []string{"miss", "hit"} {
		if _, said := s.one("b", "echo", 1); said != want {
			t.Errorf("a pool that stayed as it was: %s, want %s", said, want)
		}
	}
}

// What one user was told is not told to another.
func TestCacheIsolation(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	s := serve(t, "pools: {a: {builtin: echo, actions: {env: {cache: {ttl: 10m}}, echo: {cache: {ttl: 10m, shared: true}}}}}")
	for _, dir := range []string{filepath.Dir(binary), filepath.Dir(s.dir), s.dir} {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // so that somebody else finds the socket
			t.Fatal(err)
		}
	}
	// as calls as a user, who is in the socket's group, and returns what the reply says.
	as := func(uid uint32, action string) string {
		t.Helper()
		p := command("/", "call", "a", action, "-d", "{}", "--json", "--socket", s.socket)
		p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 0}}
		out, err := p.Output()
		var reply struct{ Headers map[string]string }
		if err == nil {
			err = json.Unmarshal(out, &reply)
		}
		if err != nil {
			t.Fatalf("%v: %s\n%s", err, out, s.log)
		}
		return reply.Headers["cache"]
	}
	for i, want := range []string{"miss", "hit"} {
		if got := as(65534, "env"); got != want {
			t.Errorf("%d: %s", i, got)
		}
		if got := as(0, "env"); got != want {
			t.Errorf("%d: another user: %s", i, got)
		}
	}
	if a, b := as(65534, "echo"), as(65533, "echo"); a != "miss" || b != "hit" {
		t.Errorf("shared: %s, %s", a, b)
	}
}

func TestCacheClear(t *testing.T) {
	s := serve(t, "pools: {a: {builtin: echo, actions: {echo: {cache: {ttl: 10m}}, count: {cache: {ttl: 10m}}}}, b: {builtin: echo}}")
	s.one("a", "echo", 1)
	if r := s.run("cache", "clear", "b"); r.code != 0 || r.out != "0 answers dropped\n" {
		t.Errorf("%+v", r)
	}
	if _, said := s.one("a", "echo", 1); said != "hit" {
		t.Error(said)
	}
	if r := s.run("cache", "clear", "--json"); r.code != 0 || r.out != "{\"entries\":1}\n" {
		t.Errorf("%+v", r)
	}
	if _, said := s.one("a", "echo", 1); said != "miss" {
		t.Error(said)
	}
	if r := s.run("cache", "clear", "no-such-pool"); r.code != 1 || !strings.Contains(r.errOut, "NOT_FOUND/unknown_pool") {
		t.Errorf("%+v", r)
	}
	if r := s.run("cache", "clear", "a"); r.code != 0 || r.out != "1 answers dropped\n" {
		t.Errorf("%+v", r)
	}
	// A stream, from the cache as from the worker.
	first := s.run("call", "a", "count", "--stream", "-d", `{"n": 40, "text": "x"}`)
	again := s.run("call", "a", "count", "--stream", "-d", `{"text": "x", "n": 40}`)
	if first.code != 0 || first != again || first.out != strings.Repeat("x", 40)+"\n" || s.ran("a") != 3 {
		t.Errorf("%+v\n%+v; %d runs", first, again, s.ran("a"))
	}
}

// New workers on command are asked anew, of that pool alone.
func TestCacheRestart(t *testing.T) {
	s := serve(t, "pools: {a: {builtin: echo, actions: {echo: {cache: {ttl: 10m}}}}, b: {builtin: echo, actions: {echo: {cache: {ttl: 10m}}}}}")
	s.one("a", "echo", 1)
	s.one("b", "echo", 1)
	if r := s.run("restart", "a"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if _, said := s.one("a", "echo", 1); said != "miss" {
		t.Errorf("after a restart: %s", said)
	}
	if _, said := s.one("b", "echo", 1); said != "hit" {
		t.Errorf("another pool: %s", said)
	}
}

// A worker has no say in what links tell; this one replies with the headers that it gets.
func TestWorkersDoNotSpeakForLinks(t *testing.T) {
	s := serve(t, "pools: {a: {builtin: echo}}")
	r, _ := s.one("a", "echo", 1, client.WithHeaders(map[string]string{"k": "v", "age": "7", "cache": "hit", "degraded": "session", "session-version": "9"}))
	if len(r.Headers) != 1 || r.Headers["k"] != "v" {
		t.Errorf("%v", r.Headers)
	}
}

// What HTTP's clients say and are told.
func TestCacheOverHTTP(t *testing.T) {
	s := serve(t, "pools: {a: {builtin: echo, actions: {echo: {cache: {ttl: 10m}}}}}")
	web := s.scraper()
	for i, step := range []struct{ wish, want string }{{"", "miss"}, {"", "hit"}, {"refresh", "miss"}, {"no-store", "hit"}, {"", "hit"}, {"often", ""}} {
		body := []byte(`{"jsonrpc": "2.0", "id": 1, "method": "a.echo", "params": {"x": 1}}`)
		req, err := http.NewRequest(http.MethodPost, "http://localhost/rpc", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if step.wish != "" {
			req.Header.Set("X-Ringmaster-Cache", step.wish)
		}
		r, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || r.Header.Get("X-Ringmaster-Cache") != step.want || step.want == "hit" && r.Header.Get("X-Ringmaster-Age") != "0" {
			t.Errorf("%d: %v, %s, %v", i, r.Header, text, err)
		}
	}
}

// What follows is asked in advance by an idle worker, and by none that is busy.
func TestCachePrefetch(t *testing.T) {
	s := serve(t, `
pools:
  a: {builtin: echo, actions: {echo: {then: [{pool: b, action: sleep, body: {seconds: $reply.next}}]}}}
  b: {builtin: sleep, actions: {sleep: {cache: {ttl: 10m}}}}
`)
	web := s.scraper()
	s.one("a", "echo", map[string]any{"next": 0.001})
	eventually(t, "the answer in advance", func() bool { return s.total(web, "ringmaster_cache_entries", "") == 1 })
	if _, said := s.one("b", "sleep", map[string]any{"seconds": 0.001}); said != "prefetched" {
		t.Error(said)
	}
	if n := s.total(web, "ringmaster_prefetch_used_total", `pool="b"`); n != 1 || s.ran("b") != 1 {
		t.Errorf("%v used, %d runs", n, s.ran("b"))
	}
	busy, free := context.WithCancel(t.Context())
	defer free()
	go func() { _, _ = s.client.Call(busy, "b", "sleep", map[string]any{"seconds": 1000}) }()
	eventually(t, "the worker to be busy", func() bool { return s.status().Pools[1].InFlight == 1 })
	s.one("a", "echo", map[string]any{"next": 0.002})
	eventually(t, "the refusal", func() bool { return s.total(web, "ringmaster_prefetch_refused_total", "") == 1 })
	free()
	eventually(t, "the worker to be free", func() bool { return s.status().Pools[1].InFlight == 0 })
	inAdvance := func() {
		s.one("a", "echo", map[string]any{"next": 1800})
		eventually(t, "one in advance to run", func() bool { return s.status().Pools[1].InFlight == 1 })
	}
	inAdvance() // for half an hour, unless somebody needs its place
	if _, said := s.one("b", "sleep", map[string]any{"seconds": 0.003}); said != "miss" {
		t.Error(said)
	}
	eventually(t, "it to be given up", func() bool { return s.total(web, "ringmaster_prefetch_refused_total", "") == 2 })
	inAdvance() // or the server ends
	begin := time.Now()
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 || time.Since(begin) > 20*time.Second {
		t.Errorf("exit status %d after %v", code, time.Since(begin))
	}
}
