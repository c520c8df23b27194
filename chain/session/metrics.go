package session

import "github.com/prometheus/client_golang/prometheus"

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ringmaster_session"+name, help, labels, nil)
}

var (
	kept      = describe("s", "Sessions that are kept, by memory and bbolt.")
	keptBytes = describe("s_bytes", "Bytes that they take.")
	ended     = describe("s_ended_total", "Sessions that had to go: expired, or evicted because there were too many.", "cause")
	conflicts = describe("_conflicts_total", "Requests that ended with session_conflict.")
	failures  = describe("_store_failures_total", "Requests whose session could not be read or written.")
	without   = describe("_degraded_total", "Of these, those that went on without.")
)

// Describe implements [prometheus.Collector].
func (s *Sessions) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{kept, keptBytes, ended, conflicts, failures, without} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (s *Sessions) Collect(ch chan<- prometheus.Metric) {
	if s.store == nil {
		return
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	count(conflicts, s.conflicts.Load())
	count(failures, s.failures.Load())
	count(without, s.degraded.Load())
	c := s.store.Count()
	if !c.Known {
		return
	}
	ch <- prometheus.MustNewConstMetric(kept, prometheus.GaugeValue, float64(c.Sessions))
	ch <- prometheus.MustNewConstMetric(keptBytes, prometheus.GaugeValue, float64(c.Bytes))
	count(ended, c.Expired, "expired")
	count(ended, c.Evicted, "evicted")
}
