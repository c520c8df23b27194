package traceparent

import (
	"encoding/hex"
	"strings"
	"testing"
)

const example = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestParse(t *testing.T) {
	p, ok := Parse(example)
	if !ok || hex.EncodeToString(p.Trace[:]) != "0af7651916cd43dd8448eb211c80319c" || hex.EncodeToString(p.Span[:]) != "b7ad6b7169203331" || p.Flags != Sampled {
		t.Fatalf("%+v, %v", p, ok)
	}
	if p.String() != example {
		t.Errorf("it is written as %s", p)
	}
	for _, good := range []string{"cc" + example[2:], "cc" + example[2:] + "-what-will-be", example[:53] + "ff"} {
		if q, ok := Parse(good); !ok || q.Trace != p.Trace || q.Span != p.Span {
			t.Errorf("%q: %+v, %v", good, q, ok)
		}
	}
	for _, bad := range []string{
		"", "00", example[:54], example + "-", example + "0", "ff" + example[2:], "0g" + example[2:], strings.ToUpper(example), strings.ReplaceAll(example, "-", "_"),
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", "cc" + example[2:] + "x", example[:54] + "x",
	} {
		if p, ok := Parse(bad); ok {
			t.Errorf("%q is taken for %s", bad, p)
		}
	}
}

func TestNewOnesAreValidAndDiffer(t *testing.T) {
	one, other := Parent{Trace: NewTrace(), Span: NewSpan()}, Parent{Trace: NewTrace(), Span: NewSpan()}
	if !one.Valid() || one.Trace == other.Trace || one.Span == other.Span {
		t.Errorf("%s, %s", one, other)
	}
}

// What Parse takes is written as it was, but for the version and what a later one may have at its end.
func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("cc" + example[2:] + "-more")
	f.Add("00-00000000000000000000000000000000-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := Parse(s)
		if !ok {
			return
		}
		if !p.Valid() {
			t.Errorf("%q is taken, and invalid", s)
		}
		if w := p.String(); w[3:] != s[3:Length] {
			t.Errorf("%q is written as %q", s, w)
		}
		if q, ok := Parse(p.String()); !ok || q != p {
			t.Errorf("%q does not come back: %+v", s, q)
		}
	})
}
