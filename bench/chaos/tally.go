package chaos

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

// fate is what became of a request. A request is given one when it is sent, and another when it ends.
type fate byte

const (
	unsent     fate = iota
	open            // sent, no outcome yet
	answered        // rightly
	failed          // it may have run
	turnedAway      // it cannot have run
)

// maxBroken is how many broken promises are kept word for word.
const maxBroken = 50

// Tally is what came of the requests of a process.
type Tally struct {
	mu sync.Mutex // guards all of it

	Requests int
	Outcomes map[string]int        // "class ok", "class CODE/reason"
	Latency  map[string]*Histogram // of answers, by class
	Sent     int64                 // bytes
	Received int64                 // bytes
	Chunks   int
	Arenas   map[string]int // what became of tensors in arenas, by what it is
	Broken   []string       // promises, in words
	More     int            // broken promises that Broken has no room for
	Fates    map[uint32][]byte
}

func newTally() *Tally {
	return &Tally{Outcomes: map[string]int{}, Latency: map[string]*Histogram{}, Arenas: map[string]int{}, Fates: map[uint32][]byte{}}
}

// series is the key of Fates.
func (n id) series() uint32 { return uint32(n.client)<<8 | uint32(n.class) }

// sent notes that a request goes out.
func (t *Tally) sent(n id) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Requests++
	list := t.Fates[n.series()]
	for len(list) <= int(n.seq) {
		list = append(list, byte(unsent))
	}
	list[n.seq] = byte(open)
	t.Fates[n.series()] = list
}

// ended notes a request's outcome and holds it against what is promised.
func (t *Tally) ended(p Promises, r *request, err error, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := r.id
	var e *ipc.Error
	var outcome string
	become := failed
	switch {
	case err == nil:
		outcome, become = "ok", answered
	case errors.Is(err, errUnanswered):
		outcome = "unanswered"
		t.broke("unanswered: %s after %v", r, took.Round(time.Millisecond))
	case errors.As(err, &e):
		outcome = string(e.Code) + "/" + e.Reason
		if refused(e) {
			become = turnedAway
		}
	default:
		outcome = "wrong"
		t.broke("wrong bytes: %s: %v", r, err)
	}
	if outcome == "ok" && !p.allowed(n.class, nil, r.chunks) {
		t.broke("%s succeeded, which it cannot", r)
	}
	if e != nil && !p.allowed(n.class, e, r.chunks) {
		t.broke("%s failed, which it must not, after %v and %d chunks: %v", r, took.Round(time.Millisecond), r.chunks, e)
	}
	list := t.Fates[n.series()]
	if int(n.seq) >= len(list) || fate(list[n.seq]) != open {
		t.broke("duplicated: %s has a second outcome, %s", r, outcome)
	} else {
		list[n.seq] = byte(become)
	}
	t.Outcomes[n.class.String()+" "+outcome]++
	t.Chunks += r.chunks
	if become == answered {
		h := t.Latency[n.class.String()]
		if h == nil {
			h = &Histogram{}
			t.Latency[n.class.String()] = h
		}
		h.add(took)
	}
}

// moved adds to the bytes sent and received.
func (t *Tally) moved(sent, received int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Sent += int64(sent)
	t.Received += int64(received)
}

// arena counts something that has to do with arenas.
func (t *Tally) arena(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Arenas[what]++
}

// breaks notes a broken promise.
func (t *Tally) breaks(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broke(format, args...)
}

// broke is breaks with mu held.
func (t *Tally) broke(format string, args ...any) {
	if len(t.Broken) >= maxBroken {
		t.More++
		return
	}
	t.Broken = append(t.Broken, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// forgotten notes every request that has no outcome.
func (t *Tally) forgotten() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for series, list := range t.Fates {
		for seq, f := range list {
			if fate(f) == open {
				t.broke("unanswered: %s", id{uint16(series >> 8), class(series), uint32(seq)})
			}
		}
	}
}

// add takes in the tally of another process, whose clients are others.
func (t *Tally) add(o *Tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Requests += o.Requests
	for k, n := range o.Outcomes {
		t.Outcomes[k] += n
	}
	for k, h := range o.Latency {
		if t.Latency[k] == nil {
			t.Latency[k] = &Histogram{}
		}
		t.Latency[k].merge(h)
	}
	t.Sent += o.Sent
	t.Received += o.Received
	t.Chunks += o.Chunks
	for k, n := range o.Arenas {
		t.Arenas[k] += n
	}
	room := maxBroken - len(t.Broken)
	t.Broken = append(t.Broken, o.Broken[:min(room, len(o.Broken))]...)
	t.More += o.More + max(0, len(o.Broken)-room)
	for k, list := range o.Fates {
		t.Fates[k] = list
	}
}

// String is how a request is called in what people read.
func (n id) String() string { return fmt.Sprintf("%s %s (client %d)", n.class, n.nonce(), n.client) }

func (r *request) String() string { return fmt.Sprintf("%v to pool %s", r.id, r.req.Pool) }

// Histogram counts durations, by their size to an eighth.
type Histogram struct {
	Count   int
	Max     time.Duration
	Buckets [8 * 64]int
}

func (h *Histogram) add(d time.Duration) {
	h.Count++
	h.Max = max(h.Max, d)
	h.Buckets[bucket(d)]++
}

func bucket(d time.Duration) int {
	v := uint64(max(d, 1))
	e := bits.Len64(v) - 1
	return e*8 + int(v<<(63-e)<<1>>61)
}

func (h *Histogram) merge(o *Histogram) {
	h.Count += o.Count
	h.Max = max(h.Max, o.Max)
	for i, n := range o.Buckets {
		h.Buckets[i] += n
	}
}

// quantile is the upper edge of the bucket in which the q-quantile is.
func (h *Histogram) quantile(q float64) time.Duration {
	left := int(math.Ceil(q * float64(h.Count)))
	for i, n := range h.Buckets {
		if left -= n; left <= 0 && h.Count > 0 {
			e, part := i/8, i%8
			return min(h.Max, time.Duration(math.Ldexp(1+float64(part+1)/8, e)))
		}
	}
	return h.Max
}
