package auth

import (
	"path"
	"strings"
)

// pattern is a name in which * stands for any characters, cut at its stars.
type pattern struct {
	whole string   // without a star: the name
	parts []string // with stars: what is before, between and after them
}

func newPattern(s string) pattern {
	if !strings.Contains(s, "*") {
		return pattern{whole: s}
	}
	return pattern{parts: strings.Split(s, "*")}
}

// matches reports whether a name fits. It allocates nothing, and takes a time that grows with the name's length only.
func (p pattern) matches(name string) bool {
	if p.parts == nil {
		return name == p.whole
	}
	first, last := p.parts[0], p.parts[len(p.parts)-1]
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, part := range p.parts[1 : len(p.parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return true
}

// patterns are alternatives.
type patterns []pattern

func newPatterns(list []string) patterns {
	ps := make(patterns, len(list))
	for i, s := range list {
		ps[i] = newPattern(s)
	}
	return ps
}

func (ps patterns) match(name string) bool {
	for i := range ps {
		if ps[i].matches(name) {
			return true
		}
	}
	return false
}

// under returns the part of a control group's path that a key names: the group itself, or one that it is below. Each part of the key's path may be a pattern of package path.
func under(key, cgroup string) (string, bool) {
	if cgroup == "" {
		return "", false
	}
	wanted, parts := strings.Split(key, "/"), strings.Split(cgroup, "/")
	if len(parts) < len(wanted) {
		return "", false
	}
	for i, w := range wanted {
		if ok, err := path.Match(w, parts[i]); err != nil || !ok {
			return "", false
		}
	}
	return strings.Join(parts[:len(wanted)], "/"), true
}
