package session

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var generous = Limits{TTL: time.Hour, Sessions: 1000, Bytes: 1 << 30}

// stores are all there are. Each opens one that is empty, and closes it at the test's end.
var stores = map[string]func(t testing.TB, limits Limits) Store{
	Memory: func(_ testing.TB, limits Limits) Store { return newMemory(limits) },
	Bbolt: func(t testing.TB, limits Limits) Store {
		b, err := openBolt(filepath.Join(t.TempDir(), "sessions.db"), limits)
		must(t, err)
		t.Cleanup(func() { must(t, b.Close()) })
		return b
	},
	Redis: func(t testing.TB, limits Limits) Store {
		r, err := openRedis(startRedis(t).url, limits)
		must(t, err)
		t.Cleanup(func() { must(t, r.Close()) })
		return r
	},
}

// TestStores holds every store to what [Store] promises.
func TestStores(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			s := open(t, generous) // one for all: each test has keys of its own
			for what, test := range map[string]func(*testing.T, Store){
				"one after the other":        storeInTurn,
				"compare and set":            storeCompares,
				"done once more":             storeRepeats,
				"side by side":               storeCounts,
				"removed":                    storeRemoves,
				"listed":                     storeLists,
				"any bytes":                  storeAnyBytes,
				"many at once":               storeMany,
				"a context that has ended":   storeCancelled,
				"expired, and begun again":   storeExpires, // the last ones change the limits
				"a shorter time, and longer": storeTimeChanges,
			} {
				if !strings.Contains(what, "time") && !strings.Contains(what, "expired") {
					t.Run(what, func(t *testing.T) { test(t, s) })
				}
			}
			t.Run("expired, and begun again", func(t *testing.T) { storeExpires(t, s) })
			t.Run("a shorter time, and longer", func(t *testing.T) { storeTimeChanges(t, s) })
		})
	}
}

// has checks what a key's record is.
func has(t testing.TB, s Store, key string, stamp Stamp, data string) {
	t.Helper()
	got, b, err := s.Load(testContext(t), key)
	if err != nil || got != stamp || string(b) != data {
		t.Fatalf("%s: %v %q, %v; want %v %q", key, got, b, err, stamp, data)
	}
}

func storeInTurn(t *testing.T, s Store) {
	const key = "1000/in turn"
	has(t, s, key, Stamp{}, "")
	was := Stamp{}
	for _, data := range []string{"one", "", "three", strings.Repeat("long ", 1000)} {
		is := was.next(77)
		must(t, s.Commit(testContext(t), key, was, is, []byte(data)))
		has(t, s, key, is, data)
		was = is
	}
	if was != (Stamp{77, 4}) {
		t.Error(was)
	}
	has(t, s, "1000/in", Stamp{}, "")
	has(t, s, "1000/in turn2", Stamp{}, "")
}

func storeCompares(t *testing.T, s Store) {
	const key = "1000/compare"
	first, second := Stamp{5, 1}, Stamp{5, 2}
	refused := func(was, is Stamp) {
		t.Helper()
		if err := s.Commit(testContext(t), key, was, is, []byte("wrong")); !errors.Is(err, errConflict) {
			t.Errorf("from %v: %v", was, err)
		}
	}
	refused(first, second) // there is none yet
	must(t, s.Commit(testContext(t), key, Stamp{}, first, []byte("a")))
	refused(Stamp{}, Stamp{6, 1})
	refused(Stamp{6, 1}, Stamp{6, 2}) // another birth
	refused(second, Stamp{5, 3})
	has(t, s, key, first, "a")
	must(t, s.Commit(testContext(t), key, first, second, []byte("b")))
	refused(first, second)
	has(t, s, key, second, "b")
}

// A commit that was done before succeeds once more and changes nothing, unless something came after it; another one from the same stamp is refused, however alike it is.
func storeRepeats(t *testing.T, s Store) {
	const key = "1000/repeat"
	first, second := Stamp{5, 1}, Stamp{5, 2}
	for range 3 {
		must(t, s.Commit(testContext(t), key, Stamp{}, first, []byte("a")))
		has(t, s, key, first, "a")
	}
	for _, other := range []string{"", "b", "aa"} {
		if err := s.Commit(testContext(t), key, Stamp{}, first, []byte(other)); !errors.Is(err, errConflict) {
			t.Errorf("another first one, %q: %v", other, err)
		}
	}
	if err := s.Commit(testContext(t), key, Stamp{}, Stamp{6, 1}, []byte("a")); !errors.Is(err, errConflict) {
		t.Errorf("another birth: %v", err)
	}
	for range 2 {
		must(t, s.Commit(testContext(t), key, first, second, []byte("b")))
		has(t, s, key, second, "b")
	}
	if err := s.Commit(testContext(t), key, Stamp{}, first, []byte("a")); !errors.Is(err, errConflict) {
		t.Errorf("one that others have built upon: %v", err)
	}
	n := 0
	must(t, s.List(testContext(t), key, func(i Info) bool {
		n++
		if i.Version != 2 {
			t.Errorf("%+v", i)
		}
		return true
	}))
	if n != 1 {
		t.Errorf("%d are listed", n)
	}
	if there, err := s.Remove(testContext(t), key); err != nil || !there {
		t.Errorf("%v, %v", there, err)
	}
	if err := s.Commit(testContext(t), key, first, second, []byte("b")); !errors.Is(err, errConflict) {
		t.Errorf("one that was removed: %v", err)
	}
}

// Of all who change a session side by side each change is made once. Each writes his number after the count, so that no two commits are alike.
func storeCounts(t *testing.T, s Store) {
	const key, writers, each = "1000/count", 8, 25
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				was, data, err := s.Load(testContext(t), key)
				if err != nil {
					t.Error(err)
					return
				}
				n := uint64(0)
				if len(data) == 9 {
					n = binary.BigEndian.Uint64(data)
				}
				switch err := s.Commit(testContext(t), key, was, was.next(1), append(binary.BigEndian.AppendUint64(nil, n+1), byte(writer))); {
				case err == nil:
					done++
				case !errors.Is(err, errConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	stamp, data, err := s.Load(testContext(t), key)
	if err != nil || stamp != (Stamp{1, writers * each}) || binary.BigEndian.Uint64(data) != writers*each {
		t.Errorf("%v %v, %v", stamp, data, err)
	}
}

func storeRemoves(t *testing.T, s Store) {
	const key = "1000/remove"
	remove := func(want bool) {
		t.Helper()
		if was, err := s.Remove(testContext(t), key); err != nil || was != want {
			t.Errorf("%v, %v, want %v", was, err, want)
		}
	}
	remove(false)
	must(t, s.Commit(testContext(t), key, Stamp{}, Stamp{1, 1}, []byte("a")))
	remove(true)
	remove(false)
	has(t, s, key, Stamp{}, "")
	if err := s.Commit(testContext(t), key, Stamp{1, 1}, Stamp{1, 2}, nil); !errors.Is(err, errConflict) {
		t.Errorf("who has read what was removed: %v", err)
	}
	must(t, s.Commit(testContext(t), key, Stamp{}, Stamp{2, 1}, []byte("b")))
	if err := s.Commit(testContext(t), key, Stamp{1, 1}, Stamp{1, 2}, nil); !errors.Is(err, errConflict) {
		t.Errorf("who has read the one before: %v", err)
	}
	has(t, s, key, Stamp{2, 1}, "b")
}

func storeLists(t *testing.T, s Store) {
	var want []string
	for _, id := range []string{"a", "b*", "[c]", `d\`, "e?", "a/b", "a b"} {
		want = append(want, "7/"+id)
		must(t, s.Commit(testContext(t), "7/"+id, Stamp{}, Stamp{1, 1}, []byte("12345")))
		must(t, s.Commit(testContext(t), "77/"+id, Stamp{}, Stamp{1, 1}, nil))
	}
	must(t, s.Commit(testContext(t), "7/a", Stamp{1, 1}, Stamp{1, 2}, nil))
	var got []string
	must(t, s.List(testContext(t), "7/", func(i Info) bool {
		got = append(got, i.Key)
		if version := map[bool]uint64{true: 2, false: 1}[i.Key == "7/a"]; i.Version != version || i.Bytes < 0 || i.Idle < 0 || i.Idle > time.Minute {
			t.Errorf("%+v", i)
		}
		return true
	}))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	must(t, s.List(testContext(t), "*/", func(i Info) bool { t.Errorf("%+v", i); return true }))
	n := 0
	must(t, s.List(testContext(t), "7/", func(Info) bool { n++; return n < 3 }))
	if n != 3 {
		t.Errorf("visited %d after it was told to stop", n)
	}
}

func storeAnyBytes(t *testing.T, s Store) {
	for _, size := range []int{0, 1, 15, 16, 17, 1 << 20} {
		key, data := "1000/bytes", make([]byte, size)
		_, _ = rand.Read(data)
		was, _, err := s.Load(testContext(t), key)
		must(t, err)
		must(t, s.Commit(testContext(t), key, was, was.next(9), bytes.Clone(data)))
		has(t, s, key, was.next(9), string(data))
	}
}

func storeMany(t *testing.T, s Store) {
	const n = 50
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			was := Stamp{}
			for range 4 {
				if err := s.Commit(testContext(t), numbered(i), was, was.next(uint64(i+1)), []byte(numbered(i))); err != nil {
					t.Error(err)
				}
				was = was.next(uint64(i + 1))
			}
		})
	}
	wg.Wait()
	for i := range n {
		has(t, s, numbered(i), Stamp{uint64(i + 1), 4}, numbered(i))
	}
}

// A caller that has gone may get an error, but never half a commit.
func storeCancelled(t *testing.T, s Store) {
	const key = "1000/cancelled"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.Commit(ctx, key, Stamp{}, Stamp{1, 1}, []byte("a"))
	stamp, data, err := s.Load(testContext(t), key)
	must(t, err)
	if stamp != (Stamp{}) && (stamp != Stamp{1, 1} || string(data) != "a") {
		t.Errorf("%v %q", stamp, data)
	}
}

func storeExpires(t *testing.T, s Store) {
	const key = "1000/expires"
	short := generous
	short.TTL = 20 * time.Millisecond
	s.Limit(short)
	defer s.Limit(generous)
	must(t, s.Commit(testContext(t), key, Stamp{}, Stamp{1, 1}, []byte("a")))
	eventually(t, "its end", func() bool {
		stamp, _, err := s.Load(testContext(t), key)
		return err == nil && stamp == Stamp{}
	})
	must(t, s.List(testContext(t), key, func(i Info) bool { t.Errorf("listed: %+v", i); return true }))
	must(t, s.Commit(testContext(t), key, Stamp{}, Stamp{2, 1}, []byte("b")))
}

// What is stored after a change of the limits has the new time.
func storeTimeChanges(t *testing.T, s Store) {
	const key = "1000/times"
	long := generous
	long.TTL = 2 * time.Hour
	s.Limit(long)
	defer s.Limit(generous)
	must(t, s.Commit(testContext(t), key, Stamp{}, Stamp{1, 1}, nil))
	has(t, s, key, Stamp{1, 1}, "")
}
