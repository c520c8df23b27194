package load

import (
	"errors"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ringmasterd/ringmaster/ipc"
)

// The histograms count tenths of a microsecond, exact to 1 %; what takes longer than a minute counts as a minute.
const (
	unit    = 100 * time.Nanosecond
	longest = time.Minute
	digits  = 2
)

// Result is what came of a run.
type Result struct {
	Requests int // that were answered rightly
	Compared int // that were answered in the warm-up, where every byte is looked at
	Elapsed  time.Duration
	Latency  *hdrhistogram.Histogram // of those answered, in units of 100 ns; and of those missed, as long as they had waited

	Missed int            // open loop: requests that were due and could not be sent until the end
	Wrong  int            // answers that were not what they must be, those of the warm-up included
	Errors map[string]int // failed requests, by CODE/reason, those of the warm-up included
	First  error          // one of them, or of the wrong answers
}

func newResult() *Result {
	return &Result{Latency: hdrhistogram.New(1, int64(longest/unit), digits), Errors: map[string]int{}}
}

// PerSecond is the rate of right answers.
func (r *Result) PerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Requests) / r.Elapsed.Seconds()
}

// Quantile is a latency in microseconds; q is in percent.
func (r *Result) Quantile(q float64) float64 {
	return micros(r.Latency.ValueAtQuantile(q))
}

// Max is the longest latency in microseconds.
func (r *Result) Max() float64 { return micros(r.Latency.Max()) }

// Failed is how many requests failed.
func (r *Result) Failed() int {
	n := 0
	for _, count := range r.Errors {
		n += count
	}
	return n
}

func micros(v int64) float64 { return float64(v) * float64(unit) / float64(time.Microsecond) }

func (r *Result) record(d time.Duration) {
	_ = r.Latency.RecordValue(int64(min(max(d, unit), longest) / unit)) // within its range
}

// fail counts a failed request.
func (r *Result) fail(err error) {
	name := "other"
	var e *ipc.Error
	if errors.As(err, &e) {
		name = string(e.Code) + "/" + e.Reason
	}
	r.Errors[name]++
	r.wrong(err)
}

// wrong keeps the first error.
func (r *Result) wrong(err error) {
	if r.First == nil {
		r.First = err
	}
}

func (r *Result) addFailures(o *Result) {
	for name, n := range o.Errors {
		r.Errors[name] += n
	}
	r.Wrong += o.Wrong
	if o.First != nil {
		r.wrong(o.First)
	}
}
