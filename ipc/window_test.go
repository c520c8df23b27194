package ipc

import (
	"math/rand/v2"
	"testing"
)

// taken lets a peer use all its credit while its replies are taken, and returns the most that were under way or waited at a time, and that at the end.
func taken(w *window, sizes ...int) (most, last uint32) {
	out := w.size
	most = out
	for _, bytes := range sizes {
		out += w.take(bytes) // the peer sends at once what it may; one was taken
		out--
		most = max(most, out)
	}
	return most, out
}

func same(n, bytes int) []int {
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = bytes
	}
	return sizes
}

func TestWindowFollowsTheSizeOfReplies(t *testing.T) {
	for _, c := range []struct {
		name       string
		most       uint32
		sizes      []int
		peak, last uint32 // at the most; at the least
	}{
		{"small replies get all that was asked for", 64, same(200, 100), 64, 33},
		{"64 KiB, too", 64, same(200, 64<<10), 64, 33},
		{"1 MiB get four", 64, same(200, 1<<20), 4, 3},
		{"6 MiB get two once they are known", 64, same(200, 6<<20), 4, 1},
		{"one is one", 1, same(200, 6<<20), 1, 1},
		{"two are two", 2, same(200, 6<<20), 2, 1},
		{"large ones after small ones shrink it", 64, append(same(200, 10), same(200, 6<<20)...), 64, 1},
		{"and it grows again", 64, append(same(200, 6<<20), same(200, 10)...), 64, 33},
	} {
		w := newWindow(c.most, true)
		peak, last := taken(&w, c.sizes...)
		if peak > c.peak || last < c.last || last > w.size {
			t.Errorf("%s: %d at most and %d at the end, want %d and %d", c.name, peak, last, c.peak, c.last)
		}
	}
	if w := newWindow(1000, false); w.size != 1000 {
		t.Errorf("a window that is not adaptive begins with %d", w.size)
	}
}

// Whatever the sizes, a peer is never left without credit for ever, and never has more than was asked for.
func TestWindowNeverStarves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		most := 1 + r.Uint32N(100)
		w := newWindow(most, r.IntN(2) == 0)
		out := w.size
		for range 300 {
			if out == 0 {
				t.Fatalf("no credit is left: %+v", w)
			}
			out--
			out += w.take(1 << r.IntN(28))
			if out > most || out+w.taken != w.size {
				t.Fatalf("%d are under way: %+v", out, w)
			}
		}
	}
}
