package trace

import "github.com/prometheus/client_golang/prometheus"

var (
	spansSent    = prometheus.NewDesc("ringmaster_trace_spans_exported_total", "Spans that a collector or the file has taken.", nil, nil)
	spansDropped = prometheus.NewDesc("ringmaster_trace_spans_dropped_total", "Spans that were not exported because too many waited.", nil, nil)
	spansFailed  = prometheus.NewDesc("ringmaster_trace_spans_failed_total", "Spans that a collector or the file did not take.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (t *Tracer) Describe(ch chan<- *prometheus.Desc) {
	ch <- spansSent
	ch <- spansDropped
	ch <- spansFailed
}

// Collect implements [prometheus.Collector].
func (t *Tracer) Collect(ch chan<- prometheus.Metric) {
	for desc, n := range map[*prometheus.Desc]uint64{spansSent: t.counts.sent.Load(), spansDropped: t.counts.dropped.Load(), spansFailed: t.counts.failed.Load()} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	}
}
