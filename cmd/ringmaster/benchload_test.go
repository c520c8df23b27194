package main

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ringmasterd/ringmaster/bench/drive"
)

func TestBench(t *testing.T) {
	s := serve(t, "socket: rm.sock\npools:\n  echo: {builtin: echo, concurrency: 8}\n")
	const brief = "--duration=50ms"

	r := s.run("bench", brief, "--warmup=10ms", "--outstanding=1,4")
	if r.code != 0 {
		t.Fatalf("exit status %d: %s", r.code, r.errOut)
	}
	contains(t, "the table", r.out, "echo echo of ringmaster", "1 worker, 1 connection", "held against the request", "OUTSTANDING", "64KiB", "1MiB", "load average")

	r = s.run("bench", "echo", "sum", brief, "--size=1KiB", "--outstanding=4", "--connections=2", "--plot=out.svg", "--json")
	var got drive.Result
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 || len(got.Rows) != 1 {
		t.Fatalf("exit status %d, %v: %s%s", r.code, err, r.out, r.errOut)
	}
	row := got.Rows[0]
	if got.Connections != 2 || got.Checked != "nothing" || row.Requests < 1 || row.Size != 1024 || row.P50 <= 0 || row.Max < row.P99 || len(row.Errors) > 0 || row.Wrong > 0 {
		t.Errorf("%s", r.out)
	}
	if c := row.CPU; c == nil || c.Client <= 0 || c.Supervisor <= 0 || c.Workers <= 0 {
		t.Errorf("the cost of a request: %+v (%s)", c, got.Note)
	}
	svg, err := os.ReadFile(filepath.Join(s.dir, "out.svg"))
	if err != nil || xml.Unmarshal(svg, new(any)) != nil {
		t.Errorf("out.svg: %v\n%s", err, svg)
	}

	for _, c := range []struct {
		args []string
		via  []string
	}{
		{[]string{"--size=64,1MiB", "--outstanding=2"}, []string{"message", "copy"}},
		{[]string{"--size=64,1MiB", "--outstanding=3", "--arena", "--connections=2"}, []string{"arena", "arena"}},
		{[]string{"--size=1MiB", "--outstanding=2", "--arena", "--rate=100"}, []string{"arena"}},
		{[]string{"--size=64KiB", "--outstanding=2", "--ring=0"}, []string{"socket"}},
	} {
		r := s.run(append([]string{"bench", "echo", brief, "--json"}, c.args...)...)
		var got drive.Result
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
			t.Fatalf("%q: exit status %d, %v: %s%s", c.args, r.code, err, r.out, r.errOut)
		}
		var via []string
		for _, row := range got.Rows {
			via = append(via, row.Via)
			if row.Requests < 1 || row.Wrong > 0 || len(row.Errors) > 0 {
				t.Errorf("%q: %s", c.args, r.out)
			}
		}
		if !slices.Equal(via, c.via) {
			t.Errorf("%q: via %q, want %q", c.args, via, c.via)
		}
	}

	// More requests are due than can be under way: some wait, and their waiting counts.
	r = s.run("bench", "echo", "sleep", `--data={"seconds": 0.02}`, "--rate=400", "--outstanding=4", "--duration=200ms", "--warmup=0s", "--json")
	got = drive.Result{}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
		t.Fatalf("exit status %d, %v: %s%s", r.code, err, r.out, r.errOut)
	}
	if row = got.Rows[0]; row.Missed == 0 || row.Max < 40_000 {
		t.Errorf("4 requests of 20 ms at a time, 400 a second for 200 ms: %+v", row)
	}
}

func TestBenchCountsFailuresByReason(t *testing.T) {
	s := serve(t, "socket: rm.sock\npools:\n  small: {builtin: echo, concurrency: 1, queue: 1}\n  other: {builtin: echo}\n")
	r := s.run("bench", "small", "sleep", `--data={"seconds": 0.005}`, "--outstanding=16", "--duration=100ms", "--json")
	var got drive.Result
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
		t.Fatalf("exit status %d, %v: %s%s", r.code, err, r.out, r.errOut)
	}
	kinds := []string{}
	for kind := range got.Rows[0].Errors {
		kinds = append(kinds, kind)
	}
	if !slices.Equal(kinds, []string{"RESOURCE_EXHAUSTED/queue_full"}) || got.Rows[0].Requests == 0 || got.First == "" {
		t.Errorf("%s", r.out)
	}
	r = s.run("bench", "small", "sleep", `--data={"seconds": 0.005}`, "--outstanding=16", "--duration=100ms")
	contains(t, "the table", r.out, "× RESOURCE_EXHAUSTED/queue_full", "the first: ")

	for _, c := range []struct {
		args []string
		err  string
	}{
		{[]string{"bench"}, "the server has 2 pools; name one of other, small"},
		{[]string{"bench", "none"}, "NOT_FOUND/unknown_pool"},
		{[]string{"bench", "small", "none"}, "NOT_FOUND/unknown_action"},
		{[]string{"bench", "small", "--plot=none/x.svg", "--duration=1ms", "--size=64", "--outstanding=1"}, "--plot: open none/x.svg"},
	} {
		if r := s.run(c.args...); r.code == 0 {
			t.Errorf("%q: exit status 0", c.args)
		} else {
			contains(t, "stderr", r.errOut, c.err)
		}
	}
}
