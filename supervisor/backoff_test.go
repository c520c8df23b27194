package supervisor

import (
	"testing"
	"time"
)

func newBackoff() *backoff { return &backoff{first: backoffFirst, max: backoffMax} }

func TestBackoffDoublesUpToItsMost(t *testing.T) {
	b, now := newBackoff(), time.Now()
	for i, ms := range []int{50, 100, 200, 400, 30000, 30000} { // the fifth that answered nothing is one too many
		want := time.Duration(ms) * time.Millisecond
		if got := b.fail(now, false, 0); got != want {
			t.Fatalf("failure %d: wait %v, want %v", i+1, got, want)
		}
	}
	for range 2000 { // far beyond what a float's exponent holds
		if got := b.fail(now, false, 0); got != backoffMax {
			t.Fatalf("wait %v, want %v", got, backoffMax)
		}
	}
}

// A worker that answers requests and dies of some soon begins again: the wait stays below two failures' worth.
func TestBackoffOfAWorkerThatWorks(t *testing.T) {
	b, now := newBackoff(), time.Now()
	for range 100 {
		if got := b.fail(now, true, 0); got > 2*backoffFirst || b.failed() {
			t.Fatalf("wait %v, failed %v", got, b.failed())
		}
	}
}

func TestBackoffForgets(t *testing.T) {
	b, now := newBackoff(), time.Now()
	for range 3 {
		b.fail(now, false, 0)
	}
	// One half-life later the three failures count as one and a half; with this one 2.5: 50 ms · 2^1.5.
	now = now.Add(backoffHalfLife)
	if got, want := b.fail(now, false, 0), 141*time.Millisecond; got.Round(time.Millisecond) != want {
		t.Errorf("wait %v, want %v", got, want)
	}
	// A worker that crashes once a day restarts at once each time.
	for range 10 {
		now = now.Add(24 * time.Hour)
		if got := b.fail(now, true, 0); got.Round(time.Microsecond) != backoffFirst {
			t.Errorf("wait %v, want %v", got, backoffFirst)
		}
	}
}

func TestBackoffJitter(t *testing.T) {
	for _, jitter := range []float64{0, 0.25, 0.5, 0.999999} {
		got := newBackoff().fail(time.Now(), true, jitter)
		if want := time.Duration(float64(backoffFirst) * (1 - jitter/5)); got != want {
			t.Errorf("jitter %v: wait %v, want %v", jitter, got, want)
		}
		if got > backoffFirst || got < backoffFirst*4/5 {
			t.Errorf("jitter %v: wait %v is not within a fifth below %v", jitter, got, backoffFirst)
		}
	}
}

func TestBackoffGivesUpAfterFiveInARow(t *testing.T) {
	b, now := newBackoff(), time.Now()
	for i := range failedAfter - 1 {
		if b.fail(now, false, 0); b.failed() {
			t.Fatalf("failed after %d", i+1)
		}
	}
	if b.fail(now, true, 0); b.failed() {
		t.Fatal("failed although the last one worked")
	}
	for i := range failedAfter - 1 {
		if b.fail(now, false, 0); b.failed() {
			t.Fatalf("failed after %d since the last one that worked", i+1)
		}
	}
	for range 3 {
		if wait := b.fail(now, false, 0.5); !b.failed() || wait != backoffMax*9/10 { // spread, or slots that died together would come back together
			t.Fatalf("failed %v, wait %v; want true, %v", b.failed(), wait, backoffMax*9/10)
		}
	}
	if b.fail(now, true, 0); b.failed() {
		t.Fatal("failed although one worked again")
	}
}
