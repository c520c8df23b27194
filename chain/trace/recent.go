package trace

import "sync"

// noteworthy is how many failed requests, and how many slow ones, are remembered beside the latest, which a flood of others may have pushed out.
const noteworthy = 256

// recent remembers the latest requests that have ended. The zero value remembers none.
type recent struct {
	mu     sync.Mutex
	all    ring // guarded by mu, like those below
	failed ring
	slow   ring
}

// add remembers a record, which has ended.
func (m *recent) add(r *record, slow bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all.push(r)
	if r.outcome != nil {
		m.failed.push(r)
	}
	if slow {
		m.slow.push(r)
	}
}

// resize changes how many are remembered.
func (m *recent) resize(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all.resize(n)
	m.failed.resize(min(n, noteworthy))
	m.slow.resize(min(n, noteworthy))
}

// which names a part of what is remembered.
type which int

const (
	everything which = iota
	theFailed
	theSlow
)

// list returns what is remembered, the latest first.
func (m *recent) list(w which) []record {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch w {
	case theFailed:
		return m.failed.list()
	case theSlow:
		return m.slow.list()
	}
	return m.all.list()
}

// find returns the records whose trace's number begins with a prefix, the latest first.
func (m *recent) find(prefix string) []record {
	seen := map[[8]byte]bool{}
	var found []record
	for _, w := range []which{everything, theFailed, theSlow} {
		for _, r := range m.list(w) {
			if !seen[r.id] && hasPrefix(r.trace, prefix) {
				seen[r.id] = true
				found = append(found, r)
			}
		}
	}
	return found
}

func hasPrefix(trace [16]byte, prefix string) bool {
	digits := hexadecimal(trace[:])
	return len(prefix) <= len(digits) && digits[:len(prefix)] == prefix
}

// ring holds the last few of many, in memory that it has for good: what is remembered of one request takes the place of another's.
type ring struct {
	of   []record
	next int // where the next goes
	full bool
}

func (g *ring) push(r *record) {
	if len(g.of) == 0 {
		return
	}
	g.of[g.next] = *r
	if g.next++; g.next == len(g.of) {
		g.next, g.full = 0, true
	}
}

// list returns what is there, the latest first.
func (g *ring) list() []record {
	list := make([]record, 0, len(g.of))
	for i := g.next - 1; i >= 0; i-- {
		list = append(list, g.of[i])
	}
	for i := len(g.of) - 1; g.full && i >= g.next; i-- {
		list = append(list, g.of[i])
	}
	return list
}

func (g *ring) resize(n int) {
	if n == len(g.of) {
		return
	}
	kept := g.list()
	*g = ring{of: make([]record, n)}
	for i := min(n, len(kept)) - 1; i >= 0; i-- {
		g.push(&kept[i])
	}
}
