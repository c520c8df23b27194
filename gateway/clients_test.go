package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestConnectionsThatAreRefused(t *testing.T) {
	usual := census{most: 1024, spared: 16, limit: 64}
	with := func(edit func(*census)) census {
		n := usual
		edit(&n)
		return n
	}
	for _, c := range []struct {
		name string
		now  census
		want string // in the message; "": welcome
	}{
		{"the first", usual, ""},
		{"a process's last", with(func(n *census) { n.client, n.user, n.open = 63, 63, 63 }), ""},
		{"one more", with(func(n *census) { n.client, n.user, n.open = 64, 64, 64 }), "clients.connections"},
		{"a newcomer when few are free", with(func(n *census) { n.open = 1007 }), ""},
		{"one that has more than are free", with(func(n *census) { n.client, n.user, n.open = 20, 20, 1005 }), "left to others"},
		{"only what is kept is free", with(func(n *census) { n.open = 1008 }), "kept for its own user and root"},
		{"for those it is kept for", with(func(n *census) { n.open, n.trusted = 1008, true }), ""},
		{"nothing is free", with(func(n *census) { n.open, n.trusted = 1024, true }), "1024 connections are open"},
		{"a user with many processes", with(func(n *census) { n.user, n.open = 769, 769 }), "this user"},
		{"the server's own user may have more", with(func(n *census) { n.user, n.open, n.trusted = 769, 769, true }), ""},
	} {
		switch e := c.now.refusal(); {
		case e == nil && c.want != "":
			t.Errorf("%s: welcome", c.name)
		case e != nil && (c.want == "" || e.Reason != "too_many_connections" || e.RetryAfter <= 0 || !strings.Contains(e.Message, c.want)):
			t.Errorf("%s: %v (retry after %v), want %q", c.name, e, e.RetryAfter, c.want)
		}
	}
}

func TestProcessesAreToldApart(t *testing.T) {
	cs := newClients(Config{Clients: Limits{Connections: 2}}.withDefaults(), 0)
	enter := func(pid int32, uid uint32) *client {
		t.Helper()
		c, refusal := cs.enter(chain.Peer{PID: pid, UID: uid})
		if refusal != nil {
			t.Fatal(refusal)
		}
		return c
	}
	a, b := enter(10, 1), enter(10, 1)
	if a != b {
		t.Error("two connections of one process are two clients")
	}
	if _, refusal := cs.enter(chain.Peer{PID: 10, UID: 1}); refusal == nil {
		t.Error("a third is let in")
	}
	other, unseen, unseen2 := enter(11, 1), enter(0, 1), enter(0, 1)
	if other == a || other.owner != a.owner || unseen == unseen2 || unseen.id == unseen2.id || unseen.id.PID >= 0 {
		t.Errorf("%+v, %+v, %+v", other.id, unseen.id, unseen2.id)
	}
	for _, c := range []*client{a, b, other, unseen, unseen2} {
		cs.leave(c)
	}
	if cs.open != 0 || len(cs.byID) != 0 || len(cs.byUID) != 0 {
		t.Errorf("%+v", cs)
	}
	cs.unnamed = math.MinInt32
	if c := enter(0, 1); c.id.PID >= 0 {
		t.Errorf("after the last number comes %d", c.id.PID)
	}
}

func TestRequestsSayWhoseTheyAre(t *testing.T) {
	asked := make(chan ipc.Client, 1)
	s := start(t, backendFunc(func(_ context.Context, req *ipc.Request) (ipc.Replies, error) {
		asked <- req.Client
		return &echoReplies{body: req.Body}, nil
	}), Config{})
	dial(t, s.path).echo(t)
	if got, want := await(t, asked, "the request"), (ipc.Client{UID: uint32(os.Geteuid()), PID: int32(os.Getpid())}); got != want {
		t.Errorf("the request is %+v's, want %+v", got, want)
	}
}

func TestLimitsOfOneProcess(t *testing.T) {
	f := newFake()
	s := start(t, f, Config{Clients: Limits{Connections: 2, InFlight: 3}})
	a, b := dial(t, s.path), dial(t, s.path)
	_, err := ipc.ClientHello(ipc.NewSocket(connect(t, s.path), 1<<20, patience), "test")
	wantReason(t, err, "RESOURCE_EXHAUSTED/too_many_connections")
	if e := ipc.AsError(err); e.RetryAfter != connectPause {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	var calls []*ipc.Call
	for _, c := range []*testClient{a, a, b} {
		calls = append(calls, c.call(t, "block"))
		await(t, f.ended, "a request to begin")
	}
	_, err = recv(b.call(t, "echo"))
	wantReason(t, err, "RESOURCE_EXHAUSTED/too_many_requests")
	calls[0].Cancel("cancelled")
	await(t, f.ended, "a request to end")
	for { // its place is free when its END is on its way
		if _, err = recv(b.call(t, "echo")); err == nil {
			break
		}
		wantReason(t, err, "RESOURCE_EXHAUSTED/too_many_requests")
	}
}

func TestWrongConfigs(t *testing.T) {
	for want, c := range map[string]Config{
		"memory: 1000: use at least 268435456 bytes":         {Memory: 1000},
		"memory: -1: use at least":                           {Memory: -1},
		"memory: 1000: use at least 4096 bytes":              {Memory: 1000, MaxMessage: 1024},
		"clients.connections: -1: use a number of 1 or more": {Clients: Limits{Connections: -1}},
		"clients.in_flight: -2: use a number of 1 or more":   {Clients: Limits{InFlight: -2}},
	} {
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestMemoryOfTheMachineAndItsCgroup(t *testing.T) {
	if n := machineMemory(); n < 1<<20 || n == math.MaxInt64 {
		t.Errorf("this machine has %d bytes", n)
	}
	if c := (Config{}).WithMemory(); c.Memory < 4*ipc.DefaultMaxMessage || c.Validate() != nil {
		t.Errorf("the default is %d bytes", c.Memory)
	}
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		want int64
	}{
		{"none", fstest.MapFS{}, math.MaxInt64},
		{"version 2", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("1000\n")}, 1000},
		{"a parent's", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/memory.max": file("1000\n"), "sys/fs/cgroup/a/memory.max": file("900\n")}, 900},
		{"no limit", fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("max\n")}, math.MaxInt64},
		{"a namespace of its own", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("5\n")}, 5},
		{"above its namespace", fstest.MapFS{"proc/self/cgroup": file("0::/../x\n"), "sys/fs/cgroup/memory.max": file("6\n")}, 6},
		{"version 1", fstest.MapFS{"proc/self/cgroup": file("4:memory:/a\n1:cpu:/\n"), "sys/fs/cgroup/memory/a/memory.limit_in_bytes": file("7\n")}, 7},
		{"nonsense", fstest.MapFS{"proc/self/cgroup": file("x\n0::\n")}, math.MaxInt64},
	} {
		if got := cgroupMemory(c.fs); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	r := newRefusals(nil)
	now := time.Now()
	for i := range 10 {
		if _, due := r.due("a", now); due != (i == 0) {
			t.Errorf("the %dth is logged: %v", i, due)
		}
	}
	if _, due := r.due("b", now); !due {
		t.Error("another reason is not logged")
	}
	if since, due := r.due("a", now.Add(refusalPause)); !due || since != 9 {
		t.Errorf("later: %d since, %v", since, due)
	}
	var log syncBuffer
	s := start(t, newFake(), Config{MaxConnections: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	dial(t, s.path).echo(t)
	for range 20 {
		_, err := ipc.ClientHello(ipc.NewSocket(connect(t, s.path), 1<<20, patience), "test")
		wantReason(t, err, "RESOURCE_EXHAUSTED/too_many_connections")
	}
	if n := bytes.Count(log.bytes(), []byte("client refused")); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.bytes())
	}
}
