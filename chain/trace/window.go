package trace

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	slice   = 5 * time.Second // the grain of the windows
	parts   = 13              // a minute, and the one that has begun
	longest = 3600 * 1e6      // µs that are told apart
	figures = 2               // decimal digits that are exact
)

// window holds the durations of the last minute's requests in slices. It is a function of the times that it is given.
type window struct {
	of [parts]part
}

// part is one slice: the requests that ended in it.
type part struct {
	number int64 // of the slice, since 1970; what is of another is stale
	took   *hdrhistogram.Histogram
	failed int64
}

func numberOf(now time.Time) int64 { return now.UnixNano() / int64(slice) }

// add counts a request that has ended now.
func (w *window) add(took time.Duration, failed bool, now time.Time) {
	n := numberOf(now)
	p := &w.of[n%parts]
	switch {
	case p.took == nil:
		p.took = hdrhistogram.New(1, longest, figures)
		p.number = n
	case p.number != n:
		p.took.Reset()
		p.number, p.failed = n, 0
	}
	_ = p.took.RecordValue(min(max(took.Microseconds(), 1), longest)) // it fails for what is out of bounds
	if failed {
		p.failed++
	}
}

// Rates are what a pool did in a window of time.
type Rates struct {
	PerSecond float64 `json:"per_s" msgpack:"per_s"`               // requests that ended
	Failed    float64 `json:"failed_per_s" msgpack:"failed_per_s"` // of them, those that failed
	Requests  int64   `json:"requests" msgpack:"requests"`
	P50MS     float64 `json:"p50_ms" msgpack:"p50_ms"` // how long they took
	P90MS     float64 `json:"p90_ms" msgpack:"p90_ms"`
	P99MS     float64 `json:"p99_ms" msgpack:"p99_ms"`
	MaxMS     float64 `json:"max_ms" msgpack:"max_ms"`
}

// rates sums up what lies no longer back than span, give or take a slice.
func (w *window) rates(span time.Duration, now time.Time) Rates {
	n, back := numberOf(now), int64(span/slice)
	sum := hdrhistogram.New(1, longest, figures)
	var failed int64
	for i := range w.of {
		if p := &w.of[i]; p.took != nil && p.number <= n && p.number >= n-back {
			sum.Merge(p.took)
			failed += p.failed
		}
	}
	// The slice that has begun counts as far as it has come.
	seconds := (time.Duration(back)*slice + time.Duration(now.UnixNano()%int64(slice))).Seconds()
	ms := func(q float64) float64 { return float64(sum.ValueAtQuantile(q)) / 1e3 }
	return Rates{
		PerSecond: float64(sum.TotalCount()) / seconds, Failed: float64(failed) / seconds, Requests: sum.TotalCount(),
		P50MS: ms(50), P90MS: ms(90), P99MS: ms(99), MaxMS: float64(sum.Max()) / 1e3,
	}
}
