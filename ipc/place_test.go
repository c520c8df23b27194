package ipc

import (
	"testing"

	"github.com/ringmasterd/ringmaster/internal/budget"
)

// A place is counted, charged and given back whole; what is refused leaves nothing behind.
func TestPlace(t *testing.T) {
	b := budget.New(1 << 20)
	account := b.User().Account(1)
	p, err := Enter(account, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if held := account.Held(); held != 1000+requestOverhead {
		t.Errorf("holds %d bytes", held)
	}
	if _, err := Enter(account, 10); err == nil || err.Reason != "too_many_requests" || err.RetryAfter == 0 {
		t.Errorf("a second one of one: %v", err)
	}
	if err := p.Add(500); err != nil {
		t.Error(err)
	}
	if err := p.Add(1 << 20); err == nil || err.Reason != "memory_full" {
		t.Errorf("more than there is: %v", err)
	}
	var req Request
	if p.Hold(&req); req.charge == nil {
		t.Error("replies are not charged")
	}
	p.Leave()
	if _, err := Enter(account, 1<<20); err == nil || err.Reason != "memory_full" {
		t.Errorf("a request as large as the budget: %v", err)
	}
	if b.Used() != 0 {
		t.Errorf("%d bytes are held by nobody", b.Used())
	}
	if p, err := Enter(account, 1); err != nil {
		t.Error(err)
	} else {
		p.Leave()
	}
}

func TestPlaceOfNobodyHasNoBounds(t *testing.T) {
	p, err := Enter(nil, 1<<60)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Add(1 << 60); err != nil {
		t.Error(err)
	}
	p.Hold(&Request{})
	p.Leave()
}
