package cache

import (
	"errors"
	"strings"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringmasterd/ringmaster/ipc"
)

// follow is a request that follows another, as the configuration has it.
type follow struct {
	pool, action string
	body         any
}

// maxRendered is the size in bytes of the largest body that is taken apart to make another.
const maxRendered = 256 << 10

var errTemplate = errors.New("a text that begins with $ stands for a part of what came before: $reply, $reply.FIELD, $request or $request.FIELD; for one that is to begin with $ write $$")

// checkTemplate checks a body of the configuration.
func checkTemplate(v any) error {
	switch v := v.(type) {
	case string:
		if _, _, ok := reference(v); strings.HasPrefix(v, "$") && !strings.HasPrefix(v, "$$") && !ok {
			return errTemplate
		}
	case []any:
		for _, e := range v {
			if err := checkTemplate(e); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, e := range v {
			if err := checkTemplate(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// reference takes $reply.a.b apart: of what it is a part, and which.
func reference(s string) (of string, path []string, ok bool) {
	parts := strings.Split(s, ".")
	if parts[0] != "$reply" && parts[0] != "$request" {
		return "", nil, false
	}
	for _, p := range parts[1:] {
		if p == "" {
			return "", nil, false
		}
	}
	return parts[0], parts[1:], true
}

// render makes a body: false if it stands for a part that is not there.
func render(template any, request, reply ipc.Body) (ipc.Body, bool) {
	r := renderer{bodies: map[string]ipc.Body{"$request": request, "$reply": reply}, values: map[string]any{}}
	v, ok := r.value(template)
	if !ok {
		return nil, false
	}
	if whole, is := v.(msgpack.RawMessage); is {
		return ipc.Body(whole), true
	}
	body, err := ipc.Marshal(v)
	return body, err == nil
}

// renderer fills a template in.
type renderer struct {
	bodies map[string]ipc.Body
	values map[string]any // bodies that were taken apart
}

func (r *renderer) value(template any) (any, bool) {
	switch t := template.(type) {
	case string:
		if literal, is := strings.CutPrefix(t, "$$"); is {
			return "$" + literal, true
		}
		of, path, is := reference(t)
		if !is {
			return t, true
		}
		return r.part(of, path)
	case []any:
		list := make([]any, len(t))
		for i, e := range t {
			v, ok := r.value(e)
			if !ok {
				return nil, false
			}
			list[i] = v
		}
		return list, true
	case map[string]any:
		m := make(map[string]any, len(t))
		for k, e := range t {
			v, ok := r.value(e)
			if !ok {
				return nil, false
			}
			m[k] = v
		}
		return m, true
	}
	return template, true
}

// part is a body as it is, or a field of it.
func (r *renderer) part(of string, path []string) (any, bool) {
	body := r.bodies[of]
	if len(path) == 0 {
		if len(body) == 0 {
			body = nilBody
		}
		return msgpack.RawMessage(body), true
	}
	v, known := r.values[of]
	if !known {
		if len(body) > maxRendered || body.Decode(&v) != nil {
			v = nil
		}
		r.values[of] = v
	}
	for _, field := range path {
		m, is := v.(map[string]any)
		if !is {
			return nil, false
		}
		if v, is = m[field]; !is {
			return nil, false
		}
	}
	return v, true
}
