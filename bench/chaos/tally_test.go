package chaos

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

var strict = Promises{Retry: true, HangTimeout: true, Fairness: true}

// broken says whether a tally has these broken promises, in this order, and no others.
func broken(t *testing.T, tally *Tally, says ...string) {
	t.Helper()
	if len(tally.Broken) != len(says) {
		t.Errorf("broken promises %q, want %q", tally.Broken, says)
		return
	}
	for i, s := range says {
		if !strings.Contains(tally.Broken[i], s) {
			t.Errorf("broken promise %q, want %q in it", tally.Broken[i], s)
		}
	}
}

func TestOutcomesThatMustNotBeAreSeen(t *testing.T) {
	lost := ipc.Errorf(ipc.Aborted, "worker_lost", "it died")
	full := ipc.Errorf(ipc.ResourceExhausted, "queue_full", "no room")
	later := *full
	later.RetryAfter = time.Second
	soon := ipc.Error{Code: ipc.ResourceExhausted, Reason: "would_expire", RetryAfter: time.Second}
	late := ipc.Errorf(ipc.DeadlineExceeded, "deadline", "too late")
	poisonous := ipc.Errorf(ipc.Aborted, "poison_request", "no more")
	for _, tt := range []struct {
		class  class
		err    error
		chunks int
		broken string
	}{
		{transform, nil, 0, ""},
		{transform, lost, 0, "failed, which it must not"},
		{transform, errUnanswered, 0, "unanswered"},
		{transform, errors.New("a byte is wrong"), 0, "wrong bytes"},
		{transform, late, 0, "failed, which it must not"},
		{transform, &later, 0, "failed, which it must not"},
		{transform, poisonous, 0, "failed, which it must not"},
		{transform, ipc.Errorf(ipc.Unavailable, "crash_loop", ""), 0, "failed, which it must not"},
		{transform, ipc.Errorf(ipc.Unavailable, "connection_lost", ""), 0, "failed, which it must not"},
		{stream, lost, 1, ""},
		{stream, lost, 0, "failed, which it must not"},
		{once, lost, 0, ""},
		{once, late, 0, "failed, which it must not"},
		{hang, late, 0, ""},
		{hang, poisonous, 0, ""},
		{hang, nil, 0, "succeeded, which it cannot"},
		{crash, lost, 0, ""},
		{crash, nil, 0, "succeeded, which it cannot"},
		{lie, lost, 0, ""},
		{leak, nil, 0, ""},
		{raise, ipc.Errorf(ipc.Internal, "handler", "asked to"), 0, ""},
		{once, ipc.Errorf(ipc.Internal, "handler", "asked to"), 0, "failed, which it must not"},
		{hang, ipc.Errorf(ipc.ResourceExhausted, "would_expire", ""), 0, "failed, which it must not"}, // nor does it
		{hang, &soon, 0, ""},
		{once, &soon, 0, "failed, which it must not"},
		{flood, &soon, 0, ""},
		{flood, &later, 0, ""},
		{flood, full, 0, "failed, which it must not"}, // it does not say when to try again
		{flood, lost, 0, "failed, which it must not"},
	} {
		tally := newTally()
		r := newTransform(id{class: tt.class}, wide, 0, nil)
		r.chunks = tt.chunks
		tally.sent(r.id)
		tally.ended(strict, r, tt.err, time.Second)
		tally.forgotten()
		if tt.broken == "" {
			broken(t, tally)
		} else {
			broken(t, tally, tt.broken)
		}
	}
}

func TestOutcomesAreCountedOnce(t *testing.T) {
	tally := newTally()
	r := newTransform(id{client: 1, seq: 5}, wide, 0, nil)
	tally.sent(r.id)
	tally.sent(id{client: 1, class: once, seq: 2})
	tally.ended(strict, r, nil, time.Millisecond)
	broken(t, tally)
	tally.ended(strict, r, nil, time.Millisecond)
	broken(t, tally, "duplicated: transform 0001000000000005 (client 1) to pool wide has a second outcome, ok")
	tally.forgotten()
	broken(t, tally, "duplicated", "unanswered: once 0001020000000002 (client 1)")
}

func TestLedgerIsHeldAgainstTheOutcomes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	tally := newTally()
	var lines strings.Builder
	request := func(c class, seq uint32, err error, runs int) {
		r := newTransform(id{client: 2, class: c, seq: seq}, wide, 0, nil)
		tally.sent(r.id)
		tally.ended(strict, r, err, time.Millisecond)
		for range runs {
			lines.WriteString(r.id.nonce() + " 0 123\n")
		}
	}
	full := ipc.Errorf(ipc.ResourceExhausted, "queue_full", "no room")
	full.RetryAfter = time.Second
	lost := ipc.Errorf(ipc.Aborted, "worker_lost", "it died")
	check := func() int {
		t.Helper()
		if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := readLedger(path)
		if err != nil {
			t.Fatal(err)
		}
		return l.check(tally)
	}
	request(transform, 0, nil, 1)
	request(transform, 1, nil, 2)
	request(once, 0, nil, 1)
	request(once, 1, lost, 1)
	request(once, 2, lost, 0) // it had read it, and died before it did anything
	request(flood, 0, full, 0)
	if n := check(); n != 1 {
		t.Errorf("%d requests were run twice", n)
	}
	broken(t, tally)

	for _, tt := range []struct {
		class class
		err   error
		runs  int
		says  string
	}{
		{once, nil, 2, "duplicated: once 0002020000000009 (client 2) was run 2 times, may be 1"},
		{once, lost, 2, "duplicated: once"},
		{transform, nil, 3, "duplicated: transform 0002000000000009 (client 2) was run 3 times, may be 2"},
		{transform, nil, 0, "invented: transform"},
		{flood, full, 1, "was refused and yet run 1 times"},
	} {
		tally = newTally()
		lines.Reset()
		request(tt.class, 9, tt.err, tt.runs)
		check()
		broken(t, tally, tt.says)
	}

	tally = newTally() // a client that was killed tells nothing
	lines.Reset()
	lines.WriteString(strings.Repeat(id{client: 7, class: once}.nonce()+" 0 1\n", 2))
	check()
	broken(t, tally, "duplicated: once 0007020000000000 (client 7)")

	if err := os.WriteFile(path, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLedger(path); err == nil || !strings.Contains(err.Error(), path+":1") {
		t.Errorf("nonsense in the ledger: %v", err)
	}
}

// What another process found travels as JSON.
func TestTalliesAddUp(t *testing.T) {
	mine, other := newTally(), newTally()
	for i, tally := range []*Tally{mine, other} {
		r := newTransform(id{client: uint16(i)}, wide, 0, nil)
		tally.sent(r.id)
		tally.ended(strict, r, nil, time.Duration(1+i)*time.Second)
		tally.moved(10, 100)
		tally.breaks("promise %d", i)
	}
	other.sent(id{client: 1, class: once})
	b, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	back := newTally()
	if err := json.Unmarshal(b, back); err != nil {
		t.Fatal(err)
	}
	mine.add(back)
	if mine.Requests != 3 || mine.Outcomes["transform ok"] != 2 || mine.Sent != 20 || mine.Received != 200 || mine.Latency["transform"].Max != 2*time.Second {
		t.Errorf("%+v", mine)
	}
	mine.forgotten()
	broken(t, mine, "promise 0", "promise 1", "unanswered: once 0001020000000000 (client 1)")
	for range 2 * maxBroken {
		mine.breaks("again")
	}
	if len(mine.Broken) != maxBroken || mine.More != 2*maxBroken-(maxBroken-3) {
		t.Errorf("%d and %d more", len(mine.Broken), mine.More)
	}
}

func TestQuantiles(t *testing.T) {
	var h Histogram
	if h.quantile(0.5) != 0 {
		t.Error("of nothing")
	}
	for ms := range 1000 {
		h.add(time.Duration(ms+1) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := h.quantile(q); got < want || got > want*9/8 {
			t.Errorf("the %v-quantile is %v, want %v to an eighth", q, got, want)
		}
	}
	var one Histogram
	one.add(0)
	if got := one.quantile(0.99); got != 0 {
		t.Errorf("of 0: %v", got)
	}
}
