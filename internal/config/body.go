package config

import (
	"github.com/ringmasterd/ringmaster/ipc"
	"go.yaml.in/yaml/v3"
)

// body reads a value that is sent as a message's body.
func (d *decoder) body(v value, into *ipc.Body) {
	content, ok := d.content(v, 0)
	if !ok {
		return
	}
	b, err := ipc.Marshal(content)
	if err != nil {
		d.fail(v, describe(v.resolve()), "%s", ipc.AsError(err).Message)
		return
	}
	*into = b
}

// maxContent is how deeply content may be nested; one that has itself in it, by an alias, is nested without end.
const maxContent = 32

// content reads whatever value there is: an object becomes a map with strings for keys. Variables are expanded in strings.
func (d *decoder) content(v value, depth int) (any, bool) {
	n := v.resolve()
	if depth > maxContent {
		d.fail(v, describe(n), "it is nested more than %d deep", maxContent)
		return nil, false
	}
	switch n.Kind {
	case yaml.MappingNode:
		return d.members(v, depth+1)
	case yaml.SequenceNode:
		list, ok := d.list(v, "a list")
		all := make([]any, len(list))
		for i, e := range list {
			d.file.at[e.key] = e.position()
			var good bool
			all[i], good = d.content(e, depth+1)
			ok = ok && good
		}
		return all, ok
	}
	if n.ShortTag() == "!!str" {
		var s string
		ok := n.Value == "" || d.text(v, &s, "a string")
		return s, ok
	}
	var scalar any
	if err := n.Decode(&scalar); err != nil {
		d.fail(v, n.Value, "this is no value that a message can have")
		return nil, false
	}
	return scalar, true
}

// members reads an object of any keys. Unlike those of the configuration they may have no value.
func (d *decoder) members(v value, depth int) (any, bool) {
	before := len(d.errs)
	all := map[string]any{}
	n := v.resolve()
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		e := value{node: n.Content[i+1], key: join(v.key, k.Value)}
		_, dup := all[k.Value]
		switch {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge":
			d.fail(v, describe(k), "a key must be a string")
			continue
		case dup:
			d.fail(e, "duplicate key", "it is given already; remove one")
			continue
		}
		d.file.at[e.key] = e.position()
		all[k.Value], _ = d.content(e, depth)
	}
	return all, len(d.errs) == before
}
