package ipc

import (
	"testing"

	"github.com/ringmasterd/ringmaster/internal/budget"
)

// A fork's replies are charged to the client of the request that it is of, and may be when that has ended.
func TestForkIsCharged(t *testing.T) {
	b := budget.New(1 << 20)
	account := b.User().Account(10)
	place, err := Enter(account, 100)
	if err != nil {
		t.Fatal(err)
	}
	req := &Request{ID: 7, Pool: "p", Body: Body("\x01"), Held: true, Batch: 3}
	place.Hold(req)
	before := b.Used()
	fork, end := req.Fork()
	if fork.Pool != "p" || fork.ID != 0 || fork.Held || fork.Batch != 0 || string(fork.Body) != "\x01" {
		t.Errorf("%+v", fork)
	}
	if !fork.charge.Add(1000) || b.Used() != before+1000 {
		t.Errorf("%d bytes are held, %d before", b.Used(), before)
	}
	if err := req.Hand(500, 0); err != nil {
		t.Fatal(err)
	}
	if err := req.Hand(700, 500); err != nil || b.Used() != before+1700 {
		t.Errorf("%d bytes are held, %v", b.Used(), err)
	}
	place.Leave()
	if b.Used() != 1000 {
		t.Errorf("%d bytes are held by the fork alone", b.Used())
	}
	end()
	if b.Used() != 0 {
		t.Errorf("%d bytes are held by nobody", b.Used())
	}
	if err := req.Hand(2<<20, 0); err == nil || err.Reason != "memory_full" || err.RetryAfter == 0 {
		t.Error(err)
	}
	free, end := (&Request{}).Fork() // nobody is charged
	if free.charge != nil || free.Hand(1<<40, 0) != nil {
		t.Error("a request that nobody is charged for has bounds")
	}
	end()
}
