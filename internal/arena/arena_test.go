package arena

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/shm"
)

func TestQuota(t *testing.T) {
	s := New(Limits{Client: 4 << 20, Total: 6 << 20, Regions: 3, Files: 4})
	a, b := s.Client(ID{0, 1}), s.Client(ID{0, 2})
	one, two, three := a.Set(), a.Set(), b.Set()
	refused := func(set *Set, bytes uint64, says string) {
		t.Helper()
		var quota *QuotaError
		if _, err := set.Make(bytes); !errors.As(err, &quota) || !strings.Contains(err.Error(), says) {
			t.Errorf("%d bytes: %v, want %q", bytes, err, says)
		}
	}
	made := func(set *Set, bytes uint64) *Region {
		t.Helper()
		r, err := set.Make(bytes)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if _, err := one.Make(0); !errors.Is(err, ErrNothing) {
		t.Errorf("0 bytes: %v", err)
	}
	refused(one, 4<<20+1, "has 0 of the 4194304 bytes it may have")
	refused(one, 1<<63, "no machine has so much")
	first := made(one, 3<<20)
	if first.Bytes != 4<<20 {
		t.Errorf("it has %d bytes", first.Bytes)
	}
	refused(two, 1, "has 4194304 of the 4194304") // another connection of the same process
	refused(three, 4<<20, "4194304 of the 6291456 bytes for all processes")
	one.Detach(first.ID)
	one.Detach(first.ID)
	one.Detach(99)
	var ids []uint64
	for range 3 {
		ids = append(ids, made(one, 1).ID)
	}
	refused(one, 1, "3 arenas, the most one may have")
	made(three, 1)
	refused(three, 1, "4 arenas are open")
	if ids[0] == first.ID {
		t.Error("a number is used again")
	}
	if used := s.Usage(); used.Regions != 4 || used.Limit != 6<<20 {
		t.Errorf("used: %+v", used)
	}
	for _, set := range []*Set{one, two, three} {
		set.Close()
	}
	if used := s.Usage(); used.Regions != 0 || used.Bytes != 0 {
		t.Errorf("used: %+v", used)
	}
	refused(New(Limits{}).Client(ID{}).Set(), 1, "this server has none")
}

// holder remembers what it was told.
type holder struct {
	mu   sync.Mutex
	told []uint64
}

func (h *holder) Detach(region uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, region)
}

func TestRegionLivesAsLongAsItIsUsed(t *testing.T) {
	s := New(Limits{Client: 1 << 20, Total: 1 << 20, Regions: 9, Files: 9})
	set := s.Client(ID{}).Set()
	r, err := set.Make(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, missing, ok := set.Claim([]uint64{r.ID, 7}); ok || missing != 7 {
		t.Errorf("claimed a region that is not there (%d)", missing)
	}
	if _, _, ok := (*Set)(nil).Claim([]uint64{1}); ok {
		t.Error("claimed of no set")
	}
	use, _, ok := set.Claim([]uint64{r.ID, r.ID})
	if !ok || len(use.Regions()) != 1 || use.Region(r.ID) != r || use.Region(r.ID+1) != nil {
		t.Fatal("it is not claimed")
	}
	h, forgetful := &holder{}, &holder{}
	r.Attach(h)
	r.Attach(forgetful)
	r.Forget(forgetful)
	use.Lend()
	set.Detach(r.ID)
	if _, _, ok := set.Claim([]uint64{r.ID}); ok {
		t.Error("claimed what is detached")
	}
	free := use.Leased()
	if free == nil {
		t.Fatal("it is not leased")
	}
	use.Settle()
	if s.Usage().Regions != 1 || len(h.told) != 0 {
		t.Error("it has ended too early")
	}
	use.Return()
	select {
	case <-free:
	default:
		t.Error("nobody was told that it is free")
	}
	if s.Usage().Regions != 0 || len(h.told) != 1 || h.told[0] != r.ID || len(forgetful.told) != 0 {
		t.Errorf("it has not ended: %+v, told %v and %v", s.Usage(), h.told, forgetful.told)
	}

	var none *Use
	none.Lend()
	none.Return()
	none.Settle()
	if none.Leased() != nil || none.Regions() != nil || none.Region(1) != nil {
		t.Error("nothing is something")
	}
}

// A client that hangs up and keeps its mapping keeps what it was charged for it, over all its connections; and no longer than that.
func TestMemoryThatAClientKeeps(t *testing.T) {
	s := New(Limits{Client: 1 << 20, Total: 1 << 20, Regions: 9, Files: 9})
	id := ID{1, 2}
	set := s.Client(id).Set()
	r, err := set.Make(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := shm.OpenArena(int(r.File.Fd()), r.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	set.Close()
	if used := s.Usage(); used.Regions != 1 || used.Bytes != 1<<20 {
		t.Errorf("used: %+v", used)
	}
	set = s.Client(id).Set()
	defer set.Close()
	var quota *QuotaError
	if _, err := set.Make(1); !errors.As(err, &quota) || !strings.Contains(err.Error(), "this process has 1048576 of the 1048576") {
		t.Errorf("more than it may have: %v", err)
	}
	if err := memory.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := set.Make(1 << 20); err != nil {
		t.Error(err)
	}
	if used := s.Usage(); used.Regions != 1 || used.Bytes != 1<<20 {
		t.Errorf("used: %+v", used)
	}
}

// Nobody has to ask for memory to come back that a client has kept for a while.
func TestLeftoversAreLookedAt(t *testing.T) {
	s := New(Limits{Client: 1 << 20, Total: 1 << 20, Regions: 9, Files: 9})
	set := s.Client(ID{}).Set()
	r, err := set.Make(1)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := shm.OpenArena(int(r.File.Fd()), r.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	set.Close()
	if err := memory.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		s.left.mu.Lock()
		over := s.left.timer == nil
		s.left.mu.Unlock()
		if over {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody looks")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used.Regions != 0 || s.used.Bytes != 0 || len(s.clients) != 0 {
		t.Errorf("used: %+v, clients %v", s.used, s.clients)
	}
}

// However uses, workers and connections come and go, everything is given back once.
func TestEverythingComesBack(t *testing.T) {
	s := New(Limits{Client: 1 << 30, Total: 1 << 30, Regions: 1000, Files: 1000})
	c := s.Client(ID{})
	var all sync.WaitGroup
	for range 8 {
		set := c.Set()
		all.Go(func() {
			for range 50 {
				r, err := set.Make(1)
				if err != nil {
					t.Error(err)
					return
				}
				h := &holder{}
				for range rand.IntN(4) {
					use, _, _ := set.Claim([]uint64{r.ID})
					use.Lend()
					r.Attach(h)
					all.Go(use.Return)
					all.Go(use.Settle)
				}
				if rand.IntN(2) == 0 {
					set.Detach(r.ID)
				}
			}
			set.Close()
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	if used := s.Usage(); used.Regions != 0 || used.Bytes != 0 {
		t.Errorf("left: %+v", used)
	}
}
