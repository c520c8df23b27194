package pipeline

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

// value is a part of a body that is built when a step begins. One that refers to nothing is a literal.
type value interface {
	// build appends the encoded value. look returns what a reference stands for.
	build(out *builder, look func(*ref) (ipc.Body, error)) error
}

// builder is where a body is built.
type builder struct {
	buf  bytes.Buffer
	enc  *msgpack.Encoder
	most int // bytes that it may have
}

func newBuilder(most int) *builder {
	b := &builder{most: most}
	b.enc = msgpack.NewEncoder(&b.buf)
	b.enc.UseCompactInts(true)
	return b
}

// raw appends what is encoded already.
func (b *builder) raw(v []byte) error {
	if len(v) > b.most-b.buf.Len() {
		return tooLarge(b.most)
	}
	b.buf.Write(v)
	return nil
}

type (
	literal   ipc.Body
	reference struct{ ref *ref }
	object    struct {
		names  []string // sorted, so that equal requests are equal bytes
		values []value
	}
	list     []value
	template []any // strings, and *ref whose text stands in their place
)

func (l literal) build(out *builder, _ func(*ref) (ipc.Body, error)) error { return out.raw(l) }

func (r reference) build(out *builder, look func(*ref) (ipc.Body, error)) error {
	b, err := look(r.ref)
	if err != nil {
		return err
	}
	return out.raw(b)
}

func (o object) build(out *builder, look func(*ref) (ipc.Body, error)) error {
	if err := out.enc.EncodeMapLen(len(o.names)); err != nil {
		return err
	}
	for i, name := range o.names {
		if err := out.enc.EncodeString(name); err != nil {
			return err
		}
		if err := o.values[i].build(out, look); err != nil {
			return err
		}
	}
	return nil
}

func (l list) build(out *builder, look func(*ref) (ipc.Body, error)) error {
	if err := out.enc.EncodeArrayLen(len(l)); err != nil {
		return err
	}
	for _, v := range l {
		if err := v.build(out, look); err != nil {
			return err
		}
	}
	return nil
}

func (t template) build(out *builder, look func(*ref) (ipc.Body, error)) error {
	var text strings.Builder
	for _, p := range t {
		s, _ := p.(string)
		if r, refers := p.(*ref); refers {
			b, err := look(r)
			if err == nil {
				s, err = textOf(b)
			}
			if err != nil {
				return err
			}
		}
		if text.Len()+len(s) > out.most-out.buf.Len() {
			return tooLarge(out.most)
		}
		text.WriteString(s)
	}
	return out.enc.EncodeString(text.String())
}

// textOf is a value within a text: a string as it is, anything else as JSON.
func textOf(b ipc.Body) (string, error) {
	if s, ok := stringOf(b); ok {
		return s, nil
	}
	asJSON, err := jsonbody.Encode(b)
	return string(asJSON), err
}

func tooLarge(most int) *ipc.Error {
	return ipc.Errorf(ipc.ResourceExhausted, "too_large", "what is put together is larger than %d bytes, the most a message may have; refer to less, or raise `max_message`", most)
}

// compileValue makes a value of what the configuration says. at is its place there; use is told of each reference. The error is a [*bad].
func compileValue(at string, v any, use func(at string, r *ref) error) (value, error) {
	var made value
	fixed := true // it refers to nothing
	part := func(at string, v any) (value, error) {
		p, err := compileValue(at, v, use)
		if _, is := p.(literal); !is {
			fixed = false
		}
		return p, err
	}
	switch v := v.(type) {
	case string:
		return compileText(at, v, use)
	case map[string]any:
		o := object{names: slices.Sorted(maps.Keys(v))}
		for _, name := range o.names {
			member, err := part(at+"."+name, v[name])
			if err != nil {
				return nil, err
			}
			o.values = append(o.values, member)
		}
		made = o
	case []any:
		var l list
		for i, e := range v {
			element, err := part(fmt.Sprintf("%s[%d]", at, i), e)
			if err != nil {
				return nil, err
			}
			l = append(l, element)
		}
		made = l
	default:
		b, err := ipc.Marshal(v)
		switch {
		case err != nil:
			return nil, &bad{at, v, ipc.AsError(err).Message}
		case b == nil:
			b = null
		}
		return literal(b), nil
	}
	if !fixed {
		return made, nil
	}
	out := newBuilder(ipc.DefaultMaxMessage)
	if err := made.build(out, nil); err != nil {
		return nil, &bad{at, describe(v), ipc.AsError(err).Message}
	}
	return literal(out.buf.Bytes()), nil
}

// compileText makes a value of a string: $… alone is what it refers to, $(…) within others its text, $$ a $.
func compileText(at, s string, use func(at string, r *ref) error) (value, error) {
	whole := s
	refer := func(text string) (*ref, error) {
		r, err := parseRef(text)
		if err != nil {
			return nil, &bad{at, whole, err.Error()}
		}
		return &r, use(at, &r)
	}
	if strings.HasPrefix(s, "$") && !strings.HasPrefix(s, "$$") && !strings.HasPrefix(s, "$(") {
		r, err := refer(s[1:])
		return reference{r}, err
	}
	var t template
	var plain strings.Builder
	for s != "" {
		before, rest, found := strings.Cut(s, "$")
		plain.WriteString(before)
		s = rest
		switch inside, after, closed := strings.Cut(rest, ")"); {
		case !found:
		case strings.HasPrefix(rest, "$"):
			plain.WriteByte('$')
			s = rest[1:]
		case !strings.HasPrefix(rest, "("):
			plain.WriteByte('$')
		case !closed:
			return nil, &bad{at, whole, "$( without ); write $$( for a literal $("}
		default:
			r, err := refer(inside[1:])
			if err != nil {
				return nil, err
			}
			t = append(t, plain.String(), r)
			plain.Reset()
			s = after
		}
	}
	if len(t) > 0 {
		return append(t, plain.String()), nil
	}
	b, err := ipc.Marshal(plain.String())
	if err != nil {
		return nil, &bad{at, whole, ipc.AsError(err).Message}
	}
	return literal(b), nil
}
