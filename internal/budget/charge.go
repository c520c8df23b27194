package budget

import "sync/atomic"

// ended is what an ended Charge holds.
const ended = -1

// Charge is what one request holds, from the byte that announced it until its end. A nil Charge, and one without an account, has no bounds. All methods but Begin may be called by many.
type Charge struct {
	account *Account // immutable after Begin
	held    atomic.Int64
}

// Begin makes the charge hold n bytes that were taken from an account already. It comes first, once.
func (c *Charge) Begin(a *Account, n int64) {
	c.account = a
	c.held.Store(n)
}

// Sibling returns a charge to the same account that holds nothing and ends by itself; nil if c has no bounds.
func (c *Charge) Sibling() *Charge {
	if c == nil || c.account == nil {
		return nil
	}
	return &Charge{account: c.account}
}

// Add takes n more bytes for a reply. It reports false, and takes none, if that would be more than the client's share, or the charge has ended.
func (c *Charge) Add(n int64) bool {
	if c == nil || c.account == nil {
		return true
	}
	if !c.account.Take(n, Replies) {
		return false
	}
	for {
		held := c.held.Load()
		if held == ended {
			c.account.Give(n)
			return false
		}
		if c.held.CompareAndSwap(held, held+n) {
			return true
		}
	}
}

// Remove gives n of the bytes back that Add took. After the end it does nothing: the end gave them back.
func (c *Charge) Remove(n int64) {
	if c == nil || c.account == nil || n == 0 {
		return
	}
	for {
		held := c.held.Load()
		if held == ended {
			return
		}
		if c.held.CompareAndSwap(held, held-n) {
			c.account.Give(n)
			return
		}
	}
}

// End gives everything back, once.
func (c *Charge) End() {
	if c == nil || c.account == nil {
		return
	}
	if held := c.held.Swap(ended); held > 0 {
		c.account.Give(held)
	}
}
