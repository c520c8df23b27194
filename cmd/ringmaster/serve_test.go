package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ringmasterd/ringmaster/supervisor"
)

const echoPool = "pools: {echo: {builtin: echo}}\n"

// What a call prints, in every mode.
func TestCall(t *testing.T) {
	s := serve(t, "pools: {echo: {builtin: echo, concurrency: 4}}\n")
	if err := os.WriteFile(filepath.Join(s.dir, "body.json"), []byte(`{"from":"file"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var img bytes.Buffer
	if err := png.Encode(&img, image.NewGray(image.Rect(0, 0, 2, 1))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "img.png"), img.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		args  []string
		stdin string
		code  int
		out   string // all of stdout
		err   string // contained in stderr
	}{
		{"no body", []string{"echo"}, "", 0, "null\n", ""},
		{"a body", []string{"echo", "-d", `{"z":1,"a":[1.5,null,"é"]}`}, "", 0, `{"z":1,"a":[1.5,null,"é"]}` + "\n", ""},
		{"from a file", []string{"echo", "-d", "@body.json"}, "", 0, `{"from":"file"}` + "\n", ""},
		{"from stdin", []string{"echo", "-d", "-"}, `"piped"`, 0, `"piped"` + "\n", ""},
		{"JSON", []string{"echo", "--json", "-d", "1", "-H", "k=v=w", "-t", "x=@img.png"}, "", 0, `{"body":1,"headers":{"k":"v=w"},"tensors":[{"name":"x","dtype":"uint8","shape":[1,2,1],"data":"AAA="}]}` + "\n", ""},
		{"tensors are mentioned", []string{"echo", "-t", "x=@img.png"}, "", 0, "null\n", "tensor x: uint8 [1 2 1], 2 bytes (--json prints the data)"},
		{"chunks, gathered", []string{"count", "-d", `{"n":3}`}, "", 0, `[{"i":0},{"i":1},{"i":2}]` + "\n", ""},
		{"one chunk, gathered", []string{"count", "-d", `{"n":1}`}, "", 0, `[{"i":0}]` + "\n", ""},
		{"chunks, streamed", []string{"count", "-s", "-d", `{"n":2}`}, "", 0, "{\"i\":0}\n{\"i\":1}\n", ""},
		{"text, streamed", []string{"count", "-s", "-d", `{"n":3,"text":"tick "}`}, "", 0, "tick tick tick \n", ""},
		{"lines, streamed", []string{"count", "-s", "-d", `{"n":2,"text":"tick\n"}`}, "", 0, "tick\ntick\n", ""},
		{"text, gathered", []string{"count", "-d", `{"n":2,"text":"x"}`}, "", 0, `[{"i":0,"text":"x"},{"i":1,"text":"x"}]` + "\n", ""},
		{"chunks, JSON", []string{"count", "--json", "-d", `{"n":2}`}, "", 0, `{"body":{"i":0},"headers":{},"tensors":[]}` + "\n" + `{"body":{"i":1},"headers":{},"tensors":[]}` + "\n", ""},
		{"an answer, streamed", []string{"echo", "-s", "-d", `{"text":"hi"}`}, "", 0, "hi\n", ""},
		{"an unknown action", []string{"nonsense"}, "", 1, "", "ringmaster: NOT_FOUND/unknown_action: "},
		{"a bad argument", []string{"count", "-d", `{"n":"x"}`}, "", 1, "", "ringmaster: INVALID_ARGUMENT/"},
		{"a deadline", []string{"sleep", "--timeout", "20ms", "-d", `{"seconds":600}`}, "", 4, "", "ringmaster: DEADLINE_EXCEEDED/deadline: "},
		{"a deadline, JSON", []string{"sleep", "--timeout", "20ms", "--json", "-d", `{"seconds":600}`}, "", 4, "", `{"error":{"code":"DEADLINE_EXCEEDED","reason":"deadline"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := ringmaster(t, s.dir, tt.stdin, append([]string{"--socket", s.socket, "call", "echo"}, tt.args...)...)
			if r.code != tt.code || r.out != tt.out {
				t.Errorf("exit status %d, want %d; stdout\n%s\nwant\n%s\nstderr %s", r.code, tt.code, r.out, tt.out, r.errOut)
			}
			contains(t, "stderr", r.errOut, tt.err)
		})
	}
	if r := s.run("call", "nowhere", "x"); r.code != 1 {
		t.Errorf("an unknown pool: %+v", r)
	} else {
		contains(t, "stderr", r.errOut, "NOT_FOUND/unknown_pool")
	}
}

// A tensor that no message could carry goes through an arena, without being told.
func TestCallWithALargeTensor(t *testing.T) {
	s := serve(t, "max_message: 64KiB\n"+echoPool)
	const side = 1000
	var img bytes.Buffer
	if err := png.Encode(&img, image.NewGray(image.Rect(0, 0, side, side))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "img.png"), img.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"x":%d}`+"\n", crc32.Checksum(make([]byte, side*side), crc32.MakeTable(crc32.Castagnoli)))
	if r := s.run("call", "echo", "checksum", "--tensor", "x=@img.png"); r.code != 0 || r.out != want {
		t.Errorf("%+v, want %s", r, want)
	}
	eventually(t, "the arena to be given back", func() bool { return s.status().Arenas.Regions == 0 })
}

// The shape of status --json is a promise: these keys, at these places.
func TestStatus(t *testing.T) {
	s := serve(t, "pools: {echo: {builtin: echo, workers: 2}, bad: {command: [sh, -c, 'echo last words >&2; exit 3']}}\n")
	r := s.run("status", "--json")
	if r.code != 0 {
		t.Fatal(r)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	keys := func(what string, m any, want ...string) {
		t.Helper()
		slices.Sort(want)
		if have := slices.Sorted(maps.Keys(m.(map[string]any))); !slices.Equal(have, want) {
			t.Errorf("%s has the keys\n%q, want\n%q", what, have, want)
		}
	}
	keys("status", got, "version", "uptime_s", "pid", "goroutines", "memory", "gpus", "arenas", "pools", "pipelines")
	keys("arenas", got["arenas"], "regions", "bytes", "limit")
	bad, echo := got["pools"].([]any)[0].(map[string]any), got["pools"].([]any)[1].(map[string]any)
	keys("a pool", echo, "name", "state", "queued", "in_flight", "actions", "workers", "exits", "batches")
	worker := echo["workers"].([]any)[1]
	keys("a worker", worker, "slot", "pid", "state", "in_flight", "restarts", "requests", "rss_bytes", "vram_bytes", "devices", "last_exit", "cpu_percent", "fds", "sdk", "uptime_s")
	exit := bad["workers"].([]any)[0].(map[string]any)["last_exit"]
	keys("last_exit", exit, "cause", "detail", "stderr")
	if echo["state"] != "ready" || bad["state"] != "failed" || !slices.Contains(echo["actions"].([]any), any("count")) {
		t.Errorf("%s", r.out)
	}

	table := s.run("status")
	contains(t, "the table", table.out, "POOL  STATE   READY  QUEUED  IN FLIGHT\n", "bad   failed  0/1 ", "echo  ready   2/2 ", "echo/0  ", "echo/1  ", "its last words:\n    last words\n")

	if r := s.run("call", "bad", "x"); r.code != 3 {
		t.Errorf("a call to the failed pool: %+v", r)
	} else {
		contains(t, "stderr", r.errOut, "UNAVAILABLE/crash_loop", "last words")
	}

	if r := s.run("health"); r.code != 3 {
		t.Errorf("health of a failed pool: %+v", r)
	} else {
		contains(t, "the table", r.out, "bad   failed", "echo  ok ")
	}
	if r := s.run("health", "echo", "--json"); r.code != 0 {
		t.Errorf("health of a good pool: %+v", r)
	} else {
		contains(t, "JSON", r.out, `{"pools":[{"name":"echo","ok":true,"round_trip_ms":`)
	}
	if r := s.run("health", "nowhere"); r.code != 1 {
		t.Errorf("health of no pool: %+v", r)
	}

	complete := func(args ...string) string {
		return ringmaster(t, s.dir, "", append([]string{"__complete", "--socket", s.socket}, args...)...).out
	}
	contains(t, "completion of pools", complete("call", ""), "bad\tfailed\necho\tready\n:4\n")
	contains(t, "completion of actions", complete("call", "echo", ""), "count\ncrash\necho\n")
	contains(t, "completion of pools", complete("restart", ""), "bad\tfailed\necho\tready\n:4\n")
	contains(t, "completion of no more", complete("restart", "echo", ""), ":4\n")
}

func TestRestartAndDrain(t *testing.T) {
	s := serve(t, echoPool)
	before := s.worker().PID
	if r := s.run("restart", "echo"); r.code != 0 || r.out != "echo: restarted\n" {
		t.Fatalf("%+v", r)
	}
	if after := s.worker(); after.PID == before || after.State != "ready" || alive(before) {
		t.Errorf("worker %d became %+v; alive: %v", before, after, alive(before))
	}
	if r := s.run("drain", "echo", "--json"); r.code != 0 || r.out != `{"action":"drain","pool":"echo"}`+"\n" {
		t.Fatalf("%+v", r)
	}
	r := s.run("call", "echo", "echo")
	contains(t, "a call to a drained pool", r.errOut, "UNAVAILABLE/draining")
	if r.code != 3 {
		t.Errorf("exit status %d", r.code)
	}
	if r := s.run("restart", "echo", "--json"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := s.run("call", "echo", "echo", "-d", "7"); r.code != 0 || r.out != "7\n" {
		t.Errorf("after the restart: %+v", r)
	}
	if r := s.run("drain"); r.code != 0 || r.out != "all pools: drained\n" {
		t.Errorf("%+v", r)
	}
}

func TestWorkerIsReplaced(t *testing.T) {
	s := serve(t, echoPool)
	pid := s.worker().PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another worker", func() bool { w := s.worker(); return w.State == "ready" && w.PID != pid })
	if w := s.worker(); w.Restarts != 1 || w.LastExit == nil || w.LastExit.Cause != "signal" {
		t.Errorf("%+v", w)
	}
	contains(t, "the table", s.run("status").out, "signal: killed\n")
	if r := s.run("call", "echo", "echo", "-d", "1"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	r := s.run("call", "echo", "crash")
	contains(t, "a call that kills its worker", r.errOut, "ABORTED/worker_lost")
	if r.code != 1 {
		t.Errorf("exit status %d", r.code)
	}
}

// Ctrl-C ends the call and reaches the worker; so does the death of whoever called.
func TestInterruptedCall(t *testing.T) {
	s := serve(t, echoPool)
	for _, tt := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}, {syscall.SIGKILL, 137}} {
		p := s.begin("call", "echo", "sleep", "-d", `{"seconds":3600}`, "--timeout", "1h")
		eventually(t, "the request to begin", func() bool { return s.worker().InFlight == 1 })
		if err := p.Process.Signal(tt.signal); err != nil {
			t.Fatal(err)
		}
		if code := exitCode(t, p.Wait()); code != tt.code {
			t.Errorf("exit status %d, want %d", code, tt.code)
		}
		eventually(t, "the request to end", func() bool { return s.worker().InFlight == 0 })
	}
}

func TestSecondServer(t *testing.T) {
	s := serve(t, echoPool)
	r := ringmaster(t, s.dir, "", "serve", "--socket", s.socket)
	want := "ringmaster: listen on " + s.socket + ": already served; stop that server, or use another --socket\n"
	if r.code != 1 || r.errOut != want {
		t.Errorf("%+v, want %s", r, want)
	}
	if r := s.run("call", "echo", "echo"); r.code != 0 {
		t.Errorf("the first server: %+v", r)
	}
}

// SIGTERM: what is in flight is answered, then everything ends.
func TestServeDrains(t *testing.T) {
	s := startServer(t, t.TempDir(), echoPool)
	s.settle()
	worker := s.worker().PID
	p := s.begin("call", "echo", "sleep", "-d", `{"seconds":0.3}`)
	eventually(t, "the request to begin", func() bool { return s.worker().InFlight == 1 })
	s.signal(syscall.SIGTERM)
	if code := exitCode(t, p.Wait()); code != 0 {
		t.Errorf("the request in flight exited with %d", code)
	}
	if code := s.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if alive(worker) {
		t.Error("the worker is still there")
	}
	s.logged("shutting down", "msg=stopped")
	if _, err := net.Dial("unix", s.socket); err == nil {
		t.Error("somebody still serves the socket")
	}
}

// A second signal does not wait for anybody; the workers go all the same.
func TestSecondSignal(t *testing.T) {
	s := startServer(t, t.TempDir(), echoPool)
	s.settle()
	worker := s.worker().PID
	s.begin("call", "echo", "sleep", "-d", `{"seconds":3600}`, "--timeout", "1h")
	eventually(t, "the request to begin", func() bool { return s.worker().InFlight == 1 })
	s.signal(syscall.SIGINT)
	eventually(t, "the first signal's effect", func() bool { return strings.Contains(s.log.String(), "shutting down") })
	s.signal(syscall.SIGINT)
	if code := s.wait(); code != 130 {
		t.Errorf("exit status %d, want 130", code)
	}
	eventually(t, "the worker to go", func() bool { return !alive(worker) })
}

// A server that is killed leaves no process behind, and its socket is no obstacle for the next one.
func TestServerIsKilled(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, echoPool)
	s.settle()
	worker := s.worker().PID
	s.signal(syscall.SIGKILL)
	if code := s.wait(); code != 137 {
		t.Errorf("exit status %d", code)
	}
	eventually(t, "the worker to go", func() bool { return !alive(worker) })
	if _, err := os.Lstat(s.socket); err != nil {
		t.Fatalf("this test is about a stale socket: %v", err)
	}
	next := startServer(t, dir, echoPool)
	next.settle()
	if r := next.run("call", "echo", "echo", "-d", "1"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	next.signal(syscall.SIGTERM)
	if code := next.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// The same connection survives nothing, but the same client does.
func TestClientSurvivesRestartOfServer(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, dir, echoPool)
	s.settle()
	c := s.client
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	next := startServer(t, dir, echoPool)
	next.settle()
	if _, err := c.Call(context.Background(), "echo", "echo", 1); err != nil {
		t.Error(err)
	}
	next.signal(syscall.SIGTERM)
	next.wait()
}

func TestJSONLog(t *testing.T) {
	s := startServer(t, t.TempDir(), echoPool, "--log-format", "json", "--log-level", "debug")
	s.settle()
	if r := s.run("call", "echo", "echo"); r.code != 0 {
		t.Fatal(r)
	}
	s.signal(syscall.SIGTERM)
	s.wait()
	seen := map[string]bool{}
	for line := range strings.Lines(s.log.String()) {
		var entry struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		seen[entry.Msg] = true
	}
	for _, want := range []string{"serving", "request", "worker ready", "client gone", "shutting down", "stopped"} {
		if !seen[want] {
			t.Errorf("no %q in the log:\n%s", want, s.log)
		}
	}
}

// On a terminal the server says when each pool can be called, and how.
func TestReadyOnTerminal(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ringmaster.yaml"), []byte("pools: {echo: {builtin: echo}, bad: {command: ['false']}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ptmx, tty := terminal(t)
	cmd := exec.Command(binary, "serve", "--socket", "rm.sock")
	cmd.Dir, cmd.Stderr = dir, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close()
	screen := &output{}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		buf := make([]byte, 4096)
		for {
			n, err := ptmx.Read(buf)
			_, _ = screen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	ok := poll(func() bool {
		return strings.Contains(screen.String(), "echo is ready: ringmaster call echo echo") && strings.Contains(screen.String(), "bad failed; `ringmaster status` tells more")
	})
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if code := exitCode(t, cmd.Wait()); code != 0 || !ok {
		t.Errorf("exit status %d, on the terminal:\n%s", code, screen)
	}
	<-copied
}

func TestSizesAndDurations(t *testing.T) {
	for in, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 19: "1.5 MiB", 5 << 40: "5.0 TiB"} {
		if got := size(in); got != want {
			t.Errorf("size(%d) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[float64]string{0: "0s", 1.26: "1.2s", 75: "1m15s", 3 * 3600: "3h00m", 100*3600 + 120: "100h02m"} {
		if got := duration(in); got != want {
			t.Errorf("duration(%v) = %q, want %q", in, got, want)
		}
	}
	if got := lastExit(&supervisor.Exit{Cause: "exited"}); got != "exited" {
		t.Error(got)
	}
}
