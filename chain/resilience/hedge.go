package resilience

import (
	"context"
	"time"

	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/internal/moment"
	"github.com/ringmasterd/ringmaster/ipc"
)

// hedgeable reports whether a second attempt may be made beside the first: the action has one answer, may run twice, and the pool is well.
func (a *answer) hedgeable() bool {
	if a.pool.cfg.Hedge.Max == 0 || !a.pool.breaker.closed() || a.req.NamesArenas() {
		return false
	}
	action, known := a.link.actions(a.req.Pool, a.req.Action)
	return known && action.Idempotent && !action.Stream
}

// hedgeAfter is how long an attempt may take before another is made; false: nobody knows.
func (a *answer) hedgeAfter() (time.Duration, bool) {
	if a.pool.cfg.Hedge.After > 0 {
		return a.pool.cfg.Hedge.After, true
	}
	return a.pool.paces.quantile(a.req.Action, a.pool.cfg.Hedge.Quantile)
}

// result is how an attempt in a race went.
type result struct {
	try   *attempt
	reply *ipc.Reply
	fail  *failure
}

// race waits for the first reply of the attempt under way, and of others that are made while it does not come. Whose comes first goes on, the others are cancelled. Where one fails and another runs, that one
// is waited for.
func (a *answer) race(ctx context.Context) (*ipc.Reply, *failure) {
	after, ok := a.hedgeAfter()
	if !ok {
		return a.now.recv(a.within(ctx))
	}
	// Those that lose have room to say so, though nobody listens.
	results := make(chan result, 1+a.pool.cfg.Hedge.Max)
	running, hedges := []*attempt{a.now}, 0
	primary := a.now
	a.link.races.Go(func() {
		reply, fail := primary.recv(primary.ctx)
		results <- result{primary, reply, fail}
	})
	timer := time.NewTimer(max(0, after-moment.Now().Sub(primary.begin)))
	defer timer.Stop()
	open := 1
	stop := func(but *attempt) {
		if but != nil && but != primary { // it took longer than this; else those who lose would make what is usual look ever shorter
			a.pool.paces.learn(a.req.Action, moment.Now().Sub(primary.begin))
		}
		for _, t := range running {
			if t != but {
				t.cancel()
			}
		}
		for range hedges {
			a.link.meters.hedges.WithLabelValues(a.req.Pool, hedgeOutcome(but != nil && but != primary)).Inc()
			but = nil // only one has won
		}
	}
	for {
		select {
		case r := <-results:
			open--
			if r.fail == nil {
				a.now = r.try
				stop(r.try)
				return r.reply, nil
			}
			if open == 0 {
				stop(nil)
				return nil, r.fail
			}
		case <-timer.C:
			if hedges < a.pool.cfg.Hedge.Max && a.worthwhile() {
				hedges++
				open++
				running = append(running, a.hedge(results))
				timer.Reset(after)
			}
		case <-ctx.Done():
			stop(nil)
			return nil, &failure{err: ipc.AsError(context.Cause(ctx)), ran: true}
		}
	}
}

// worthwhile reports whether a further attempt can end in time, and the budget has one.
func (a *answer) worthwhile() bool {
	if !a.pool.breaker.closed() || time.Until(a.deadline) <= a.pool.paces.usual(a.req.Action) {
		return false
	}
	if a.pool.budget.spend(time.Now()) {
		return true
	}
	a.link.meters.exhausted.WithLabelValues(a.req.Pool).Inc()
	return false
}

// hedge makes a further attempt on a goroutine of its own.
func (a *answer) hedge(results chan<- result) *attempt {
	a.tries++
	req := a.req
	req.Timeout = max(time.Microsecond, time.Until(a.deadline))
	try := &attempt{pool: a.pool, action: req.Action}
	try.ctx, try.cancel = context.WithCancel(a.ctx)
	next := a.next
	a.link.races.Go(func() {
		r := result{try: try}
		var err error
		if try.permit, r.fail = admitted(a.pool.breaker); r.fail == nil {
			var spanned context.Context
			spanned, try.span = trace.Start(try.ctx, "hedge")
			if try.replies, err = next(spanned, &req); err != nil {
				r.fail = &failure{err: ipc.AsError(err)}
				try.end(r.fail.err)
			} else {
				try.begin = moment.Now()
				r.reply, r.fail = try.recv(try.ctx)
			}
		}
		results <- r
	})
	return try
}

func admitted(b *breaker) (permit, *failure) {
	p, refused := b.admit()
	if refused != nil {
		return p, &failure{err: refused}
	}
	return p, nil
}

func hedgeOutcome(won bool) string {
	if won {
		return "won"
	}
	return "lost"
}
