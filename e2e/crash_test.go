package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/client"
)

// crash is where a worker dies (docs/protocol.md, section 10), and what is then to become of its request.
type crash struct {
	at     string // a step, how often it has to be passed, and on which ring: the worker reads s2w and writes w2s, first of all its hello
	long   bool   // requests and answers are larger than the rings
	nth    int    // the request that is next or in hand then; 0: that cannot be foretold
	lost   bool   // it has read the request and not answered it
	chance bool   // perhaps it has, perhaps not
	again  bool   // the action may be run again
	ran    int    // if lost: how often the process that dies runs it
}

// crashes is SHM.md's matrix: what was not read is read by another process, what was read is lost or tried again, an answer that was published counts.
// readsOn says that the worker waits for the next request while an action runs.
func crashes(readsOn bool) (all []crash) {
	add := func(c crash) { all = append(all, c) }
	twice := func(c crash) {
		add(c)
		c.again = true
		add(c)
	}
	add(crash{at: "R1:3:s2w", nth: 3}) // not read: nobody notices
	add(crash{at: "R2:3:s2w", nth: 3})
	add(crash{at: "R3:3:s2w", nth: 3})
	twice(crash{at: "R4:3:s2w", nth: 3, lost: true}) // read, and not yet run
	add(crash{at: "R6:3:s2w", nth: 3, lost: true})
	twice(crash{at: "S1:4:w2s", nth: 3, lost: true, ran: 1}) // run, and the answer not published
	add(crash{at: "S2:4:w2s", nth: 3, lost: true, ran: 1})
	twice(crash{at: "S3:4:w2s", nth: 3, lost: true, ran: 1})
	add(crash{at: "S4:4:w2s", nth: 3}) // published
	add(crash{at: "S5:3:w2s"})
	add(crash{at: "S6:4:w2s", nth: 3})
	add(crash{at: "W1:3:s2w", chance: readsOn}) // waiting for a request
	add(crash{at: "W2:3:s2w", chance: readsOn})
	add(crash{at: "W3:3:s2w", chance: readsOn})
	add(crash{at: "W4:3:s2w"})
	add(crash{at: "W5:3:s2w"})

	add(crash{at: "R2:4:s2w", long: true, nth: 1}) // a part of the request was read: none of it counts
	add(crash{at: "R4:4:s2w", long: true, nth: 1})
	add(crash{at: "R5:2:s2w", long: true})
	add(crash{at: "S2:5:w2s", long: true, nth: 1, lost: true, ran: 1}) // a part of the answer was published: none of it counts
	twice(crash{at: "S4:5:w2s", long: true, nth: 1, lost: true, ran: 1})
	add(crash{at: "W1:1:w2s", long: true, lost: true, ran: 1}) // waiting for room for the answer
	add(crash{at: "W2:1:w2s", long: true, lost: true, ran: 1})
	add(crash{at: "W3:1:w2s", long: true, lost: true, ran: 1})
	twice(crash{at: "W4:1:w2s", long: true, lost: true, ran: 1})
	add(crash{at: "W5:1:w2s", long: true, lost: true, ran: 1})
	return all
}

func (c crash) pool() string {
	name := strings.ToLower(strings.ReplaceAll(c.at, ":", "-"))
	if c.again {
		name += "-again"
	}
	return name
}

func (c crash) action() string {
	if c.again {
		return "record_again"
	}
	return "record"
}

// A worker that dies at any step of what it does in shared memory, under a supervisor that serves: each request has exactly one outcome, and it is the right one.
func TestWorkerDiesAtEachStep(t *testing.T) {
	t.Run("go", func(t *testing.T) {
		worker := filepath.Join(t.TempDir(), "crashing.test")
		if out, err := exec.Command("go", "test", "-c", "-tags", "ringcrash", "-o", worker, ".").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		dieAtEachStep(t, crashes(true), []string{worker, "worker"}, nil)
	})
	t.Run("python", func(t *testing.T) {
		dir := t.TempDir()
		compile := exec.Command(python, "-c", "import pathlib, sys, compile; compile.crashing_package(pathlib.Path(sys.argv[1]))", dir)
		compile.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(root, "python", "tests"))
		if out, err := compile.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		dieAtEachStep(t, crashes(false), []string{python, filepath.Join(root, "e2e", "testdata", "record.py")}, map[string]string{"PYTHONPATH": dir})
	})
}

// dieAtEachStep gives each crash a pool of its own, and a server to so many that all of them start in time.
func dieAtEachStep(t *testing.T, crashes []crash, worker []string, env map[string]string) {
	for some := range slices.Chunk(crashes, 10) {
		dir := t.TempDir()
		pools := map[string]any{}
		for _, c := range some {
			environment := map[string]string{"RINGMASTER_CRASH_AT": c.at}
			for name, value := range env {
				environment[name] = value
			}
			pools[c.pool()] = map[string]any{
				"command": slices.Concat([]string{"sh", filepath.Join(root, "e2e", "testdata", "doomed.sh"), filepath.Join(dir, c.pool())}, worker),
				"env":     environment,
			}
		}
		config, err := json.Marshal(map[string]any{"pools": pools}) // is YAML
		if err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprintf("%s to %s", some[0].pool(), some[len(some)-1].pool()), func(t *testing.T) {
			s := serve(t, string(config)) // and no health checks: each is a message, too
			eventually(t, time.Minute, "the socket", func() bool { return s.command("status").Run() == nil })
			for _, c := range some {
				t.Run(c.pool(), func(t *testing.T) { s.dies(t, c, filepath.Join(dir, c.pool()+".record")) })
			}
		})
	}
}

// dies sends requests, one at a time, until the worker is dead and two more have been answered.
func (s *server) dies(t *testing.T, c crash, file string) {
	conn, ctx := s.dial(), testContext(t)
	size := 10
	if c.long {
		size = 9 << 20
	}
	var outcomes []error
	for after := 0; after < 2; {
		if len(outcomes) == 1000 {
			t.Fatalf("after %d requests the worker is still alive: %+v", len(outcomes), s.workers(c.pool()))
		}
		line := fmt.Sprint(len(outcomes) + 1)
		filling := bytes.Repeat([]byte(line[:1]), size)
		r, err := conn.Call(ctx, c.pool(), c.action(), map[string]any{"file": file, "line": line, "size": size, "filling": filling})
		if err == nil {
			var got struct {
				Line    string `msgpack:"line"`
				Filling []byte `msgpack:"filling"`
			}
			if err := r.Decode(&got); err != nil || got.Line != line || !bytes.Equal(got.Filling, filling) {
				t.Errorf("request %s: the answer to %q, with %d bytes, %v", line, got.Line, len(got.Filling), err)
			}
		}
		outcomes = append(outcomes, err)
		if w := s.workers(c.pool())[0]; w.Restarts > 0 && w.LastExit != nil {
			after++
		}
	}
	if w := s.workers(c.pool())[0]; w.Restarts != 1 || w.LastExit.Cause != "signal" || w.LastExit.Detail != "signal: killed" {
		t.Errorf("the worker was to die once, at its step: %+v, last exit %+v", w, w.LastExit)
	}
	c.check(t, outcomes, runs(t, file))
}

// runs returns how often each request ran.
func runs(t *testing.T, file string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for line := range strings.Lines(string(b)) {
		n[strings.TrimSpace(line)]++
	}
	return n
}

// check compares the requests' outcomes and runs with what they are to be.
func (c crash) check(t *testing.T, outcomes []error, runs map[string]int) {
	t.Helper()
	marked := 0
	for i, err := range outcomes {
		n := runs[fmt.Sprint(i+1)]
		delete(runs, fmt.Sprint(i+1))
		if err == nil && n == 1 && !(c.lost && i+1 == c.nth) {
			continue
		}
		marked++
		var lost *client.Error
		switch {
		case c.chance && errors.As(err, &lost) && lost.Reason == "worker_lost" && n <= 1:
		case !c.lost, c.nth != 0 && i+1 != c.nth:
			t.Errorf("request %d: %v, ran %d times, want an answer and one run", i+1, err, n)
		case c.again:
			if err != nil || n != c.ran+1 {
				t.Errorf("request %d: %v, ran %d times, want an answer and %d runs", i+1, err, n, c.ran+1)
			}
		default:
			if !errors.As(err, &lost) || lost.Code != "ABORTED" || lost.Reason != "worker_lost" || n != c.ran {
				t.Errorf("request %d: %v, ran %d times, want ABORTED/worker_lost and %d runs", i+1, err, n, c.ran)
			}
		}
	}
	if c.lost && marked != 1 || marked > 1 {
		t.Errorf("%d requests were lost or tried again", marked)
	}
	if len(runs) > 0 {
		t.Errorf("what else ran: %v", runs)
	}
}
