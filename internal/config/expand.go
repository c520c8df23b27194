package config

import (
	"fmt"
	"strings"
)

// expand replaces ${VAR} by the variable's value and ${VAR:-default} by the default if the variable is unset or empty. $${ stands for ${; any other $ for itself.
func expand(s string, lookup func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1] + "${")
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		body, rest, closed := strings.Cut(s[i+2:], "}")
		if !closed {
			return "", fmt.Errorf("${ without }; write $${ for a literal ${")
		}
		name, fallback, hasFallback := strings.Cut(body, ":-")
		if !envName.MatchString(name) {
			return "", fmt.Errorf("${%s} is not a variable; use ${NAME} or ${NAME:-default}, and $${ for a literal ${", body)
		}
		val, set := lookup(name)
		switch {
		case hasFallback && val == "":
			val = fallback
		case !set:
			return "", fmt.Errorf("the environment variable %s is not set; set it, or write ${%s:-default}", name, name)
		}
		b.WriteString(val)
		s = rest
	}
}
