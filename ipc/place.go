package ipc

import "github.com/ringmasterd/ringmaster/internal/budget"

// Place is what a request holds of its client's account that came by another way than [Serve], such as HTTP: it is one of the open requests, and has room in the client's share of the memory. What is too
// much is refused as Serve refuses it.
type Place struct {
	account *budget.Account
	charge  budget.Charge
}

// Enter takes a place with room for size bytes. It is to be left.
func Enter(account *budget.Account, size int64) (*Place, *Error) {
	p := &Place{account: account}
	if account == nil {
		return p, nil
	}
	size += requestOverhead
	if !account.Take(size, budget.Requests) {
		return nil, memoryFull(size)
	}
	if e := enter(account); e != nil {
		account.Give(size)
		return nil, e
	}
	p.charge.Begin(account, size)
	return p, nil
}

// Add takes room for n bytes more.
func (p *Place) Add(n int64) *Error {
	if p.charge.Add(n) {
		return nil
	}
	return memoryFull(n)
}

// Give gives n of the bytes back that Add took.
func (p *Place) Give(n int64) { p.charge.Remove(n) }

// Hold makes the place pay for the replies to req that wait to be taken, too.
func (p *Place) Hold(req *Request) {
	if p.account != nil {
		req.charge = &p.charge
	}
}

// Leave gives back what the place holds. Preconditions: nobody calls the other methods any more; replies may still come.
func (p *Place) Leave() {
	p.account.Leave()
	p.charge.End()
}
