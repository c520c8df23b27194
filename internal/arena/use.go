package arena

import "sync"

// Use is one request's use of the regions that it names. A nil Use names none.
//
//	claimed ──Lend──▶ with a worker ──Return──▶ claimed ──Settle──▶ over
//	                        └──Settle──▶ leased ──Return──▶ over
//
// A request that is tried again is lent again; one that its requester has the answer to while a worker still has it is leased.
type Use struct {
	regions []*Region // immutable; each is held

	mu      sync.Mutex
	lent    int           // guarded by mu: workers that have the request
	settled bool          // guarded by mu: its requester has the answer
	idle    chan struct{} // guarded by mu; made by Leased; closed when no worker has the request
}

// Claim begins a use of the regions with these numbers, each of which may come more than once. false: missing is none of the set's. A nil set has none.
func (s *Set) Claim(ids []uint64) (u *Use, missing uint64, ok bool) {
	if s == nil {
		return nil, ids[0], false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u = &Use{}
	for _, id := range ids {
		r := s.regions[id]
		if r == nil {
			return nil, id, false
		}
		if u.Region(id) == nil {
			u.regions = append(u.regions, r)
		}
	}
	for _, r := range u.regions {
		r.hold()
	}
	return u, 0, true
}

// Regions returns what is used.
func (u *Use) Regions() []*Region {
	if u == nil {
		return nil
	}
	return u.regions
}

// Region returns the region of that number, or nil if it is not used.
func (u *Use) Region(id uint64) *Region {
	for _, r := range u.Regions() {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// Lend says that a worker is about to get the request.
func (u *Use) Lend() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lent++
}

// Return says that a worker is through with the request, or dead, or did not get it after all.
func (u *Use) Return() {
	if u == nil {
		return
	}
	u.mu.Lock()
	u.lent--
	over := u.lent == 0 && u.settled
	if u.lent == 0 && u.idle != nil {
		close(u.idle)
		u.idle = nil
	}
	u.mu.Unlock()
	if over {
		u.release()
	}
}

// Leased returns nil if no worker has the request, and else what is closed when none has. It is called once, when the requester is about to get the last answer.
func (u *Use) Leased() <-chan struct{} {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.lent == 0 {
		return nil
	}
	u.idle = make(chan struct{})
	return u.idle
}

// Settle says that the requester has its answer. It is called once.
func (u *Use) Settle() {
	if u == nil {
		return
	}
	u.mu.Lock()
	u.settled = true
	over := u.lent == 0
	u.mu.Unlock()
	if over {
		u.release()
	}
}

func (u *Use) release() {
	for _, r := range u.regions {
		r.release(false)
	}
}
