package config

import (
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// integer reads a whole number of at least least.
func (d *decoder) integer(v value, into *int, least int) bool {
	var s string
	if !d.text(v, &s, "a whole number") {
		return false
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least {
		d.fail(v, s, "use a whole number, %d or more", least)
		return false
	}
	*into = n
	return true
}

func (d *decoder) integers(v value, into *[]int, least int, want string) bool {
	list, ok := d.list(v, want)
	if !ok {
		return false
	}
	numbers := make([]int, len(list))
	for i, e := range list {
		ok = d.integer(e, &numbers[i], least) && ok
	}
	*into = numbers
	return ok
}

func (d *decoder) count(v value, into *uint64) bool {
	var n int
	if !d.integer(v, &n, 0) {
		return false
	}
	*into = uint64(n)
	return true
}

// part reads a number from 0 to 1.
func (d *decoder) part(v value, into *float64) bool {
	var s string
	if !d.text(v, &s, "a number from 0 to 1") {
		return false
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0 && n <= 1) {
		d.fail(v, s, "use a number from 0 to 1, such as 0.1 for a tenth")
		return false
	}
	*into = n
	return true
}

func (d *decoder) boolean(v value, into *bool) {
	var s string
	if d.oneOf(v, &s, "true", "false") {
		*into = s == "true"
	}
}

// tree reads any value, with the variables of its texts expanded.
func (d *decoder) tree(v value) (any, bool) {
	switch n := v.resolve(); n.Kind {
	case yaml.MappingNode:
		entries, ok := d.entries(v, "an object")
		m := make(map[string]any, len(entries))
		for _, e := range entries {
			x, good := d.tree(e.value)
			m[e.name], ok = x, ok && good
		}
		return m, ok
	case yaml.SequenceNode:
		list, ok := d.list(v, "a list")
		values := make([]any, len(list))
		for i, e := range list {
			x, good := d.tree(e)
			values[i], ok = x, ok && good
		}
		return values, ok
	default:
		if n.ShortTag() == "!!str" {
			var s string
			ok := d.text(v, &s, "a text")
			return s, ok
		}
		var x any
		if err := n.Decode(&x); err != nil {
			d.fail(v, n.Value, "expected a value: %v", err)
			return nil, false
		}
		return x, true
	}
}

// duration reads a duration of at least least nanoseconds.
func (d *decoder) duration(v value, into *time.Duration, least time.Duration, example string) {
	var s string
	if !d.text(v, &s, "a duration such as "+example) {
		return
	}
	n, err := time.ParseDuration(s)
	switch {
	case err != nil:
		d.fail(v, s, "use a number with a unit (ms, s, m, h), such as %s", example)
	case n < least:
		d.fail(v, s, "use a positive duration such as %s", example)
	default:
		*into = n
	}
}

var units = []struct {
	name  string
	bytes float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}}

// size reads a number of bytes, such as 4GiB, 512MiB or 1048576.
func (d *decoder) size(v value, into *uint64) bool {
	var s string
	if !d.text(v, &s, "a size such as 512MiB") {
		return false
	}
	n, ok := parseSize(s)
	if !ok {
		d.fail(v, s, "use a size such as 4GiB, 512MiB or a number of bytes (units: KiB, MiB, GiB, TiB)")
		return false
	}
	*into = n
	return true
}

func parseSize(s string) (uint64, bool) {
	number, unit := s, 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	bytes, err := strconv.ParseFloat(number, 64)
	bytes *= unit
	if err != nil || !(bytes >= 0 && bytes < math.MaxInt64) || bytes != math.Trunc(bytes) || strings.ContainsAny(number, "eExXpP_+") {
		return 0, false
	}
	return uint64(bytes), true
}

// positive reports whether a size is more than nothing, where nothing would be taken for the default.
func (d *decoder) positive(v value, n uint64) bool {
	if n == 0 {
		d.fail(v, "0", "use a positive size such as 4GiB, or remove the key for the default")
	}
	return n > 0
}
