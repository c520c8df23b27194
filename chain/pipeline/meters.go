package pipeline

import "github.com/prometheus/client_golang/prometheus"

// meters count steps. Their labels are names of the configuration.
type meters struct {
	steps   *prometheus.CounterVec   // pipeline, step, outcome
	seconds *prometheus.HistogramVec // pipeline, step
}

// How a step ended.
const (
	stepOK        = "ok"
	stepFailed    = "failed"
	stepReplaced  = "replaced"  // it failed, and on_error said what to do
	stepCancelled = "cancelled" // since the request ended
)

func newMeters() *meters {
	return &meters{
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringmaster_pipeline_steps_total", Help: "Steps of pipelines that have ended: ok, failed, replaced (on_error) or cancelled."}, []string{"pipeline", "step", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "ringmaster_pipeline_step_seconds", Help: "How long steps of pipelines took.",
			Buckets: []float64{.001, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300}}, []string{"pipeline", "step"}),
	}
}

func (m *meters) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.steps, m.seconds}
}
