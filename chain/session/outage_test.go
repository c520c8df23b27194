package session

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// diary is a worker whose context is a diary: whose it is, and a line for each time that it ran. It notices pages of another's.
func diary(t testing.TB) answering {
	return func(_ context.Context, req *ipc.Request) []*ipc.Reply {
		mine := req.Headers[header] + ":"
		if len(req.Context) > 0 && !strings.HasPrefix(string(req.Context), mine) {
			t.Errorf("session %s got %q", req.Headers[header], req.Context)
		}
		var nonce string
		must(t, req.Body.Decode(&nonce))
		page := string(req.Context)
		if page == "" {
			page = mine
		}
		return []*ipc.Reply{{Body: encoded(t, page)}, end(&ipc.Reply{Context: []byte(page + nonce + ";")})}
	}
}

// writer is one session's client, who asks again and again, one after the other, and remembers what was acknowledged.
type writer struct {
	id           string
	n            int
	acknowledged []string // the diary's lines that have to be there, in this order, perhaps with others between them
	failed       int
	longest      time.Duration
	total        *atomic.Int64 // what was acknowledged to all writers
}

func (w *writer) ask(t testing.TB, s *Sessions) {
	nonce := fmt.Sprintf("%s-%d", w.id, w.n)
	w.n++
	ctx, begin := as(t, 1), time.Now()
	replies, err := s.Link(diary(t).handle)(ctx, asked(t, w.id, nonce))
	var page string
	for err == nil {
		var r *ipc.Reply
		if r, err = replies.Recv(ctx); err != nil {
			break
		}
		if r.End {
			w.check(t, page)
			w.acknowledged = append(w.acknowledged, nonce)
			w.total.Add(1)
			break
		}
		must(t, r.Body.Decode(&page))
	}
	w.longest = max(w.longest, time.Since(begin))
	if err != nil {
		w.failed++
		if e := ipc.AsError(err); (e.Code != ipc.Unavailable || e.Reason != "session_store" || e.RetryAfter == 0) && (e.Code != ipc.Aborted || e.Reason != "session_conflict") {
			t.Errorf("session %s: %v", w.id, err)
		}
		<-time.After(5 * time.Millisecond) // a load, but no busy loop that takes the machine
	}
}

// check looks for what was acknowledged in a diary: each line once, in order, all of them this session's.
func (w *writer) check(t testing.TB, page string) {
	lines := strings.Split(strings.TrimPrefix(page, w.id+":"), ";")
	next, seen := 0, map[string]bool{}
	for _, line := range lines[:len(lines)-1] {
		if seen[line] || !strings.HasPrefix(line, w.id+"-") {
			t.Errorf("session %s: %q is there twice, or is not its own", w.id, line)
		}
		seen[line] = true
		if next < len(w.acknowledged) && w.acknowledged[next] == line {
			next++
		}
	}
	if next < len(w.acknowledged) {
		t.Errorf("session %s: %q was acknowledged, and is not in %q", w.id, w.acknowledged[next], page)
	}
}

// Redis is killed, started, stopped and continued while dozens of sessions go on. Requests that find no store fail and say so; none hangs, none loses what was acknowledged, and none sees another session.
func TestRedisComesAndGoes(t *testing.T) {
	redis := startRedis(t)
	s := keeping(t, Config{Store: Redis, URL: redis.url})
	var over atomic.Bool
	var acknowledged atomic.Int64
	writers := make([]*writer, 36)
	var wg sync.WaitGroup
	for i := range writers {
		writers[i] = &writer{id: fmt.Sprintf("w%02d", i), total: &acknowledged}
		wg.Go(func() {
			for !over.Load() && !t.Failed() {
				writers[i].ask(t, s)
			}
		})
	}
	for round := range 4 {
		progress(t, &acknowledged)
		if round%2 == 0 {
			redis.kill()
			trouble(t, s)
			redis.start()
		} else {
			redis.signal(syscall.SIGSTOP)
			trouble(t, s)
			redis.signal(syscall.SIGCONT)
		}
	}
	progress(t, &acknowledged)
	over.Store(true)
	wg.Wait()
	total, failed, longest := 0, 0, time.Duration(0)
	for _, w := range writers {
		if r, err := s.read(as(t, 1), w.id); err != nil {
			t.Error(err)
		} else {
			w.check(t, string(r.context))
		}
		if len(w.acknowledged) == 0 {
			t.Errorf("session %s never got anywhere", w.id)
		}
		total, failed, longest = total+w.n, failed+w.failed, max(longest, w.longest)
	}
	t.Logf("%d requests of %d sessions, %d failed, the longest took %v", total, len(writers), failed, longest)
	if bound := 2*storeTimeout + 5*time.Second; failed == 0 || longest > bound {
		t.Errorf("%d failed, the longest took %v of %v", failed, longest, bound)
	}
}

// progress waits until much more has been acknowledged, trouble until much more has failed.
func progress(t *testing.T, acknowledged *atomic.Int64) {
	t.Helper()
	before := acknowledged.Load()
	eventually(t, "requests that are answered", func() bool { return acknowledged.Load() > before+300 })
}

func trouble(t *testing.T, s *Sessions) {
	t.Helper()
	before := s.failures.Load()
	eventually(t, "requests that fail", func() bool { return s.failures.Load() > before+60 })
}

// With `on_store_failure: stateless` requests go on without a session, and say so; one that asks for a version is not deceived.
func TestWithoutAStore(t *testing.T) {
	redis := startRedis(t)
	s := keeping(t, Config{Store: Redis, URL: redis.url, OnStoreFailure: Stateless, Pools: conversing.Pools})
	h := s.Link(answering(counter).handle)
	ask := func() *ipc.Reply {
		t.Helper()
		r, err := taken(as(t, 1), h, asked(t, "s", map[string]any{"messages": []any{says("user", "x")}}))
		must(t, err)
		return r
	}
	if r := ask(); r.Headers[degraded] != "" || r.Headers[versionHeader] != "1" {
		t.Errorf("%v", r.Headers)
	}
	redis.kill()
	for range 2 {
		if r := ask(); r.Headers[degraded] != "session" || r.Headers[versionHeader] != "" || r.Body[0] != 0 || string(r.Context) != "1" {
			t.Errorf("%+v", r)
		}
	}
	req := asked(t, "s", nil)
	req.Headers[versionHeader] = "1"
	_, err := taken(as(t, 1), h, req)
	wantError(t, err, ipc.Unavailable, "session_store")
	_, err = taken(as(t, 1), h, &ipc.Request{Pool: controlPool, Action: "session_list"})
	wantError(t, err, ipc.Unavailable, "session_store")
	redis.start()
	if r := ask(); r.Headers[degraded] != "" || r.Headers[versionHeader] != "2" || r.Body[0] != 1 {
		t.Errorf("%+v", r)
	}

	// The store goes while the request runs.
	h = s.Link(answering(func(ctx context.Context, req *ipc.Request) []*ipc.Reply {
		redis.kill()
		return counter(ctx, req)
	}).handle)
	if r := ask(); r.Headers[degraded] != "session" || r.Body[0] != 2 {
		t.Errorf("%+v", r)
	}
}

// forgetful is a way to Redis that loses the acknowledgement of commits, together with their connections, as often as it is told to.
type forgetful struct {
	to   string // Redis's socket
	lose atomic.Int64
	done sync.WaitGroup
}

// before puts one before a Redis, and returns its URL.
func (f *forgetful) before(t *testing.T, redis *redisServer) string {
	t.Helper()
	f.to = filepath.Join(redis.dir, "r.sock")
	ln, err := net.Listen("unix", filepath.Join(redis.dir, "forgetful.sock"))
	must(t, err)
	f.done.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			f.done.Go(func() { f.carry(from) })
		}
	})
	t.Cleanup(func() { // after the store has hung up
		_ = ln.Close()
		f.done.Wait()
	})
	return "unix://" + ln.Addr().String()
}

func (f *forgetful) carry(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("unix", f.to)
	if err != nil {
		return
	}
	defer to.Close()
	var there sync.WaitGroup
	there.Go(func() {
		_, _ = io.Copy(to, from)
		_ = to.Close()
	})
	defer there.Wait()
	defer from.Close()
	for b := make([]byte, 4096); ; {
		n, err := to.Read(b)
		if err != nil || string(b[:n]) == ":1\r\n" && f.lose.Add(-1) >= 0 {
			return
		}
		if _, err := from.Write(b[:n]); err != nil {
			return
		}
	}
}

// A commit whose acknowledgement is lost is done once, and its request ends well: what was said is not there twice.
func TestLostAcknowledgement(t *testing.T) {
	redis, way := startRedis(t), &forgetful{}
	s := keeping(t, Config{Store: Redis, URL: way.before(t, redis), Pools: conversing.Pools})
	var before int
	h := s.Link(answering(func(_ context.Context, req *ipc.Request) []*ipc.Reply {
		before = len(messages(t, req.Body, "messages"))
		return []*ipc.Reply{end(&ipc.Reply{Body: encoded(t, map[string]any{"text": "y"})})}
	}).handle)
	for i, lost := range []int64{0, 1, 3, 0} {
		way.lose.Store(lost)
		r, err := taken(as(t, 1), h, asked(t, "s", map[string]any{"messages": []any{says("user", "x")}}))
		must(t, err)
		if version := r.Headers[versionHeader]; version != strconv.Itoa(i+1) || before != 2*i+1 {
			t.Errorf("request %d, whose acknowledgement was lost %d times: version %s, %d messages", i+1, lost, version, before)
		}
	}
	if s.conflicts.Load() != 0 || s.failures.Load() != 0 {
		t.Errorf("%d conflicts, %d failures", s.conflicts.Load(), s.failures.Load())
	}
}

// A server may start before its Redis does.
func TestRedisComesLater(t *testing.T) {
	redis := startRedis(t)
	redis.kill()
	s, err := New(Config{Store: Redis, URL: redis.url}, slog.New(slog.DiscardHandler))
	must(t, err)
	defer s.Close()
	h := s.Link(answering(counter).handle)
	_, err = taken(as(t, 1), h, asked(t, "s", nil))
	wantError(t, err, ipc.Unavailable, "session_store")
	redis.start()
	_, err = taken(as(t, 1), h, asked(t, "s", nil))
	must(t, err)
}
