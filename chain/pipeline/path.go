package pipeline

import (
	"fmt"
	"strconv"
	"strings"
)

// ref is a reference to a part of the request or of a step's answer:
//
//	$input.body            $input.body.pages[0].text     $input.tensors.image     $input.tensors
//	$input.action          $input.headers.session        $input.body.language or null
//	$steps.ocr.body.lines  $steps.ocr.body["odd key"]    $steps.ocr.tensors.mask  $steps.ocr.error
//
// With "or null" it is nil where there is nothing; without, that is an error. (A question mark would not do: YAML has one of its own.)
type ref struct {
	text     string // as written, without the $
	step     string // "": the request
	index    int    // the step's
	part     part
	path     []key
	optional bool
}

// part is what of a request or an answer is meant.
type part string

const (
	partBody    part = "body"
	partTensors part = "tensors"
	partAction  part = "action"  // of the request
	partHeaders part = "headers" // of the request
	partError   part = "error"   // of a step that failed and was replaced: {code, reason, message}; else nil
)

// key is one step into a value: a member's name, or an element's number; a name of digits is either.
type key struct {
	name    string
	index   int  // of an element; -1: it is none's
	element bool // it was written in brackets: no member's name
}

// parseRef reads a reference without its $.
func parseRef(s string) (ref, error) {
	r := ref{text: s}
	rest, optional := strings.CutSuffix(s, " or null")
	r.optional = optional
	keys, err := parseKeys(rest)
	if err != nil {
		return r, err
	}
	take := func() string {
		if len(keys) == 0 || keys[0].element {
			return ""
		}
		name := keys[0].name
		keys = keys[1:]
		return name
	}
	switch root := take(); root {
	case "input":
		r.part = part(take())
	case "steps":
		if r.step = take(); r.step == "" {
			return r, fmt.Errorf("name the step, as in $steps.ocr.body")
		}
		r.part = part(take())
	default:
		return r, fmt.Errorf("a reference begins with $input or $steps.NAME; write $$ for a literal $")
	}
	r.path = keys
	return r, r.check()
}

// check reports what makes no sense of a reference.
func (r *ref) check() error {
	of, parts := "$input", "body, tensors, action or headers"
	if r.step != "" {
		of, parts = "$steps."+r.step, "body, tensors or error"
	}
	names := len(r.path) > 0 && r.path[0].element
	switch {
	case r.part == partBody:
	case r.part == partTensors:
		if len(r.path) > 1 || names {
			return fmt.Errorf("a tensor has a name and no parts, as in %s.tensors.image", of)
		}
	case r.part == partError && r.step != "":
	case r.part == partAction && r.step == "" && len(r.path) == 0:
	case r.part == partHeaders && r.step == "" && len(r.path) == 1 && !names:
	default:
		return fmt.Errorf("use %s of %s, as in %s.body.text", parts, of, of)
	}
	return nil
}

// parseKeys reads a.b[0]["c"].
func parseKeys(s string) ([]key, error) {
	var keys []key
	for first := true; s != "" || first; first = false {
		if !first && strings.HasPrefix(s, "[") {
			k, rest, err := parseBracket(s)
			if err != nil {
				return nil, err
			}
			keys, s = append(keys, k), rest
			continue
		}
		if !first {
			var dot bool
			if s, dot = strings.CutPrefix(s, "."); !dot {
				return nil, fmt.Errorf("after %s comes a dot or a bracket, not %q", "]", s)
			}
		}
		n := strings.IndexAny(s, ".[")
		if n < 0 {
			n = len(s)
		}
		name := s[:n]
		if i := strings.IndexFunc(name, unplain); i >= 0 || name == "" {
			return nil, fmt.Errorf("%q is no name; write [\"%s\"] for a key with other signs in it than letters, digits, '_' and '-'", name, name)
		}
		k := key{name: name, index: -1}
		if i, err := strconv.ParseUint(name, 10, 31); err == nil {
			k.index = int(i)
		}
		keys, s = append(keys, k), s[n:]
	}
	return keys, nil
}

// parseBracket reads [0] or ["key"].
func parseBracket(s string) (key, string, error) {
	if quoted, err := strconv.QuotedPrefix(s[1:]); err == nil {
		name, err := strconv.Unquote(quoted)
		rest, closed := strings.CutPrefix(s[1+len(quoted):], "]")
		if err == nil && closed {
			return key{name: name, index: -1}, rest, nil
		}
	}
	inside, rest, closed := strings.Cut(s[1:], "]")
	index, err := strconv.Atoi(inside)
	if err != nil || !closed || index < 0 {
		return key{}, "", fmt.Errorf("in brackets comes an element's number, from 0, or a key in quotes, as in [0] or [\"key\"]")
	}
	return key{index: index, element: true}, rest, nil
}

// unplain reports a sign that a name has only in quotes.
func unplain(r rune) bool {
	return !(r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= 0x80)
}
