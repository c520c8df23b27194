// Package budget shares a fixed number of bytes between clients, so that all of them together stay below it and none of them takes what others need.
//
//	Budget ── User ── Account ── Charge
//	 bytes    a uid   a process   one request: its frame, and the replies that wait for its client
//
// Nothing is allocated here: whoever is about to allocate asks first, and gives back when what it allocated may go. Each byte that was taken is given back exactly once, because
// a [Charge] knows what it holds and ends once.
//
// # Fairness
//
// Shares are dynamic thresholds (Choudhury and Hahne, 1998): what one client may hold is proportional to what nobody holds. One client alone may take half of the budget. When a second one
// comes, what the first may hold shrinks, and as its requests end both come to a third; n that want all they can get come to 1/(n+1) each, and as much is left for the next one. Nobody has to know how
// many clients there are. Requests stop at a lower threshold than replies, for refusing a request costs nobody anything, while a reply that finds no room was computed in vain.
package budget

import "sync/atomic"

// Budget is a number of bytes that may be held at a time. Its counters are added to first and looked at afterwards, so that no two who come at once can both take the last bytes.
type Budget struct {
	size int64 // immutable
	used atomic.Int64
}

// New makes a budget of size bytes.
func New(size int64) *Budget { return &Budget{size: size} }

// Size returns how many bytes there are.
func (b *Budget) Size() int64 { return b.size }

// Used returns how many bytes are held.
func (b *Budget) Used() int64 { return b.used.Load() }

// User is what all processes of one user hold together.
type User struct {
	budget *Budget
	held   atomic.Int64
}

// User makes a user that holds nothing.
func (b *Budget) User() *User { return &User{budget: b} }

// Account is what one process holds: bytes, and requests that have not ended.
type Account struct {
	user *User
	most int64 // immutable: requests
	held atomic.Int64
	open atomic.Int64
}

// Account makes an account that holds nothing, of a process that may have most requests open.
func (u *User) Account(most int) *Account { return &Account{user: u, most: int64(most)} }

// Held returns how many bytes are held.
func (a *Account) Held() int64 { return a.held.Load() }

// Share is a threshold: how many times the bytes that nobody holds a process, and a user, may hold at most.
type Share struct{ process, user int64 }

// The shares there are. A process alone may hold 1/2 of the budget in requests and 3/4 with replies; all processes of one user 4/5 and 7/8: more than one of them alone can with replies, or that one would keep the user's others from
// asking at all.
var (
	Requests = Share{1, 4}
	Replies  = Share{3, 7}
)

// fits is the policy: whether used of size bytes may be held, held by one process of a user who holds user of them.
func (s Share) fits(size, used, user, held int64) bool {
	free := size - used
	return free >= 0 && held <= s.process*free && user <= s.user*free
}

// Take takes n bytes, or none if that would be more than a share. A nil account has no bounds.
func (a *Account) Take(n int64, s Share) bool {
	if a == nil {
		return true
	}
	u := a.user
	used, user, held := u.budget.used.Add(n), u.held.Add(n), a.held.Add(n)
	if s.fits(u.budget.size, used, user, held) {
		return true
	}
	a.Give(n)
	return false
}

// Give gives n bytes back.
func (a *Account) Give(n int64) {
	if a == nil {
		return
	}
	a.held.Add(-n)
	a.user.held.Add(-n)
	a.user.budget.used.Add(-n)
}

// Enter counts a request, or reports that the process has as many as it may.
func (a *Account) Enter() bool {
	if a == nil || a.open.Add(1) <= a.most {
		return true
	}
	a.open.Add(-1)
	return false
}

// Leave ends what Enter counted.
func (a *Account) Leave() {
	if a != nil {
		a.open.Add(-1)
	}
}

// Most returns how many requests may be open; 0 stands for no bound.
func (a *Account) Most() int64 {
	if a == nil {
		return 0
	}
	return a.most
}
