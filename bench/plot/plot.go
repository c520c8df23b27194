// Package plot draws line charts as SVG: a title, two axes, a few series, a legend. It draws what the benchmarks need and nothing else.
//
// It is our own because a chart is some eighty lines of text, while a plotting library brings fonts, rasterisers and PDF to a program that is to be one small file.
package plot

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// Point is one value of a series.
type Point struct{ X, Y float64 }

// Series is one line. Points that an axis cannot show (not positive on a logarithmic one, not finite) are left out.
type Series struct {
	Name   string
	Points []Point
}

// Tick is a mark on an axis.
type Tick struct {
	Value float64
	Label string
}

// Axis runs over all its series' values. Without Ticks a logarithmic one has its decades, a linear one round numbers.
type Axis struct {
	Label string
	Log   bool
	Ticks []Tick
}

// Chart is one drawing.
type Chart struct {
	Title  string
	X, Y   Axis
	Series []Series
}

const (
	width, height            = 760, 420 // of one chart
	left, right, top, bottom = 78, 190, 44, 52
)

// Colours that can be told apart by people who see few, after Okabe and Ito; then again with a dashed line.
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}

// SVG draws the charts one below the other. Nothing in it depends on anything but the charts.
func SVG(charts ...Chart) []byte {
	var b bytes.Buffer
	h := height * len(charts)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`+"\n", width, h, width, h)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, h)
	for i := range charts {
		fmt.Fprintf(&b, `<g transform="translate(0,%d)">`+"\n", i*height)
		charts[i].draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (c *Chart) draw(b *bytes.Buffer) {
	x := c.X.scale(left, width-right, c.values(func(p Point) float64 { return p.X }))
	y := c.Y.scale(height-bottom, top, c.values(func(p Point) float64 { return p.Y }))
	text(b, width/2-right/2+left/2, 24, "middle", `font-size="15" font-weight="600"`, c.Title)
	for _, t := range x.ticks {
		at := x.at(t.Value)
		fmt.Fprintf(b, `<path d="M%.1f %dV%d" stroke="#e4e4e4"/>`+"\n", at, top, height-bottom)
		text(b, at, height-bottom+18, "middle", "", t.Label)
	}
	for _, t := range y.ticks {
		at := y.at(t.Value)
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#e4e4e4"/>`+"\n", left, at, width-right)
		text(b, left-8, at+4, "end", "", t.Label)
	}
	fmt.Fprintf(b, `<path d="M%d %dV%dH%d" fill="none" stroke="#333333"/>`+"\n", left, top, height-bottom, width-right)
	text(b, (left+width-right)/2, height-bottom+40, "middle", "", c.X.Label)
	middle := float64(top+height-bottom) / 2
	text(b, 18, middle, "middle", fmt.Sprintf(`transform="rotate(-90 18 %.1f)"`, middle), c.Y.Label)
	for i, s := range c.Series {
		c.line(b, s, x, y, i)
	}
}

// line draws the i-th series and its entry in the legend.
func (c *Chart) line(b *bytes.Buffer, s Series, x, y scale, i int) {
	style := `stroke-width="2" fill="none" stroke="` + colours[i%len(colours)] + `"`
	if i >= len(colours) {
		style += ` stroke-dasharray="6 4"`
	}
	var path, dots bytes.Buffer
	command := 'M'
	for _, p := range s.Points {
		if !c.X.shows(p.X) || !c.Y.shows(p.Y) {
			continue
		}
		fmt.Fprintf(&path, "%c%.1f %.1f", command, x.at(p.X), y.at(p.Y))
		fmt.Fprintf(&dots, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x.at(p.X), y.at(p.Y), colours[i%len(colours)])
		command = 'L'
	}
	if path.Len() > 0 {
		fmt.Fprintf(b, `<path d="%s" %s/>%s`+"\n", &path, style, &dots)
	}
	at := top + 10 + 20*i
	fmt.Fprintf(b, `<path d="M%d %dh24" %s/>`, width-right+14, at, style)
	text(b, width-right+44, float64(at+4), "start", "", s.Name)
}

func text(b *bytes.Buffer, x, y float64, anchor, more, s string) {
	if more != "" {
		more = " " + more
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="#222222"%s>%s</text>`+"\n", x, y, anchor, more, html.EscapeString(s))
}

// values are those of all series that can be shown.
func (c *Chart) values(of func(Point) float64) []float64 {
	var v []float64
	for _, s := range c.Series {
		for _, p := range s.Points {
			if c.X.shows(p.X) && c.Y.shows(p.Y) {
				v = append(v, of(p))
			}
		}
	}
	return v
}

func (a *Axis) shows(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (!a.Log || v > 0)
}

// scale maps values to pixels.
type scale struct {
	log      bool
	low, per float64 // the value (or its logarithm) at from, and pixels for each 1
	from     float64
	ticks    []Tick
}

func (s scale) at(v float64) float64 {
	if s.log {
		v = math.Log10(v)
	}
	return s.from + (v-s.low)*s.per
}

// scale fits the axis to the values, widened to what its ticks ask for.
func (a *Axis) scale(from, to float64, values []float64) scale {
	low, high := 0.0, 1.0
	if a.Log {
		low, high = 1, 10
	}
	if len(values) > 0 {
		low, high = values[0], values[0]
		for _, v := range values {
			low, high = min(low, v), max(high, v)
		}
	}
	s := scale{log: a.Log, from: from, ticks: a.Ticks}
	switch {
	case a.Log && s.ticks == nil:
		low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
		if low == high {
			high *= 10
		}
		for v := low; v <= high*1.01; v *= 10 {
			s.ticks = append(s.ticks, Tick{v, Short(v)})
		}
	case s.ticks == nil:
		low = min(0, low)
		step := roundStep((high - low) / 5)
		high = math.Ceil(high/step) * step
		for i := 0; low+float64(i)*step <= high+step/2; i++ {
			v := low + float64(i)*step
			s.ticks = append(s.ticks, Tick{v, Short(v)})
		}
	}
	for _, t := range s.ticks {
		low, high = min(low, t.Value), max(high, t.Value)
	}
	if a.Log {
		low, high = math.Log10(low), math.Log10(high)
	}
	if high == low {
		high = low + 1
	}
	s.low, s.per = low, (to-from)/(high-low)
	return s
}

// roundStep is the least of 1, 2 and 5 times a power of ten that is not less than v.
func roundStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}

// Short writes a number as an axis does: 1500 as 1.5k.
func Short(v float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= u.size {
			return strconv.FormatFloat(v/u.size, 'g', 3, 64) + u.name
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
