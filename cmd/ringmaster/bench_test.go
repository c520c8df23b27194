package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/bench/chaos"
)

// A few seconds of everything that bench --chaos does, in Go and, where there is one, in Python.
func TestBenchChaos(t *testing.T) {
	args := []string{"bench", "--chaos", "--seconds", "3", "--seed", "7", "--clients", "4", "--json"}
	if python := os.Getenv("RINGMASTER_TEST_PYTHON"); python != "" {
		args = append(args, "--python", python)
	}
	p := command(t.TempDir(), args...)
	var out, errOut strings.Builder
	p.Stdout, p.Stderr = &out, &errOut
	if code := exitCode(t, p.Run()); code != 0 {
		t.Fatalf("exit status %d\n%s%s", code, out.String(), errOut.String())
	}
	var r chaos.Result
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		t.Fatal(err)
	}
	answered := 0
	for _, o := range r.Outcomes {
		if o.Outcome == "ok" {
			answered += o.N
		}
	}
	arenas := map[string]int{}
	for _, a := range r.Arenas {
		arenas[a.Name] = a.N
	}
	for _, what := range []string{"requests laid", "answers in their slots", "released ranges watched"} {
		if arenas[what] < 20 {
			t.Errorf("%s: %d", what, arenas[what])
		}
	}
	if r.Seed != 7 || answered < 50 || len(r.Faults) == 0 || len(r.Leaks) == 0 || len(r.Broken) > 0 || r.Log != "" {
		t.Errorf("%s", out.String())
	}
}
