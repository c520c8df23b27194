package cpulist

import (
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	for list, want := range map[string][]int{
		"0": {0}, "0-3,8": {0, 1, 2, 3, 8}, "8, 0-1\n": {0, 1, 8}, "1,1,0-1": {0, 1}, "1023": {1023},
		"": nil, "x": nil, "3-1": nil, "-1": nil, "1-": nil, "1024": nil, "0-99999999999": nil, "1,,2": nil,
	} {
		got, err := Parse(list)
		if (err == nil) != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v; want %v", list, got, err, want)
		}
	}
}

func TestFormat(t *testing.T) {
	for want, cpus := range map[string][]int{"": nil, "0": {0}, "0-3,8": {0, 1, 2, 3, 8}, "1,3,5-6": {1, 3, 5, 6}} {
		if got := Format(cpus); got != want {
			t.Errorf("%v: %q, want %q", cpus, got, want)
		}
	}
}
