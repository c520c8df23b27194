package auth

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config says who may do what. The zero value lets everybody do everything that the door lets in.
type Config struct {
	Given   bool // there is one: only the socket's owner and root may do what no role allows
	NoOwner bool // and not even they
	Roles   map[string]Role
	Users   map[string][]string // roles by user name or number, or "*" for every local user
	Groups  map[string][]string // by group name or number
	CGroups map[string][]string // by control group, which stands for those below it, too; a part of its path may be a pattern
	Tokens  map[string]Token    // by name
}

// Role is what may be done, and how much of it. Its limits are for each user, token or control group that has the role.
type Role struct {
	Allow    []Rule
	Rate     float64 // requests a second, on average; 0: no limit
	Burst    int     // requests at once, of those; 0: as many as in a second
	InFlight int     // requests that have not ended; 0: no limit
	Cost     int64   // bytes of requests (bodies and tensors) a second, on average; 0: no limit
}

// Rule allows actions of pools. A * in a name stands for any characters; the pool ringmaster, the server itself, must be named in full.
type Rule struct {
	Pools   []string
	Actions []string
	Weight  int // how many requests one counts as, to the role's Rate; 0: 1
}

// Token is a bearer's.
type Token struct {
	Hash    string // sha256: and 64 hexadecimal digits
	Roles   []string
	Expires time.Time // zero: never
}

// FieldError says which field of a [Config] is wrong.
type FieldError struct {
	Field string // as in the configuration file, such as auth.users.alice
	Value any
	Want  string // what would be right
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Field, e.Value, e.Want) }

// maxTokens bounds a configuration's tokens.
const maxTokens = 1 << 16

var tokenName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_@-]{0,63}$`)

// ValidTokenName reports whether a token may have this name.
func ValidTokenName(name string) bool { return tokenName.MatchString(name) }

// Validate reports the first field that is wrong, as a [*FieldError]. Whether users and groups exist is found out by [New] and [Check].
func (c *Config) Validate() error {
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		if err := c.Roles[name].validate("auth.roles." + name); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		key   string
		roles map[string][]string
	}{{"auth.users", c.Users}, {"auth.groups", c.Groups}, {"auth.cgroups", c.CGroups}} {
		for _, name := range slices.Sorted(maps.Keys(list.roles)) {
			if err := c.knows(list.key+"."+name, list.roles[name]); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.CGroups)) {
		if _, err := path.Match(name, ""); err != nil || !strings.HasPrefix(name, "/") || path.Clean(name) != name || name == "/" {
			return &FieldError{"auth.cgroups." + name, name, "use a control group's path from the root, as /proc/PID/cgroup has it, such as /system.slice/robot.service"}
		}
	}
	return c.validateTokens()
}

func (c *Config) validateTokens() error {
	if len(c.Tokens) > maxTokens {
		return &FieldError{"auth.tokens", len(c.Tokens), fmt.Sprintf("there may be %d tokens", maxTokens)}
	}
	bearer := map[digest]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Tokens)) {
		key, t := "auth.tokens."+name, c.Tokens[name]
		hash, ok := parseHash(t.Hash)
		switch {
		case !tokenName.MatchString(name):
			return &FieldError{key, name, "a token's name has at most 64 letters, digits and _ @ -, and begins with a letter or digit"}
		case !ok:
			return &FieldError{key + ".hash", t.Hash, "use the line that `ringmaster auth token " + name + "` prints: sha256: and 64 hexadecimal digits"}
		case bearer[hash] != "":
			return &FieldError{key + ".hash", t.Hash, "this is token " + bearer[hash] + "; give one of them a token of its own"}
		}
		bearer[hash] = name
		if err := c.knows(key+".roles", t.Roles); err != nil {
			return err
		}
	}
	return nil
}

// knows checks that roles exist.
func (c *Config) knows(key string, roles []string) error {
	if len(roles) == 0 {
		return &FieldError{key, "[]", "give it a role, or remove it"}
	}
	for _, r := range roles {
		if _, ok := c.Roles[r]; !ok {
			return &FieldError{key, r, "there is no such role; " + named("auth.roles has", slices.Sorted(maps.Keys(c.Roles)))}
		}
	}
	return nil
}

func (r Role) validate(key string) error {
	switch {
	case len(r.Allow) == 0:
		return &FieldError{key + ".allow", "(none)", "say what it allows, as in [{pools: [echo], actions: [\"*\"]}]"}
	case r.Rate < 0 || r.Burst < 0 || r.InFlight < 0 || r.Cost < 0:
		return &FieldError{key, "a negative limit", "use positive limits, or leave them out"}
	case r.Burst > 0 && r.Rate == 0:
		return &FieldError{key + ".burst", r.Burst, "a burst is of a rate; give one, such as rate: 50/s"}
	}
	for i, rule := range r.Allow {
		at := fmt.Sprintf("%s.allow[%d]", key, i)
		for _, list := range []struct {
			key   string
			names []string
		}{{"pools", rule.Pools}, {"actions", rule.Actions}} {
			if len(list.names) == 0 {
				return &FieldError{at + "." + list.key, "(none)", "name some; \"*\" stands for all"}
			}
			if slices.Contains(list.names, "") {
				return &FieldError{at + "." + list.key, `""`, "a name is empty; \"*\" stands for all"}
			}
		}
		switch burst := r.burst(); {
		case rule.Weight < 0:
			return &FieldError{at + ".weight", rule.Weight, "use a number of 1 or more"}
		case rule.Weight > 1 && r.Rate == 0:
			return &FieldError{at + ".weight", rule.Weight, "it counts to the role's rate, and there is none; give one, such as rate: 50/s"}
		case r.Rate > 0 && rule.Weight > burst:
			return &FieldError{at + ".weight", rule.Weight, fmt.Sprintf("it is more than the role's burst of %d, so that there would never be room; raise burst", burst)}
		}
	}
	return nil
}

// burst is how many requests may come at once.
func (r Role) burst() int {
	if r.Burst > 0 {
		return r.Burst
	}
	return max(1, int(r.Rate))
}

// named joins a list of names for a message.
func named(what string, names []string) string {
	if len(names) == 0 {
		return what + " none"
	}
	return what + " " + strings.Join(names, ", ")
}
