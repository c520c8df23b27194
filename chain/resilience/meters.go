package resilience

import (
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/prometheus/client_golang/prometheus"
)

// meters count what has been done. All labels are names of the configuration, or words of our own.
type meters struct {
	retries   *prometheus.CounterVec // pool
	exhausted *prometheus.CounterVec // pool
	hedges    *prometheus.CounterVec // pool, outcome
	fallbacks *prometheus.CounterVec // pool, by
	circuits  circuits
}

func newMeters(l *Link) *meters {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringmaster_" + name, Help: help}, labels)
	}
	return &meters{
		retries:   counter("retries_total", "Requests that were tried again by the call chain; the supervisor's own second try is not one.", "pool"),
		exhausted: counter("retry_budget_exhausted_total", "Retries and hedges that were not made because the pool's budget was spent.", "pool"),
		hedges:    counter("hedges_total", "Attempts that were made beside a slow one: won, if theirs was the answer, or lost.", "pool", "outcome"),
		fallbacks: counter("fallbacks_total", "Answers whose place something else took: pool, stale or reply.", "pool", "by"),
		circuits:  circuits{l},
	}
}

func (m *meters) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.retries, m.exhausted, m.hedges, m.fallbacks, m.circuits}
}

// circuits is a collector of the breakers' states.
type circuits struct{ link *Link }

var (
	circuitState  = prometheus.NewDesc("ringmaster_circuit_state", "1 for the state that the pool's circuit is in, else 0.", []string{"pool", "state"}, nil)
	circuitOpened = prometheus.NewDesc("ringmaster_circuit_opened_total", "How often the pool's circuit has opened.", []string{"pool"}, nil)
)

// Describe implements [prometheus.Collector].
func (circuits) Describe(ch chan<- *prometheus.Desc) {
	ch <- circuitState
	ch <- circuitOpened
}

// Collect implements [prometheus.Collector].
func (c circuits) Collect(ch chan<- prometheus.Metric) {
	for pool, b := range c.link.circuits() {
		now := b.now()
		for _, s := range []circuitbreaker.State{circuitbreaker.ClosedState, circuitbreaker.OpenState, circuitbreaker.HalfOpenState} {
			is := 0.0
			if s == now {
				is = 1
			}
			ch <- prometheus.MustNewConstMetric(circuitState, prometheus.GaugeValue, is, pool, s.String())
		}
		ch <- prometheus.MustNewConstMetric(circuitOpened, prometheus.CounterValue, float64(b.openings()), pool)
	}
}
