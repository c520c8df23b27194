package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/client"
)

// caller sends a payload to the worker and returns what the worker sent back. Any number of goroutines call it at a time.
type caller interface {
	call(ctx context.Context, payload []byte) ([]byte, error)
	close() error
}

func dial(ctx context.Context, transport, socket string) (caller, error) {
	switch transport {
	case "ringmaster":
		return dialRingmaster(ctx, socket)
	case "ringmaster-socket":
		return dialRingmaster(ctx, socket, client.WithRing(0))
	case "ringmaster-embedded":
		return startEmbedded(ctx)
	case "grpc-uds":
		return dialGRPC(socket)
	}
	return nil, fmt.Errorf("unknown transport %q", transport)
}

// clientSpec is what a client process is told, as JSON on its command line.
type clientSpec struct {
	Transport string
	Socket    string
	Server    int // pid; 0 for none
	Cell      cell
	WarmUp    time.Duration
	Measure   time.Duration
}

// sample is one measurement.
type sample struct {
	Transport  string  `json:"transport"`
	Cell       string  `json:"cell"`
	Repeat     int     `json:"repeat"`
	Requests   int     `json:"requests"`
	Compared   int     `json:"compared"` // replies of the warm-up that were compared byte by byte
	PerSecond  float64 `json:"requests_per_s"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
	P999       float64 `json:"p999_us"`
	CPU        float64 `json:"cpu_us_per_request"`     // all processes together
	Switches   float64 `json:"sleeps_per_request"`     // likewise
	CPUPercent float64 `json:"cpu_percent_of_one_cpu"` // likewise
	WakeUps    float64 `json:"wake_ups_per_s"`         // likewise
	Processes  int     `json:"processes"`
	Foreign    float64 `json:"foreign"`  // share of the machine that other programs took meanwhile
	Attempts   int     `json:"attempts"` // measurements made until this one
}

// runClient is a client process: dial, warm up, measure, print the sample.
func runClient(ctx context.Context, arg string) (err error) {
	var spec clientSpec
	if err := json.Unmarshal([]byte(arg), &spec); err != nil {
		return err
	}
	c, err := dial(ctx, spec.Transport, spec.Socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if spec.Cell.Clients > 0 {
		if err := newRequester(c, spec.Cell.Size, 0).compare(ctx); err != nil {
			return err
		}
		return standBy()
	}
	s, err := measure(ctx, c, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// standBy says that the process is ready and waits for the end of its standard input.
func standBy() error {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func measure(ctx context.Context, c caller, spec clientSpec) (*sample, error) {
	rs := make([]*requester, max(spec.Cell.Outstanding, 1))
	if spec.Cell.Every > 0 {
		rs = make([]*requester, 16) // a reply that takes a few milliseconds does not make the next request late
	}
	for i := range rs {
		rs[i] = newRequester(c, spec.Cell.Size, i)
	}
	if _, err := together(rs, func(r *requester) error { return r.warmUp(ctx, time.Now().Add(spec.WarmUp)) }); err != nil {
		return nil, err
	}
	compared := 0
	for _, r := range rs {
		compared += r.requests
		r.requests = 0
	}
	runtime.GC() // the warm-up's garbage is not the measurement's

	pids := tree(os.Getpid())
	if spec.Server != 0 {
		pids = append(pids, tree(spec.Server)...)
	}
	before, err := usageOf(pids)
	if err != nil {
		return nil, err
	}
	var elapsed time.Duration
	if spec.Cell.Every > 0 {
		elapsed, err = paced(ctx, rs, spec.Cell.Every, spec.Measure)
	} else {
		deadline := time.Now().Add(spec.Measure)
		elapsed, err = together(rs, func(r *requester) error { return r.repeat(ctx, deadline) })
	}
	if err != nil {
		return nil, err
	}
	after, err := usageOf(pids)
	if err != nil {
		return nil, err
	}
	s := &sample{Transport: spec.Transport, Cell: spec.Cell.Name, Compared: compared, Processes: len(pids)}
	all := newHistogram()
	for _, r := range rs {
		s.Requests += r.requests
		all.Merge(r.latencies)
	}
	s.use(after.since(before), elapsed)
	s.PerSecond = float64(s.Requests) / elapsed.Seconds()
	s.P50, s.P99, s.P999 = quantile(all, 50), quantile(all, 99), quantile(all, 99.9)
	return s, nil
}

// use fills in what the processes used in a measurement.
func (s *sample) use(u usage, elapsed time.Duration) {
	if s.Requests > 0 {
		s.CPU = float64(u.cpu.Nanoseconds()) / 1e3 / float64(s.Requests)
		s.Switches = float64(u.switches) / float64(s.Requests)
	}
	s.WakeUps = float64(u.switches) / elapsed.Seconds()
	s.CPUPercent = 100 * u.cpu.Seconds() / elapsed.Seconds()
	s.Foreign = max(0, (u.machine-u.cpu).Seconds()/elapsed.Seconds()/float64(runtime.NumCPU()))
}

// together runs f for all requesters at once and returns how long that took.
func together(rs []*requester, f func(*requester) error) (time.Duration, error) {
	errs := make([]error, len(rs))
	begin := time.Now()
	var wg sync.WaitGroup
	for i, r := range rs {
		wg.Go(func() { errs[i] = f(r) })
	}
	wg.Wait()
	return time.Since(begin), errors.Join(errs...)
}

// paced makes a request due every so often. The goroutine that keeps the time does nothing else, and sleeps in the kernel: Go's own timers are late by up to a millisecond.
func paced(ctx context.Context, rs []*requester, every, measure time.Duration) (time.Duration, error) {
	due := make(chan struct{}, len(rs))
	paceErr := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer close(due)
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			paceErr <- err
			return
		}
		at := now.Nano()
		for end := at + int64(measure); at < end; at += int64(every) {
			t := unix.NsecToTimespec(at)
			for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &t, nil) == unix.EINTR {
			}
			due <- struct{}{}
		}
		paceErr <- nil
	}()
	elapsed, err := together(rs, func(r *requester) error {
		for range due {
			if err := r.once(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return elapsed, errors.Join(err, <-paceErr)
}

// requester sends one request after the other.
type requester struct {
	caller    caller
	payload   []byte
	serial    uint64 // of the next request; its upper half is the requester's number
	requests  int
	latencies *hdrhistogram.Histogram
}

func newRequester(c caller, size, number int) *requester {
	r := &requester{caller: c, payload: make([]byte, size), serial: uint64(number) << 32, latencies: newHistogram()}
	source := rand.NewChaCha8([32]byte{byte(number)})
	_, _ = source.Read(r.payload)
	return r
}

// stamp makes the payload unlike that of every other request, at both its ends.
func (r *requester) stamp() {
	r.serial++
	binary.LittleEndian.PutUint64(r.payload, r.serial)
	binary.LittleEndian.PutUint64(r.payload[len(r.payload)-8:], ^r.serial)
}

var errWrongReply = errors.New("the reply is not what was sent")

// check is what every reply goes through: its length and both its stamped ends.
func (r *requester) check(reply []byte) error {
	n := len(r.payload)
	if len(reply) != n || !bytes.Equal(reply[:8], r.payload[:8]) || !bytes.Equal(reply[n-8:], r.payload[n-8:]) {
		return errWrongReply
	}
	return nil
}

// compare makes a request and compares all of its reply.
func (r *requester) compare(ctx context.Context) error {
	r.stamp()
	reply, err := r.caller.call(ctx, r.payload)
	if err == nil && !bytes.Equal(reply, r.payload) {
		err = errWrongReply
	}
	r.requests++
	return err
}

// warmUp makes requests until the deadline, and at least two.
func (r *requester) warmUp(ctx context.Context, deadline time.Time) error {
	for r.requests < 2 || time.Now().Before(deadline) {
		if err := r.compare(ctx); err != nil {
			return err
		}
	}
	return nil
}

// once makes a request and records how long it took.
func (r *requester) once(ctx context.Context) error {
	r.stamp()
	begin := time.Now()
	reply, err := r.caller.call(ctx, r.payload)
	took := time.Since(begin)
	if err != nil {
		return err
	}
	r.requests++
	if err := r.latencies.RecordValue(int64(took / unit)); err != nil {
		return err
	}
	return r.check(reply)
}

func (r *requester) repeat(ctx context.Context, deadline time.Time) error {
	for time.Now().Before(deadline) {
		if err := r.once(ctx); err != nil {
			return err
		}
	}
	return nil
}

const unit = 100 * time.Nanosecond // of the histograms, which are exact to 1 %

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(time.Minute/unit), 2) }

// quantile is in microseconds.
func quantile(h *hdrhistogram.Histogram, q float64) float64 {
	return float64(h.ValueAtQuantile(q)) * float64(unit) / float64(time.Microsecond)
}
