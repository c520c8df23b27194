package session

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

func TestWhoHasMostGivesFirst(t *testing.T) {
	m := newMemory(Limits{TTL: time.Hour, Sessions: 6, Bytes: 1 << 20})
	begin := func(key string, size int) {
		must(t, m.Commit(t.Context(), key, Stamp{}, Stamp{1, 1}, make([]byte, size)))
	}
	there := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			if m.index.entries[key] == nil {
				t.Errorf("%s has gone", key)
			}
		}
		if len(m.index.entries) != len(keys) {
			t.Errorf("%d sessions, want %d", len(m.index.entries), len(keys))
		}
	}
	begin("1/a", 10)
	begin("1/b", 10)
	for i := range 4 {
		begin(fmt.Sprint("2/", i), 10)
	}
	there("1/a", "1/b", "2/0", "2/1", "2/2", "2/3")
	must(t, m.Commit(t.Context(), "2/0", Stamp{1, 1}, Stamp{1, 2}, nil)) // used again
	begin("2/4", 10)
	there("1/a", "1/b", "2/0", "2/2", "2/3", "2/4")
	begin("1/c", 10)
	there("1/a", "1/b", "1/c", "2/0", "2/3", "2/4")
	begin("1/d", 10) // four of 1's, and the newest one stays
	there("1/b", "1/c", "1/d", "2/0", "2/3", "2/4")
	if c := m.Count(); c.Evicted != 3 || c.Sessions != 6 || c.Expired != 0 || !c.Known {
		t.Errorf("%+v", c)
	}
	m.Limit(Limits{TTL: time.Hour, Sessions: 2, Bytes: 1 << 20})
	there("1/d", "2/4")
}

func TestBytesAreBounded(t *testing.T) {
	m := newMemory(Limits{TTL: time.Hour, Sessions: 1000, Bytes: 10_000})
	must(t, m.Commit(t.Context(), "1/small", Stamp{}, Stamp{1, 1}, nil))
	for i := range 100 {
		must(t, m.Commit(t.Context(), fmt.Sprint("2/", i), Stamp{}, Stamp{1, 1}, make([]byte, 1000)))
		if c := m.Count(); c.Bytes > 10_000 {
			t.Fatalf("%+v", c)
		}
	}
	if stamp, _, _ := m.Load(t.Context(), "1/small"); stamp == (Stamp{}) {
		t.Error("one who has little had to go")
	}
	if stamp, _, _ := m.Load(t.Context(), "2/99"); stamp == (Stamp{}) {
		t.Error("the newest had to go")
	}
}

// Whatever happens to it, the index counts what it has, and keeps its limits.
func TestIndexAgainstAModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	x := newIndex(Limits{TTL: 100 * time.Second, Sessions: 20, Bytes: 20 * 400})
	now := time.Now()
	for range 20_000 {
		now = now.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
		key := fmt.Sprintf("%d/%d", r.IntN(4), r.IntN(12))
		switch e := x.entries[key]; {
		case r.IntN(10) == 0 && e != nil:
			x.drop(e)
		case r.IntN(500) == 0:
			x.limits.Sessions = 5 + r.IntN(20)
			x.shrink(now, "")
		default:
			x.put(&entry{key: key, size: int64(r.IntN(500)), used: now})
			x.shrink(now, key)
			if x.entries[key] == nil {
				t.Fatal("what was just stored has gone")
			}
		}
		total, listed := int64(0), 0
		for _, h := range x.owners {
			mine := int64(0)
			for p := h.sessions.Front(); p != nil; p = p.Next() {
				e := p.Value.(*entry)
				if x.entries[e.key] != e || p.Next() != nil && p.Next().Value.(*entry).used.After(e.used) {
					t.Fatal("the lists are wrong")
				}
				mine += e.size
				listed++
			}
			if mine != h.bytes || h.sessions.Len() == 0 {
				t.Fatalf("%s: %d bytes, counted %d", h.owner, mine, h.bytes)
			}
			total += mine
		}
		if total != x.bytes || listed != len(x.entries) || total > x.limits.Bytes || listed > x.limits.Sessions {
			t.Fatalf("%d sessions in lists, %d known, %d bytes, counted %d", listed, len(x.entries), total, x.bytes)
		}
	}
}

func TestBoltRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sessions.db")
	b, err := openBolt(path, generous)
	must(t, err)
	for i := range 20 {
		must(t, b.Commit(t.Context(), numbered(i), Stamp{}, Stamp{uint64(i + 1), 1}, []byte(numbered(i))))
	}
	before := b.Count()
	if _, err := openBolt(path, generous); err == nil {
		t.Fatal("a second one opened the file")
	}
	must(t, b.Close())
	b, err = openBolt(path, generous)
	must(t, err)
	if c := b.Count(); c.Sessions != 20 || c.Bytes != before.Bytes {
		t.Errorf("%+v, was %+v", c, before)
	}
	must(t, b.Close())
	few := generous
	few.Sessions = 5
	b, err = openBolt(path, few) // less room than before
	must(t, err)
	has(t, b, numbered(19), Stamp{20, 1}, numbered(19))
	if c := b.Count(); c.Sessions != 5 || c.Evicted != 15 {
		t.Errorf("%+v", c)
	}
	left := 0
	for i := range 20 {
		if stamp, _, err := b.Load(t.Context(), numbered(i)); err == nil && stamp != (Stamp{}) {
			left++
		}
	}
	if left != 5 {
		t.Errorf("%d are in the file", left)
	}
	must(t, b.Close())
	if _, err := openBolt(filepath.Join(t.TempDir(), "no", "such", "file"), generous); err == nil {
		t.Error("no error")
	}
}
