package config

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringmasterd/ringmaster/internal/cpulist"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// rlimit returns what reads one of the limits: a size or a count, or unlimited.
func rlimit(read func(*decoder, value, *uint64) bool) func(*decoder, value, *map[string]uint64) {
	return func(d *decoder, v value, limits *map[string]uint64) {
		name := v.key[strings.LastIndexByte(v.key, '.')+1:]
		n := uint64(supervisor.Unlimited)
		if s, err := expand(v.resolve().Value, d.lookup); err == nil && s == "unlimited" || read(d, v, &n) {
			(*limits)[name] = n
		}
	}
}

// cpus reads 0-3,8 or [0, 1].
func (d *decoder) cpus(v value, p *pool) {
	const want = "use a list of CPUs such as 0-3,8 or [0, 1]"
	if v.resolve().Kind == yaml.SequenceNode {
		if d.integers(v, &p.CPUs, 0, want) && len(p.CPUs) == 0 {
			d.fail(v, "[]", "the list is empty; %s", want)
		}
		return
	}
	var s string
	if !d.text(v, &s, strings.TrimPrefix(want, "use ")) {
		return
	}
	cpus, err := cpulist.Parse(s)
	if err != nil {
		d.fail(v, s, "%s", want)
		return
	}
	p.CPUs = cpus
}
