package cache

import (
	"bytes"
	"container/list"
	"crypto/sha256"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	maxSequences = 1024        // sessions, or clients without one, whose last request is known
	maxSteps     = 4096        // requests of which it is known what follows
	maxStep      = 64 << 10    // bytes of the largest request that is remembered
	maxStepBytes = 4 << 20     // of all of them
	togetherness = time.Minute // between two requests of which one is said to follow the other, at most

	stepHalf = 10 * time.Minute // after which what was learned counts half
	stepMost = 8.0              // what can be learned of one step
	stepSure = 1.5              // from here on it is asked in advance: it was seen twice lately, and hardly anything else
)

// learner remembers which request followed which, of those that can be cached: of each request the one that followed it most of late, and how surely.
//
//	seen again: +1    another followed: −1, and the other one takes its place at 0    with time: halved every ten minutes
//
// Requests are known by digests that include who asks, so that nobody's are asked in another's name. What is remembered is bounded, and the oldest goes first.
type learner struct {
	mu        sync.Mutex
	sequences map[Key]*list.Element // of *sequence
	recent    list.List             // of *sequence; the one that asked last is in front
	steps     map[Key]*list.Element // of *step
	used      list.List             // of *step; the one that was seen last is in front
	bytes     int
	room      *room // what the steps take is held there
}

// sequence is what one session asks.
type sequence struct {
	session, last Key
	at            int64
}

// step says what follows a request.
type step struct {
	from, to Key
	req      *ipc.Request
	size     int
	score    float64
	at       int64
}

// surely is a score that was right some time ago.
func surely(score float64, since time.Duration) float64 {
	return score * math.Exp2(-since.Seconds()/stepHalf.Seconds())
}

// observe takes a question in as the next of its session.
func (p *prefetcher) observe(c *Cache, q *question) {
	session := q.req.Headers["session"]
	if session == "" {
		session = "\x00" + strconv.Itoa(int(q.req.Client.PID)) // no header can have it
	}
	id := sha256.Sum256(append(c.identity(q.ctx, q.req, []byte("session\x00")), session...))
	p.learner.see(Key(id), c.ownKey(q.ctx, q.req, q.key), q.req, q.settings.store)
}

func (l *learner) see(session, key Key, req *ipc.Request, s *store) {
	now := s.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room = &s.room
	if l.sequences == nil {
		l.sequences, l.steps = map[Key]*list.Element{}, map[Key]*list.Element{}
	}
	e := l.sequences[session]
	if e == nil {
		e = l.recent.PushFront(&sequence{session: session})
		l.sequences[session] = e
		if l.recent.Len() > maxSequences {
			delete(l.sequences, l.recent.Remove(l.recent.Back()).(*sequence).session)
		}
	}
	l.recent.MoveToFront(e)
	seq := e.Value.(*sequence)
	if seq.at != 0 && seq.last != key && time.Duration(now-seq.at) < togetherness {
		l.follows(seq.last, key, req, now)
	}
	seq.last, seq.at = key, now
}

// follows takes in that one request followed another. Preconditions: mu is held.
func (l *learner) follows(from, to Key, req *ipc.Request, now int64) {
	e := l.steps[from]
	if e == nil {
		l.begin(from, to, req, now)
		return
	}
	s := e.Value.(*step)
	s.score = surely(s.score, time.Duration(now-s.at))
	s.at = now
	l.used.MoveToFront(e)
	if s.to == to {
		s.score = min(stepMost, s.score+1)
		return
	}
	if s.score--; s.score <= 0 {
		l.remove(e)
		l.begin(from, to, req, now)
	}
}

// begin remembers a step, if it can be repeated and there is room. Preconditions: mu is held.
func (l *learner) begin(from, to Key, req *ipc.Request, now int64) {
	size := stepSize(req)
	if len(req.Tensors) > 0 || size > maxStep || !l.room.take(int64(size)) {
		return
	}
	l.bytes += size
	l.steps[from] = l.used.PushFront(&step{from: from, to: to, req: again(req), size: size, score: 1, at: now})
	for l.used.Len() > maxSteps || l.bytes > maxStepBytes {
		l.remove(l.used.Back())
	}
}

// remove forgets a step. Preconditions: mu is held.
func (l *learner) remove(e *list.Element) {
	s := l.used.Remove(e).(*step)
	delete(l.steps, s.from)
	l.bytes -= s.size
	l.room.give(int64(s.size))
}

// stepSize is roughly what a remembered request takes.
func stepSize(req *ipc.Request) int {
	n := 512 + len(req.Pool) + len(req.Action) + len(req.Body) + len(req.Context)
	for k, v := range req.Headers {
		n += headerOverhead + len(k) + len(v)
	}
	return n
}

// again copies what makes a request the same one.
func again(req *ipc.Request) *ipc.Request {
	return &ipc.Request{Pool: req.Pool, Action: req.Action, Body: bytes.Clone(req.Body), Context: bytes.Clone(req.Context), Headers: followHeaders(req.Headers)}
}

// after returns a copy of the request that will probably follow; nil: nobody knows.
func (l *learner) after(key Key, now int64) *ipc.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.steps[key]
	if e == nil {
		return nil
	}
	s := e.Value.(*step)
	if surely(s.score, time.Duration(now-s.at)) < stepSure {
		return nil
	}
	return again(s.req)
}

// forget forgets everything.
func (p *prefetcher) forget() {
	l := &p.learner
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.used.Back(); e != nil; e = l.used.Back() {
		l.remove(e)
	}
	l.sequences, l.steps = nil, nil
	l.recent.Init()
}
