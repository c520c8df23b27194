package config

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/internal/address"
)

// The keys of `auth`, by the object they are in.
var (
	authFields = fields[auth.Config]{
		"owner": func(d *decoder, v value, c *auth.Config) {
			var s string
			if d.oneOf(v, &s, "true", "false") {
				c.NoOwner = s == "false"
			}
		},
		"roles":  (*decoder).roles,
		"users":  func(d *decoder, v value, c *auth.Config) { d.bindings(v, &c.Users, "alice: [app]") },
		"groups": func(d *decoder, v value, c *auth.Config) { d.bindings(v, &c.Groups, "video: [app]") },
		"cgroups": func(d *decoder, v value, c *auth.Config) {
			d.bindings(v, &c.CGroups, "/system.slice/robot.service: [app]")
		},
		"tokens":      (*decoder).tokens,
		"tokens_file": (*decoder).tokensFile,
	}
	roleFields = fields[auth.Role]{
		"allow": func(d *decoder, v value, r *auth.Role) {
			list, _ := d.list(v, "use a list of rules, as in [{pools: [echo], actions: [\"*\"]}]")
			for _, e := range list {
				var rule auth.Rule
				object(d, e, ruleFields, &rule, "pools and actions")
				r.Allow = append(r.Allow, rule)
			}
		},
		"rate":      func(d *decoder, v value, r *auth.Role) { d.rate(v, &r.Rate) },
		"burst":     func(d *decoder, v value, r *auth.Role) { d.integer(v, &r.Burst, 1) },
		"in_flight": func(d *decoder, v value, r *auth.Role) { d.integer(v, &r.InFlight, 1) },
		"cost":      func(d *decoder, v value, r *auth.Role) { d.sizeRate(v, &r.Cost) },
	}
	ruleFields = fields[auth.Rule]{
		"pools": func(d *decoder, v value, r *auth.Rule) {
			d.texts(v, &r.Pools, "a list of pools, as in [smollm2, \"embed-*\"]")
		},
		"actions": func(d *decoder, v value, r *auth.Rule) {
			d.texts(v, &r.Actions, "a list of actions, as in [chat], or [\"*\"]")
		},
		"weight": func(d *decoder, v value, r *auth.Rule) { d.integer(v, &r.Weight, 1) },
	}
	tokenFields = fields[auth.Token]{
		"hash":    func(d *decoder, v value, t *auth.Token) { d.text(v, &t.Hash, "sha256: and 64 hexadecimal digits") },
		"roles":   func(d *decoder, v value, t *auth.Token) { d.texts(v, &t.Roles, "a list of roles, as in [app]") },
		"expires": func(d *decoder, v value, t *auth.Token) { d.date(v, &t.Expires) },
	}
)

func (d *decoder) roles(v value, c *auth.Config) {
	entries, _ := d.entries(v, "roles by name, as in app: {allow: [{pools: [echo], actions: [\"*\"]}]}")
	c.Roles = map[string]auth.Role{}
	for _, e := range entries {
		var r auth.Role
		object(d, e.value, roleFields, &r, "allow, and limits such as rate")
		c.Roles[e.name] = r
	}
}

// bindings reads who has which roles.
func (d *decoder) bindings(v value, into *map[string][]string, example string) {
	entries, _ := d.entries(v, "lists of roles, as in "+example)
	*into = map[string][]string{}
	for _, e := range entries {
		var roles []string
		d.texts(e.value, &roles, "a list of roles, as in [app]")
		(*into)[e.name] = roles
	}
}

func (d *decoder) tokens(v value, c *auth.Config) {
	entries, _ := d.entries(v, "tokens by name, as in robot: {hash: \"sha256:…\", roles: [app]}")
	for _, e := range entries {
		if _, dup := c.Tokens[e.name]; dup {
			d.fail(e.value, e.name, "there is a token of this name already, in `tokens` or `tokens_file`")
			continue
		}
		var t auth.Token
		object(d, e.value, tokenFields, &t, "hash, roles and expires")
		if c.Tokens == nil {
			c.Tokens = map[string]auth.Token{}
		}
		c.Tokens[e.name] = t
	}
}

// tokensFile reads tokens from a file beside this one, whose mistakes are told with its own lines.
func (d *decoder) tokensFile(v value, c *auth.Config) {
	var path string
	if !d.text(v, &path, "a file's path") {
		return
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(d.file.Path), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		d.fail(v, path, "it cannot be read: %v", err)
		return
	}
	root, bad := parseYAML(path, data)
	switch {
	case bad != nil:
		d.errs = append(d.errs, bad)
		return
	case root == nil: // nobody has a token yet
		return
	}
	other := &decoder{file: &File{Path: path, at: map[string]position{}}, lookup: d.lookup}
	before := len(c.Tokens)
	other.tokens(value{node: root, key: "auth.tokens"}, c)
	d.errs = append(d.errs, other.errs...)
	if len(c.Tokens) > before {
		d.file.elsewhere = other.file
	}
}

// rate reads how many in a second, as in 50/s, 100/m or 3000/h.
func (d *decoder) rate(v value, into *float64) {
	var s string
	if !d.text(v, &s, "a rate such as 50/s") {
		return
	}
	number, unit, _ := strings.Cut(s, "/")
	per := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || per == 0 || !(n > 0 && n <= 1e9) || strings.ContainsAny(number, "eExXpP_+") {
		d.fail(v, s, "use a number of requests in a time, such as 50/s, 100/m or 3000/h")
		return
	}
	*into = n / per
}

// sizeRate reads bytes a second, as in 20MiB/s.
func (d *decoder) sizeRate(v value, into *int64) {
	var s string
	if !d.text(v, &s, "bytes a second such as 20MiB/s") {
		return
	}
	number, ok := strings.CutSuffix(s, "/s")
	n, good := parseSize(number)
	if !ok || !good || n == 0 || n > 1<<40 {
		d.fail(v, s, "use bytes a second, such as 20MiB/s (units: KiB, MiB, GiB)")
		return
	}
	*into = int64(n)
}

// date reads a day, whose beginning (UTC) it is, or a moment.
func (d *decoder) date(v value, into *time.Time) {
	var s string
	if !d.text(v, &s, "a date such as 2027-01-01") {
		return
	}
	t, err := ParseDate(s)
	if err != nil {
		d.fail(v, s, "use a date such as 2027-01-01, or a time such as 2027-01-01T12:00:00Z")
		return
	}
	*into = t
}

// ParseDate reads a day, whose beginning (UTC) it is, or a moment as RFC 3339 has it.
func ParseDate(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	return time.Parse(time.RFC3339, s)
}

func (d *decoder) socketMode(v value, f *File) {
	var s string
	if d.oneOf(v, &s, "0600", "0660", "0666") {
		n, _ := strconv.ParseUint(s, 8, 32) // one of the three
		f.SocketMode = os.FileMode(n)
	}
}

func (d *decoder) listen(v value, f *File) {
	if !d.text(v, &f.Listen, "an address such as 127.0.0.1:8080") {
		return
	}
	if _, err := address.ParseTCP(f.Listen); err != nil {
		d.fail(v, f.Listen, "%v", err)
	}
}

func (d *decoder) origins(v value, f *File) {
	d.texts(v, &f.Gateway.Origins, "a list of origins, as in [http://localhost:3000]")
	for i, o := range f.Gateway.Origins {
		if scheme, host, ok := strings.Cut(o, "://"); !ok || host == "" || scheme != "http" && scheme != "https" || strings.ContainsAny(host, "/*") {
			d.fail(value{node: v.resolve().Content[i], key: v.key}, o, "use the origin of a page, http:// or https:// and its host, without a path, such as http://localhost:3000")
		}
	}
}
