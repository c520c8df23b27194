package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
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

// Every reply's length and ends, and every byte of the warm-up's, are compared in the client processes; one that is wrong fails the run.
func TestEveryTransportInEveryCell(t *testing.T) {
	h, err := newHarness("", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	r := newReport()
	if err := h.run(t.Context(), quickPlan(), func(string) bool { return true }, r); err != nil {
		t.Fatal(err)
	}
	r.finish()

	found := map[string]*sample{}
	for _, s := range r.Samples {
		found[s.Transport+"/"+s.Cell] = s
	}
	// A client, a server, a worker; Ringmaster's servers have a guard process as well.
	processes := map[string]int{"ringmaster": 4, "ringmaster-socket": 4, "ringmaster-embedded": 3, "grpc-uds": 3}
	for _, c := range cells {
		for _, transport := range transports {
			s := found[transport+"/"+c.Name]
			switch {
			case !c.applies(transport):
			case s == nil:
				t.Errorf("%s, %s: not measured", transport, c.Name)
			case c.Clients > 0:
				if want := processes[transport] - 2 + c.Workers + c.Clients; s.Processes != want {
					t.Errorf("%s, %s: %d processes, want %d", transport, c.Name, s.Processes, want)
				}
			case s.Processes != processes[transport]:
				t.Errorf("%s, %s: %d processes, want %d", transport, c.Name, s.Processes, processes[transport])
			case s.Requests == 0 || s.Compared < 2 || s.CPU <= 0 || s.P50 <= 0 || s.P99 < s.P50:
				t.Errorf("%s, %s: %+v", transport, c.Name, *s)
			}
		}
	}

	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{"| 6MiB × 8 | grpc-uds |", "| 64B, one each 1ms | ringmaster-embedded |", "| 4 workers, 16 clients | ringmaster |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &out)
		}
	}
}

type callFunc func(payload []byte) []byte

func (f callFunc) call(_ context.Context, payload []byte) ([]byte, error) { return f(payload), nil }
func (f callFunc) close() error                                           { return nil }

func TestWrongRepliesAreNoticed(t *testing.T) {
	edit := func(at int) callFunc {
		return func(p []byte) []byte {
			p = bytes.Clone(p)
			p[at] ^= 1
			return p
		}
	}
	for name, c := range map[string]struct {
		reply       callFunc
		onlyCompare bool // a look at the ends does not see it
	}{
		"short":           {reply: func(p []byte) []byte { return p[:len(p)-1] }},
		"empty":           {reply: func([]byte) []byte { return nil }},
		"first byte":      {reply: edit(0)},
		"last byte":       {reply: edit(63)},
		"in the middle":   {reply: edit(32), onlyCompare: true},
		"somebody else's": {reply: func([]byte) []byte { return newRequester(nil, 64, 7).payload }},
		"the last request": {reply: func(p []byte) []byte {
			last := &requester{payload: bytes.Clone(p), serial: binary.LittleEndian.Uint64(p) - 2}
			last.stamp()
			return last.payload
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := newRequester(c.reply, 64, 0).compare(t.Context()); !errors.Is(err, errWrongReply) {
				t.Errorf("compare: %v", err)
			}
			if err := newRequester(c.reply, 64, 0).once(t.Context()); !errors.Is(err, errWrongReply) != c.onlyCompare {
				t.Errorf("once: %v", err)
			}
		})
	}
	right := newRequester(callFunc(bytes.Clone), 64, 0)
	if err := errors.Join(right.compare(t.Context()), right.once(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestRatiosPairTheRepeats(t *testing.T) {
	r := &report{}
	for i, v := range [][2]float64{{30, 10}, {100, 20}, {40, 10}} { // a machine that is twice as fast for a while does not distort
		r.Samples = append(r.Samples,
			&sample{Transport: "ringmaster", Cell: "x", Repeat: i, PerSecond: v[0]},
			&sample{Transport: control, Cell: "x", Repeat: i, PerSecond: v[1]})
	}
	if got := r.ratio("x", "ringmaster", perSecond); got != "4.00 (3.00–5.00)" {
		t.Errorf("ratio %s", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median %v", got)
	}
}
