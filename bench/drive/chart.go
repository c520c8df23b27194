package drive

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/ringmasterd/ringmaster/bench/plot"
)

// SVG draws the latencies' percentiles, and the rate against the requests outstanding if there is more than one number of them.
func (r *Result) SVG() []byte {
	latency := plot.Chart{Title: fmt.Sprintf("%s %s: latency", r.Pool, r.Action), X: plot.PercentileAxis(), Y: plot.Axis{Label: "µs", Log: true}}
	rate := plot.Chart{Title: fmt.Sprintf("%s %s: throughput", r.Pool, r.Action), X: plot.Axis{Label: "requests outstanding", Log: true}, Y: plot.Axis{Label: "requests/s", Log: true}}
	for _, row := range r.Rows {
		latency.Series = append(latency.Series, plot.Series{Name: fmt.Sprintf("%s × %d", Size(row.Size), row.Outstanding), Points: row.curve})
		name := Size(row.Size)
		i := slices.IndexFunc(rate.Series, func(s plot.Series) bool { return s.Name == name })
		if i < 0 {
			i = len(rate.Series)
			rate.Series = append(rate.Series, plot.Series{Name: name})
		}
		rate.Series[i].Points = append(rate.Series[i].Points, plot.Point{X: float64(row.Outstanding), Y: row.PerSecond})
		if !slices.ContainsFunc(rate.X.Ticks, func(t plot.Tick) bool { return t.Value == float64(row.Outstanding) }) {
			rate.X.Ticks = append(rate.X.Ticks, plot.Tick{Value: float64(row.Outstanding), Label: strconv.Itoa(row.Outstanding)})
		}
	}
	if len(rate.X.Ticks) < 2 || r.Rows[0].Rate > 0 {
		return plot.SVG(latency)
	}
	return plot.SVG(latency, rate)
}
