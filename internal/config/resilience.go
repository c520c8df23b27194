package config

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ringmasterd/ringmaster/chain/pipeline"
	"github.com/ringmasterd/ringmaster/chain/resilience"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// The keys of a pool's resilience. A part that is there has its defaults; 0 takes it away again.
var (
	resilienceFields = fields[resilience.Pool]{
		"retry": func(d *decoder, v value, p *resilience.Pool) {
			p.Retry = resilience.DefaultRetry
			object(d, v, retryFields, &p.Retry, "keys such as max; {} for the defaults")
		},
		"breaker": func(d *decoder, v value, p *resilience.Pool) {
			p.Breaker = resilience.DefaultBreaker
			object(d, v, breakerFields, &p.Breaker, "keys such as failures; {} for the defaults")
		},
		"hedge": func(d *decoder, v value, p *resilience.Pool) {
			p.Hedge = resilience.DefaultHedge
			object(d, v, hedgeFields, &p.Hedge, "after and max; {} for the defaults")
		},
		"fallback": func(d *decoder, v value, p *resilience.Pool) {
			list, ok := d.list(v, "a list, as in [{pool: small}, {stale: 1h}, {reply: {text: sorry}}]")
			if !ok {
				return
			}
			for _, e := range list {
				d.file.at[e.key] = e.position()
				var f resilience.Fallback
				object(d, e, fallbackFields, &f, "one of pool, stale and reply, as in {pool: small}")
				p.Fallback = append(p.Fallback, f)
			}
		},
	}
	retryFields = fields[resilience.Retry]{
		"max":         func(d *decoder, v value, r *resilience.Retry) { d.integer(v, &r.Max, 0) },
		"backoff":     func(d *decoder, v value, r *resilience.Retry) { d.duration(v, &r.Backoff, 1, "50ms") },
		"max_backoff": func(d *decoder, v value, r *resilience.Retry) { d.duration(v, &r.MaxBackoff, 1, "2s") },
		"budget":      func(d *decoder, v value, r *resilience.Retry) { d.share(v, &r.Budget, "20%") },
	}
	breakerFields = fields[resilience.Breaker]{
		"failures":  func(d *decoder, v value, b *resilience.Breaker) { d.integer(v, &b.Failures, 0) },
		"rate":      func(d *decoder, v value, b *resilience.Breaker) { d.share(v, &b.Rate, "50%") },
		"window":    func(d *decoder, v value, b *resilience.Breaker) { d.duration(v, &b.Window, 1, "30s") },
		"open":      func(d *decoder, v value, b *resilience.Breaker) { d.duration(v, &b.Open, 1, "10s") },
		"half_open": func(d *decoder, v value, b *resilience.Breaker) { d.integer(v, &b.HalfOpen, 1) },
	}
	hedgeFields = fields[resilience.Hedge]{
		"after": (*decoder).after,
		"max":   func(d *decoder, v value, h *resilience.Hedge) { d.integer(v, &h.Max, 0) },
	}
	fallbackFields = fields[resilience.Fallback]{
		"pool":   func(d *decoder, v value, f *resilience.Fallback) { d.text(v, &f.Pool, "a pool's name") },
		"action": func(d *decoder, v value, f *resilience.Fallback) { d.text(v, &f.Action, "an action's name") },
		"stale":  func(d *decoder, v value, f *resilience.Fallback) { d.duration(v, &f.Stale, 1, "1h") },
		"reply":  func(d *decoder, v value, f *resilience.Fallback) { d.body(v, &f.Reply) },
	}
)

// poolResilience gathers what is done for a pool.
func (f *File) poolResilience(name string, p *pool) {
	if !p.resilience.Enabled() {
		return
	}
	p.resilience.Timeout = cmp.Or(p.Timeout, supervisor.DefaultTimeout)
	if f.Resilience.Pools == nil {
		f.Resilience.Pools = map[string]resilience.Pool{}
	}
	f.Resilience.Pools[name] = p.resilience
}

// chainMistake returns where a mistake in resilience or pipelines is, the value, and what would be right; "": err is another one.
func chainMistake(err error) (key, value, want string) {
	var link *resilience.FieldError
	if errors.As(err, &link) {
		return "pools." + link.Pool + "." + link.Field, fmt.Sprint(link.Value), link.Want
	}
	var chained *pipeline.FieldError
	if errors.As(err, &chained) {
		return strings.TrimSuffix("pipelines."+chained.Pipeline+"."+chained.Field, "."), fmt.Sprint(chained.Value), chained.Want
	}
	return "", "", ""
}

// share reads a part of the whole, such as 20%.
func (d *decoder) share(v value, into *float64, example string) {
	var s string
	if !d.text(v, &s, "a percentage such as "+example) {
		return
	}
	number, percent := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !percent || !(n > 0 && n <= 100) {
		d.fail(v, s, "use a percentage from 1%% to 100%%, such as %s", example)
		return
	}
	*into = n / 100
}

// after reads when a request is hedged: a duration, or p95.
func (d *decoder) after(v value, h *resilience.Hedge) {
	var s string
	if !d.text(v, &s, "a duration such as 200ms, or p95") {
		return
	}
	percent, quantile := strings.CutPrefix(s, "p")
	if n, err := strconv.Atoi(percent); quantile && err == nil && n >= 1 && n <= 99 {
		h.After, h.Quantile = 0, float64(n)/100
		return
	}
	if quantile {
		d.fail(v, s, "use p1 to p99, such as p95, or a duration such as 200ms")
		return
	}
	d.duration(v, &h.After, 1, "200ms, or p95")
}
