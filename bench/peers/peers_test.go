package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/bench/load"
)

// The test binary plays the roles as the program does.
func TestMain(m *testing.M) {
	if done, err := playRole(os.Args[1:]); done {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// somePython is the environment with all the peers if there is one, else the one that only has the SDK, else none.
func somePython() string {
	peers := "../../.venv-peers/bin/python"
	if _, err := os.Stat(peers); err == nil {
		return peers
	}
	return os.Getenv("RINGMASTER_TEST_PYTHON")
}

// The harness itself: every peer in every scenario for a moment. Every answer is checked in the client processes, in the warm-up to the last byte; one that is wrong fails the run. No figure does.
func TestEveryPeerInEveryScenario(t *testing.T) {
	h, err := newHarness(somePython(), "", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	p := smokePlan()
	p.selected = func(string) bool { return true }
	r := newReport()
	if err := h.run(t.Context(), p, r); err != nil {
		t.Fatal(err)
	}
	r.finish()

	absent := map[string]string{}
	for _, m := range r.Missing {
		absent[strings.TrimSuffix(m.Transport, " (Python)")] = m.Reason
		t.Logf("not run: %s: %s", m.Transport, m.Reason)
	}
	// A client, a worker, and what is between them; Ringmaster has a guard as well.
	processes := map[string]int{"ringmaster": 4, "ringmaster-socket": 4, "ringmaster-arena": 4, "ringmaster-embedded": 3, "goplugin-grpc": 2}
	for _, c := range p.cells {
		for i := range peers {
			q := &peers[i]
			if !q.applies(c) || q.python && absent[q.name] != "" {
				continue
			}
			row, ok := r.row(q, c)
			want := processes[q.name]
			if want == 0 {
				want = 3
			}
			switch {
			case !ok:
				t.Errorf("%s, %s: not measured", q.name, c.name())
			case c.Clients > 0, c.Connections > 0:
				if want += c.Workers + max(1, c.Clients) - 2; row.Processes != want {
					t.Errorf("%s, %s: %d processes, want %d", q.name, c.name(), row.Processes, want)
				}
			case row.Requests == 0 || row.CPU <= 0 || row.P50 <= 0 || row.P99 < row.P50:
				t.Errorf("%s, %s: %+v", q.name, c.name(), row)
			case !q.python && row.Processes != want:
				t.Errorf("%s, %s: %d processes, want %d", q.name, c.name(), row.Processes, want)
			}
		}
	}

	dir := t.TempDir()
	page := filepath.Join(dir, "page.md")
	if err := os.WriteFile(page, []byte("by hand\n"+beginMark+"\nold\n"+endMark+"\nby hand, too\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.writePage(page, ""), r.write(filepath.Join(dir, "latest.json"))); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(page)
	for _, want := range []string{"by hand\n", "\nby hand, too\n", "| 6MiB × 8 | grpc-uds | 2 |", "| sparse, 64B | ringmaster-embedded |", "| frame, 6MiB × 1 | zmq |", "](img/throughput-64B.svg)", "](img/scale-cpu.svg)", "\n| 16 | 256 |", "\n| ringmaster | 256 |"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if bytes.Contains(text, []byte("\nold\n")) {
		t.Error("the page has its old tables still")
	}
	drawings, _ := filepath.Glob(filepath.Join(dir, "img", "*.svg"))
	for _, file := range drawings {
		if svg, err := os.ReadFile(file); err != nil || xml.Unmarshal(svg, new(any)) != nil {
			t.Errorf("%s is not XML", file)
		}
	}
	if len(drawings) < 5 {
		t.Errorf("drawings: %q", drawings)
	}
	var read report
	b, _ := os.ReadFile(filepath.Join(dir, "latest.json"))
	if err := json.Unmarshal(b, &read); err != nil || len(read.Rows) != len(r.Rows) || bytes.Count(b, []byte("\n")) < len(r.Rows) {
		t.Errorf("latest.json: %v, %d rows\n%s", err, len(read.Rows), b)
	}
}

func TestFrameAnswersAreChecked(t *testing.T) {
	p := load.NewPayload(4096, 3)
	check := checkOf("frame")
	for range 3 {
		p.Stamp()
		good, err := work(t.Context(), "frame", p.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(check(p, good, true), check(p, good, false)); err != nil {
			t.Error(err)
		}
		for _, at := range []int{0, 7, 8, 15} {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			if err := check(p, bad, false); !errors.Is(err, load.ErrWrong) {
				t.Errorf("byte %d is wrong: %v", at, err)
			}
		}
		if err := check(p, good[:63], false); !errors.Is(err, load.ErrWrong) {
			t.Errorf("a short answer: %v", err)
		}
	}
	// A line that was not read is missing from the sum.
	unread := bytes.Clone(p.Bytes)
	unread[2048] ^= 1
	if err := check(p, frame(unread), false); !errors.Is(err, load.ErrWrong) {
		t.Errorf("a line that is not the request's: %v", err)
	}
}

func TestAnActionThatIsNotThereIsAnError(t *testing.T) {
	for i := range peers {
		w := peers[i].wire
		if w == nil || peers[i].name == control { // which knows its actions by itself
			continue
		}
		t.Run(peers[i].name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "peers") // t.TempDir's path is too long for a socket
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			socket := filepath.Join(dir, "s")
			stop, err := w.serve(socket, work)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			c, err := w.dial(t.Context(), socket)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.close() }()
			if _, err := c.call(t.Context(), "none", []byte("x")); err == nil || !strings.Contains(err.Error(), `no action "none"`) {
				t.Errorf("%v", err)
			}
			if answer, err := c.call(t.Context(), "echo", []byte("hello")); err != nil || string(answer) != "hello" {
				t.Errorf("%q, %v", answer, err)
			}
		})
	}
}

func TestRatiosPairTheRepeats(t *testing.T) {
	r := &report{}
	c := cell{Scenario: "echo", Size: 64, Outstanding: 1, Workers: 1}
	for i, v := range [][2]float64{{30, 10}, {100, 20}, {40, 10}} { // a machine that is twice as fast for a while does not distort
		r.Samples = append(r.Samples,
			&sample{Transport: "ringmaster", Cell: c, Repeat: i, PerSecond: v[0]},
			&sample{Transport: control, Cell: c, Repeat: i, PerSecond: v[1]})
	}
	if got := r.ratio(&peers[0], c, perSecond); got.String() != "4.00 (3.00–5.00)" {
		t.Errorf("ratio %s", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median %v", got)
	}
}

func TestPlanComesFromTheEnvironment(t *testing.T) {
	env := map[string]string{}
	get := func(name string) string { return env[name] }
	p, err := fullPlan(get)
	if err != nil || p.repeats != 5 {
		t.Errorf("%+v, %v", p, err)
	}
	env["BENCH_REPEATS"], env["BENCH_SECONDS"] = "2", "0.1"
	if p, err = fullPlan(get); err != nil || p.repeats != 2 || p.measure.Milliseconds() != 100 || p.duration(cell{Size: frameSize}).Milliseconds() != 200 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"0", "x", "-1"} {
		for _, name := range []string{"BENCH_REPEATS", "BENCH_SECONDS"} {
			env = map[string]string{name: bad}
			if _, err := fullPlan(get); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%s: %v", name, bad, err)
			}
		}
	}
}

// The control, and the peers of the two languages, keep apart.
func TestTransportsHaveControls(t *testing.T) {
	for _, name := range []string{control, pythonControl} {
		if _, err := dial(context.Background(), name+"?", ""); err == nil {
			t.Errorf("%s?: no error", name)
		}
	}
	for i := range peers {
		for _, c := range cells() {
			if peers[i].applies(c) && peers[i].python != strings.HasPrefix(c.Scenario, "python-") {
				t.Errorf("%s in %s", peers[i].name, c.name())
			}
			if actions[c.Scenario] == "" {
				t.Errorf("%s has no action", c.Scenario)
			}
		}
	}
}
