package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fields are an object's keys, each with what puts its value into T.
type fields[T any] map[string]func(*decoder, value, *T)

// position is a place in the file, counted from 1.
type position struct{ line, column int }

// value is a YAML value and the key under which it stands.
type value struct {
	node *yaml.Node
	key  string // as in pools.echo.workers; "" for the file
}

// resolve follows an alias to what it stands for.
func (v value) resolve() *yaml.Node {
	if v.node.Kind == yaml.AliasNode {
		return v.node.Alias
	}
	return v.node
}

func (v value) position() position { return position{v.node.Line, v.node.Column} }

// decoder gathers a file's mistakes while its values are read.
type decoder struct {
	file   *File
	lookup func(string) (string, bool)
	errs   Errors
}

func (d *decoder) fail(v value, got, format string, args ...any) {
	if got == "" {
		got = `""`
	}
	d.errs = append(d.errs, d.file.error(v.position(), v.key, got, fmt.Sprintf(format, args...)))
}

// object reads an object whose keys are known. what says what it consists of.
func object[T any](d *decoder, v value, known fields[T], into *T, what string) {
	entries, ok := d.entries(v, what)
	if !ok {
		return
	}
	for _, e := range entries {
		decode, ok := known[e.name]
		if !ok {
			d.errs = append(d.errs, d.file.error(e.at, e.value.key, "unknown key", suggest(e.name, slices.Sorted(maps.Keys(known)))))
			continue
		}
		decode(d, e.value, into)
	}
}

// entry is one key of an object.
type entry struct {
	name  string
	at    position // the key's
	value value
}

// entries returns an object's keys and values in the file's order, after checking that each key is a string and occurs once.
func (d *decoder) entries(v value, what string) ([]entry, bool) {
	n := v.resolve()
	if n.Kind != yaml.MappingNode {
		d.fail(v, describe(n), "expected %s", what)
		return nil, false
	}
	first := map[string]int{}
	var list []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		e := entry{name: k.Value, at: position{k.Line, k.Column}, value: value{node: n.Content[i+1], key: join(v.key, k.Value)}}
		fail := func(got, want string) { d.errs = append(d.errs, d.file.error(e.at, e.value.key, got, want)) }
		switch line, dup := first[e.name]; {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!null":
			e.value.key = v.key
			fail(describe(k), "a key must be a string")
			continue
		case k.ShortTag() == "!!merge":
			fail("<<", "merge keys are not supported; write the values out")
			continue
		case dup:
			fail("duplicate key", fmt.Sprintf("it is already given in line %d; remove one", line))
			continue
		}
		first[e.name] = k.Line
		d.file.at[e.value.key] = e.value.position()
		if isEmpty(e.value.node) {
			d.fail(e.value, "(empty)", "give a value, or remove the key")
			continue
		}
		list = append(list, e)
	}
	return list, true
}

// list returns a list's elements, each under the list's key.
func (d *decoder) list(v value, what string) ([]value, bool) {
	n := v.resolve()
	if n.Kind != yaml.SequenceNode {
		d.fail(v, describe(n), "expected %s", strings.TrimPrefix(what, "use "))
		return nil, false
	}
	list := make([]value, len(n.Content))
	for i, c := range n.Content {
		list[i] = value{node: c, key: fmt.Sprintf("%s[%d]", v.key, i)}
	}
	return list, true
}

// text reads a scalar as it is written, with its variables expanded.
func (d *decoder) text(v value, into *string, want string) bool {
	n := v.resolve()
	if n.Kind != yaml.ScalarNode || isEmpty(n) {
		d.fail(v, describe(n), "expected %s", want)
		return false
	}
	s, err := expand(n.Value, d.lookup)
	if err != nil {
		d.fail(v, n.Value, "%v", err)
		return false
	}
	if strings.ContainsRune(s, 0) {
		d.fail(v, fmt.Sprintf("%q", s), "it contains a NUL byte")
		return false
	}
	*into = s
	return true
}

func (d *decoder) texts(v value, into *[]string, want string) bool {
	list, ok := d.list(v, want)
	if !ok {
		return false
	}
	texts := make([]string, len(list))
	for i, e := range list {
		ok = d.text(e, &texts[i], "a string") && ok
	}
	*into = texts
	return ok
}

// oneOf reads a scalar that is one of a few words.
func (d *decoder) oneOf(v value, into *string, words ...string) bool {
	want := strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
	var s string
	if !d.text(v, &s, want) {
		return false
	}
	if !slices.Contains(words, s) {
		d.fail(v, s, "use %s", want)
		return false
	}
	*into = s
	return true
}

// isEmpty reports a key without a value.
func isEmpty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// describe names a value in an error.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "an object"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isEmpty(n):
		return "(empty)"
	}
	return n.Value
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
