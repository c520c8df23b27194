package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Leak compares what the server held before the chaos with what it holds after.
type Leak struct {
	What    string `json:"what"`
	Before  int64  `json:"before"`
	After   int64  `json:"after"`
	Allowed int64  `json:"allowed"` // more than before
}

func (l Leak) broken() bool { return l.After > l.Before+l.Allowed }

// What may grow, and how much: Go keeps the threads that it once needed and the memory that it may need again. A leak of one thread, or one mapping, for each fault is more than that in any run but
// the shortest.
const (
	moreThreads = 16
	moreMaps    = 48
	moreRSS     = memoryFactor * 96 << 20
)

// compare is the list of what was looked at. The descriptors are equal only if each kind of them is.
func compare(before, after *holdings) []Leak {
	return []Leak{
		{"descriptors", int64(before.fds()), int64(after.fds()), 0},
		{"goroutines", int64(before.Goroutines), int64(after.Goroutines), 0},
		{"threads", int64(before.Threads), int64(after.Threads), moreThreads},
		{"mappings", int64(before.Maps), int64(after.Maps), moreMaps},
		{"mapped segments", int64(before.MemfdMaps), int64(after.MemfdMaps), 0},
		{"resident bytes", before.RSS, after.RSS, moreRSS},
		{"children", int64(before.Children), int64(after.Children), 0},
		{"zombies", 0, int64(after.Zombies), 0},
		{"arenas", 0, int64(after.Regions), 0}, // nobody is connected
		{"arenas in workers", 0, int64(after.Arenas), 0},
	}
}

// leaked says which of them grew too much.
func leaked(leaks []Leak, before, after *holdings) []string {
	var broken []string
	for _, l := range leaks {
		if !l.broken() {
			continue
		}
		s := fmt.Sprintf("leaked: the server holds %d %s, before it held %d", l.After, l.What, l.Before)
		if l.Allowed > 0 {
			s += fmt.Sprintf(" and may hold %d more", l.Allowed)
		}
		if l.What == "descriptors" {
			s += ": " + moreOf(before.FDs, after.FDs)
		}
		broken = append(broken, s)
	}
	return broken
}

// moreOf says of which kinds there are more.
func moreOf(before, after map[string]int) string {
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(after)) {
		if n := after[kind] - before[kind]; n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, kind))
		}
	}
	return strings.Join(kinds, ", ")
}
