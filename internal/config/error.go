package config

import (
	"fmt"
	"strings"
)

// Error is one mistake in a configuration file.
type Error struct {
	File         string
	Line, Column int
	Key          string // as in pools.echo.workers; "" if the mistake is no key's
	Value        string
	Want         string // what would be right
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Key != "" {
		fmt.Fprintf(&b, "%s: ", e.Key)
	}
	if e.Value != "" {
		fmt.Fprintf(&b, "%s: ", e.Value)
	}
	b.WriteString(e.Want)
	return b.String()
}

// Errors are a file's mistakes, in order of their place.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}
