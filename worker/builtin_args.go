package worker

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/ringmasterd/ringmaster/ipc"
)

// args reads the body of a builtin action's request: a map, or nil for an empty one. The first thing wrong with it is kept in err and makes later reads return their defaults.
type args struct {
	action string
	body   map[string]any
	err    error
}

// parseArgs decodes the body. example is one that would be right.
func parseArgs(req *Request, example string) *args {
	a := &args{action: req.Action}
	var v any
	if a.err = req.Body.Decode(&v); a.err != nil {
		return a
	}
	switch v := v.(type) {
	case nil:
	case map[string]any:
		a.body = v
	default:
		a.err = ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "%s: the body is %s; send a map such as %s", a.action, show(v), example)
	}
	return a
}

func (a *args) fail(key string, v any, want string) {
	if a.err == nil {
		a.err = ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "%s: body.%s is %s; %s", a.action, key, show(v), want)
	}
}

// number reads a number from 0 to high.
func (a *args) number(key string, fallback, high float64) float64 {
	v, ok := a.body[key]
	if !ok {
		return fallback
	}
	n, ok := toFloat(v)
	if !ok || !(n >= 0 && n <= high) { // also no NaN
		a.fail(key, v, fmt.Sprintf("use a number from 0 to %v", high))
		return fallback
	}
	return n
}

// integer reads a whole number from low to high.
func (a *args) integer(key string, fallback, low, high int) int {
	v, ok := a.body[key]
	if !ok {
		return fallback
	}
	n, ok := toFloat(v)
	if !ok || n != float64(int(n)) || int(n) < low || int(n) > high {
		a.fail(key, v, fmt.Sprintf("use a whole number from %d to %d", low, high))
		return fallback
	}
	return int(n)
}

// text reads a string.
func (a *args) text(key string) string {
	v, ok := a.body[key]
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		a.fail(key, v, "use a string")
	}
	return s
}

// texts reads an array of strings.
func (a *args) texts(key string) []string {
	v, ok := a.body[key]
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	var texts []string
	for _, item := range list {
		var s string
		if s, ok = item.(string); !ok {
			break
		}
		texts = append(texts, s)
	}
	if !ok {
		a.fail(key, v, "use an array of strings")
	}
	return texts
}

// choice reads one of a few words; the first is the default.
func (a *args) choice(key string, words ...string) string {
	v, ok := a.body[key]
	if !ok {
		return words[0]
	}
	s, _ := v.(string)
	if !slices.Contains(words, s) {
		a.fail(key, v, "use one of "+strings.Join(words, ", "))
		return words[0]
	}
	return s
}

func toFloat(v any) (float64, bool) {
	switch r := reflect.ValueOf(v); {
	case r.CanInt():
		return float64(r.Int()), true
	case r.CanUint():
		return float64(r.Uint()), true
	case r.CanFloat():
		return r.Float(), true
	}
	return 0, false
}

// show is a value as an error message quotes it: short, and with its type.
func show(v any) string {
	const most = 64 // bytes
	s := fmt.Sprintf("%#v", v)
	if _, ok := v.(string); !ok && v != nil {
		s = fmt.Sprintf("%v (%T)", v, v)
	}
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
