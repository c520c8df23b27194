package budget

import (
	"math/rand/v2"
	"sync"
	"testing"
)

func TestFits(t *testing.T) {
	for _, c := range []struct {
		name                   string
		share                  Share
		size, used, user, held int64
		want                   bool
	}{
		{"nothing", Requests, 100, 0, 0, 0, true},
		{"half", Requests, 100, 50, 50, 50, true},
		{"more than half", Requests, 100, 51, 51, 51, false},
		{"replies may take three quarters", Replies, 100, 75, 75, 75, true},
		{"and no more", Replies, 100, 76, 76, 76, false},
		{"a user's processes together", Requests, 100, 80, 80, 20, true},
		{"and no more", Requests, 100, 81, 81, 19, false},
		{"a user's other process, where one holds what it may with replies", Requests, 100, 79, 79, 4, true},
		{"the last byte", Replies, 100, 100, 0, 0, true},
		{"one too many", Replies, 100, 101, 1, 1, false},
		{"a newcomer beside a greedy one", Requests, 100, 75, 75, 25, true},
	} {
		if got := c.share.fits(c.size, c.used, c.user, c.held); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// Clients that want all they can get, and came one after the other, come to equal shares as their requests end, and leave as much for one more.
func TestTheGreedyComeToEqualShares(t *testing.T) {
	const size, piece = 1 << 20, 1 << 10
	for n := 1; n <= 16; n *= 2 {
		b := New(size)
		accounts := make([]*Account, n)
		for i := range accounts {
			accounts[i] = b.User().Account(1) // each a user of its own, or their users' bound would come first
			for accounts[i].Take(piece, Requests) {
				continue
			}
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 40 * size / piece { // some request ends, and all try to have another
			if a := accounts[r.IntN(n)]; a.Held() > 0 {
				a.Give(piece)
			}
			for _, i := range r.Perm(n) {
				accounts[i].Take(piece, Requests)
			}
		}
		fair := int64(size / (n + 1))
		for i, a := range accounts {
			if a.Held() < fair/2 || a.Held() > 2*fair {
				t.Errorf("of %d greedy clients, the %dth holds %d bytes, want %d", n, i+1, a.Held(), fair)
			}
		}
		if free := size - b.Used(); free < fair/2 {
			t.Errorf("%d greedy clients leave %d bytes, want %d", n, free, fair)
		}
	}
}

// A user whose processes are greedy leaves room for other users.
func TestTheGreedyUserLeavesRoom(t *testing.T) {
	b := New(1 << 20)
	u := b.User()
	for range 100 {
		for a := u.Account(1); a.Take(1<<8, Requests); {
			continue
		}
	}
	if u.held.Load() > b.Size()*4/5 {
		t.Errorf("one user holds %d of %d", u.held.Load(), b.Size())
	}
	if !b.User().Account(1).Take(b.Size()/10, Requests) {
		t.Error("another user gets nothing")
	}
}

func TestRequestsAreCounted(t *testing.T) {
	a := New(1).User().Account(2)
	for i := range 4 {
		if got := a.Enter(); got != (i < 2) {
			t.Errorf("the %dth request is let in: %v", i+1, got)
		}
	}
	a.Leave()
	if !a.Enter() {
		t.Error("a place that was left is not free")
	}
}

func TestNilHasNoBounds(t *testing.T) {
	var a *Account
	var c *Charge
	if !a.Take(1<<60, Requests) || !a.Enter() || !c.Add(1<<60) || !new(Charge).Add(1<<60) {
		t.Error("refused")
	}
	a.Give(1)
	a.Leave()
	c.Remove(1)
	c.End()
}

// Whatever races with a charge's end, every byte is given back exactly once, and the budget is never exceeded.
func TestEveryByteIsGivenBackOnce(t *testing.T) {
	b := New(1000)
	accounts := []*Account{b.User().Account(1), b.User().Account(1)}
	accounts = append(accounts, accounts[0].user.Account(1))
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for range 500 {
				a, n := accounts[r.IntN(len(accounts))], r.Int64N(300)
				if !a.Take(n, Requests) {
					continue
				}
				var c Charge
				c.Begin(a, n)
				var reply sync.WaitGroup
				reply.Go(func() {
					for range 3 {
						if n := r.Int64N(100); c.Add(n) {
							c.Remove(n / 2)
						}
					}
				})
				c.End()
				reply.Wait()
				c.End()
			}
		})
	}
	all.Wait()
	if b.Used() != 0 {
		t.Errorf("%d bytes are held by nobody", b.Used())
	}
	for _, a := range accounts {
		if a.Held() != 0 || a.user.held.Load() != 0 {
			t.Errorf("an account holds %d, its user %d", a.Held(), a.user.held.Load())
		}
	}
}

// What one small request costs: taken, a reply added and removed, ended; alone, and when every processor does the same.
func BenchmarkRequest(b *testing.B) {
	budget := New(1 << 30)
	user := budget.User()
	once := func(a *Account) {
		if !a.Take(100, Requests) || !a.Enter() {
			b.Error("refused")
		}
		var c Charge
		c.Begin(a, 100)
		c.Add(100)
		a.Leave()
		c.End()
	}
	b.Run("alone", func(b *testing.B) {
		a := user.Account(1 << 20)
		b.ReportAllocs()
		for b.Loop() {
			once(a)
		}
	})
	b.Run("together", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for a := user.Account(1 << 20); pb.Next(); {
				once(a)
			}
		})
	})
}
