package config

import (
	"reflect"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain/resilience"
	"github.com/ringmasterd/ringmaster/ipc"
)

func TestResilience(t *testing.T) {
	f, err := Parse("f", []byte(`
pools:
  big:
    builtin: echo
    timeout: 5s
    resilience:
      retry: {max: 2, backoff: 10ms, max_backoff: 1s, budget: 12.5%}
      breaker: {failures: 7, rate: 50%, window: 1m, open: 3s, half_open: 2}
      hedge: {after: 200ms, max: 2}
      fallback: [{pool: small, action: b}, {stale: 1h}, {reply: {text: "${MODEL_DIR}", n: [1, 2.5, true, ~]}}]
  small: {builtin: echo, resilience: {retry: {}, breaker: {}, hedge: {after: p99}}}
  plain: {builtin: echo, resilience: {retry: {max: 0}}}
`), environment)
	if err != nil {
		t.Fatal(err)
	}
	body, err := ipc.Marshal(map[string]any{"text": "/models", "n": []any{1, 2.5, true, nil}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]resilience.Pool{
		"big": {
			Retry:    resilience.Retry{Max: 2, Backoff: 10 * time.Millisecond, MaxBackoff: time.Second, Budget: 0.125},
			Breaker:  resilience.Breaker{Failures: 7, Rate: 0.5, Window: time.Minute, Open: 3 * time.Second, HalfOpen: 2},
			Hedge:    resilience.Hedge{After: 200 * time.Millisecond, Quantile: 0.95, Max: 2},
			Fallback: []resilience.Fallback{{Pool: "small", Action: "b"}, {Stale: time.Hour}, {Reply: body}},
			Timeout:  5 * time.Second,
		},
		"small": {Retry: resilience.DefaultRetry, Breaker: resilience.DefaultBreaker, Hedge: resilience.Hedge{Quantile: 0.99, Max: 1}, Timeout: time.Minute},
	}
	if !reflect.DeepEqual(f.Resilience.Pools, want) {
		t.Errorf("got  %+v\nwant %+v", f.Resilience.Pools, want)
	}
}

func TestResilienceErrors(t *testing.T) {
	for _, tt := range []struct{ resilience, want string }{
		{"{retries: {}}", "f:1:41: pools.a.resilience.retries: unknown key: use one of breaker, fallback, hedge, retry"},
		{"{retry: {max: 101}}", "f:1:54: pools.a.resilience.retry.max: 101: use 0 to 100"},
		{"{retry: {budget: 20}}", "f:1:57: pools.a.resilience.retry.budget: 20: use a percentage from 1% to 100%, such as 20%"},
		{"{retry: {budget: 0%}}", "f:1:57: pools.a.resilience.retry.budget: 0%: use a percentage from 1% to 100%, such as 20%"},
		{"{retry: {backoff: 5s}}", "f:1:48: pools.a.resilience.retry.max_backoff: 2s: use a duration from backoff (5s) to 10m0s, such as 2s"},
		{"{breaker: {window: 1ms}}", "f:1:59: pools.a.resilience.breaker.window: 1ms: use a duration from 1s to 24h0m0s, such as 30s"},
		{"{breaker: {half_open: 0}}", "f:1:62: pools.a.resilience.breaker.half_open: 0: use a whole number, 1 or more"},
		{"{hedge: {after: p100}}", "f:1:56: pools.a.resilience.hedge.after: p100: use p1 to p99, such as p95, or a duration such as 200ms"},
		{"{hedge: {after: soon}}", "f:1:56: pools.a.resilience.hedge.after: soon: use a number with a unit (ms, s, m, h), such as 200ms, or p95"},
		{"{fallback: {pool: b}}", "f:1:51: pools.a.resilience.fallback: an object: expected a list, as in [{pool: small}, {stale: 1h}, {reply: {text: sorry}}]"},
		{"{fallback: [{pool: b}]}", "f:1:59: pools.a.resilience.fallback[0].pool: b: there is no such pool"},
		{"{fallback: [{stale: 1h}, {pool: a}]}", "f:1:72: pools.a.resilience.fallback[1].pool: a: this is the pool that failed; name another"},
		{"{fallback: [{stale: 1h, reply: 1}]}", "f:1:52: pools.a.resilience.fallback[0]: 2 of pool, stale and reply: give one of them, as in {pool: small}, {stale: 1h} or {reply: {text: sorry}}"},
		{"{fallback: [{action: x}]}", "f:1:52: pools.a.resilience.fallback[0]: 0 of pool, stale and reply: give one of them, as in {pool: small}, {stale: 1h} or {reply: {text: sorry}}"},
		{"{fallback: [{reply: {a: 1, a: 2}}]}", "f:1:70: pools.a.resilience.fallback[0].reply.a: duplicate key: it is given already; remove one"},
		{"{fallback: [{reply: &r [*r]}]}", "f:1:64: pools.a.resilience.fallback[0].reply[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]: a list: it is nested more than 32 deep"},
	} {
		_, err := Parse("f", []byte("pools: {a: {builtin: echo, resilience: "+tt.resilience+"}}"), environment)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.resilience, err, tt.want)
		}
	}
}
