package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// wellFormed reads all of a document and counts its elements.
func wellFormed(t *testing.T, svg []byte) map[string]int {
	t.Helper()
	n := map[string]int{}
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			n[e.Name.Local]++
		}
	}
}

func TestSVG(t *testing.T) {
	c := Chart{
		Title: `64 B & "more" <fast>`, X: Axis{Label: "outstanding", Log: true, Ticks: []Tick{{1, "1"}, {8, "8"}, {64, "64"}}}, Y: Axis{Label: "req/s"},
		Series: []Series{
			{"a", []Point{{1, 100}, {8, 500}, {64, 900}}},
			{"b", []Point{{1, 10}, {0, 1}, {8, math.NaN()}, {64, math.Inf(1)}}}, // three that cannot be shown
		},
	}
	n := wellFormed(t, SVG(c, Chart{Title: "nothing"}))
	if n["circle"] != 4 {
		t.Errorf("%d points, want 4", n["circle"])
	}
	if !bytes.Equal(SVG(c), SVG(c)) {
		t.Error("two drawings of one chart differ")
	}
	for _, bad := range []string{"NaN", "Inf"} {
		if strings.Contains(string(SVG(c)), bad) {
			t.Errorf("the drawing has %s in it", bad)
		}
	}
}

func TestScales(t *testing.T) {
	linear := (&Axis{}).scale(400, 0, []float64{930, 12})
	if linear.at(0) != 400 || linear.at(1000) != 0 || len(linear.ticks) != 6 || linear.ticks[5].Label != "1k" {
		t.Errorf("linear: %+v", linear)
	}
	log := (&Axis{Log: true}).scale(0, 300, []float64{3, 700})
	if log.at(1) != 0 || math.Abs(log.at(10)-100) > 1e-9 || math.Abs(log.at(1000)-300) > 1e-9 || len(log.ticks) != 4 {
		t.Errorf("logarithmic: %+v", log)
	}
	for _, one := range []Axis{{}, {Log: true}} { // one value, or none, has a place all the same
		for _, v := range [][]float64{nil, {0.001}, {10}} {
			if s := one.scale(0, 100, v); math.IsNaN(s.at(10)) || math.IsInf(s.at(10), 0) {
				t.Errorf("%+v of %v: %+v", one, v, s)
			}
		}
	}
}

func TestPercentilesSpreadTheTail(t *testing.T) {
	a := PercentileAxis()
	s := a.scale(0, 100, nil)
	if d1, d2 := s.at(PercentileX(99))-s.at(PercentileX(90)), s.at(PercentileX(99.9))-s.at(PercentileX(99)); math.Abs(d1-d2) > 1e-6 || d1 <= 0 {
		t.Errorf("90 to 99 is %v wide, 99 to 99.9 %v", d1, d2)
	}
}
