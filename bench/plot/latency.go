package plot

import "math"

// Percentiles are what a chart of latencies shows.
var Percentiles = []float64{50, 75, 90, 95, 99, 99.5, 99.9, 99.99}

// PercentileAxis spreads the percentiles as their distance from 100 shrinks, so that the tail is as wide as the middle.
func PercentileAxis() Axis {
	axis := Axis{Label: "percentile", Log: true}
	for _, t := range []Tick{{50, "50"}, {90, "90"}, {99, "99"}, {99.9, "99.9"}, {99.99, "99.99"}} {
		axis.Ticks = append(axis.Ticks, Tick{PercentileX(t.Value), t.Label})
	}
	return axis
}

// PercentileX is where a percentile lies on that axis.
func PercentileX(q float64) float64 { return 1 / math.Max(1-q/100, 1e-6) }
