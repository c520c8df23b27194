package session

import (
	"bytes"
	endian "encoding/binary"
	"errors"
	"math"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Conversations: bodies are maps with a list of messages, {role, content}, which are kept as they came, encoded.
//
//	stored:    system₁ user₁ assistant₁
//	request:                            user₂             the worker gets    system₁ user₁ assistant₁ user₂
//	request:   system₂                  user₂             it gets            system₂ user₁ assistant₁ user₂
//
// What the worker got, and the text of its answer as the assistant's message, is what is stored next.

// said is one request's part in a conversation.
type said struct {
	messages []ipc.Body // what the worker got, so far
	text     []byte     // of the answer, so far
	tools    msgpack.RawMessage
	size     int // of all that, about
}

// extend puts what was said before in front of a body's messages. nil, and the body as it was: it has none.
func extend(body ipc.Body, member string, before []ipc.Body) (ipc.Body, *said) {
	if body.Validate() != nil {
		return body, nil // whoever comes next says so
	}
	members, err := mapMembers(body)
	if err != nil {
		return body, nil
	}
	at := -1
	for i := 0; i < len(members); i += 2 {
		if name, ok := text(members[i]); ok && name == member {
			at = i + 1
		}
	}
	if at < 0 {
		return body, nil
	}
	list, err := elements(members[at])
	if err != nil || len(list) == 0 {
		return body, nil
	}
	now := make([]ipc.Body, len(list))
	for i, m := range list {
		now[i] = ipc.Body(m)
	}
	s := &said{messages: merge(before, now)}
	joined := appendLength(nil, len(s.messages), array)
	for _, m := range s.messages {
		joined = append(joined, m...)
	}
	s.size = len(joined)
	members[at] = joined
	extended := appendLength(make([]byte, 0, len(body)+len(joined)), len(members)/2, mapping)
	for _, m := range members {
		extended = append(extended, m...)
	}
	return extended, s
}

// merge puts what is said now after what was said before. Instructions that a request begins with take the place of those that the conversation began with.
func merge(before, now []ipc.Body) []ipc.Body {
	n := instructions(now)
	if n > 0 {
		before = before[instructions(before):]
	}
	merged := make([]ipc.Body, 0, len(before)+len(now)+1)
	merged = append(merged, now[:n]...)
	merged = append(merged, before...)
	return append(merged, now[n:]...)
}

// instructions is how many messages at the beginning are the system's.
func instructions(messages []ipc.Body) int {
	for i, m := range messages {
		var head struct {
			Role string `msgpack:"role"`
		}
		if m.Decode(&head) != nil || head.Role != "system" && head.Role != "developer" {
			return i
		}
	}
	return len(messages)
}

// hear takes a reply of the action in: {text, tool_calls}, or a string. It is what the OpenAI paths read; what is neither says nothing.
func (s *said) hear(body ipc.Body) {
	if len(body) == 0 {
		return
	}
	if t, ok := text(msgpack.RawMessage(body)); ok {
		s.text = append(s.text, t...)
		s.size += len(t)
		return
	}
	var part struct {
		Text  string             `msgpack:"text"`
		Tools msgpack.RawMessage `msgpack:"tool_calls"`
	}
	if body.Decode(&part) != nil {
		return
	}
	s.text = append(s.text, part.Text...)
	s.size += len(part.Text)
	if len(part.Tools) > 0 && part.Tools[0] != msgpcode.Nil {
		s.size += len(part.Tools) - len(s.tools)
		s.tools = bytes.Clone(part.Tools)
	}
}

// all is the conversation with the answer as its last message.
func (s *said) all() []ipc.Body {
	n := 2
	if s.tools != nil {
		n = 3
	}
	m := appendLength(nil, n, mapping)
	m = appendText(appendText(m, "role"), "assistant")
	m = appendText(appendText(m, "content"), string(s.text))
	if s.tools != nil {
		m = append(appendText(m, "tool_calls"), s.tools...)
	}
	return append(s.messages, m)
}

// form is a kind of MessagePack value that has a length.
type form struct {
	fix          byte
	fixMax       int
	c8, c16, c32 byte
}

var (
	array   = form{0x90, 15, 0, 0xdc, 0xdd}
	mapping = form{0x80, 15, 0, 0xde, 0xdf}
	str     = form{0xa0, 31, 0xd9, 0xda, 0xdb}
	bin     = form{0, -1, 0xc4, 0xc5, 0xc6}
)

func appendLength(b []byte, n int, f form) []byte {
	switch {
	case n <= f.fixMax:
		return append(b, f.fix|byte(n))
	case n <= math.MaxUint8 && f.c8 != 0:
		return append(b, f.c8, byte(n))
	case n <= math.MaxUint16:
		return endian.BigEndian.AppendUint16(append(b, f.c16), uint16(n))
	}
	return endian.BigEndian.AppendUint32(append(b, f.c32), uint32(n))
}

func appendText(b []byte, s string) []byte { return append(appendLength(b, len(s), str), s...) }

var errOther = errors.New("it is something else")

// elements splits an array. Preconditions: b is valid MessagePack.
func elements(b []byte) ([]msgpack.RawMessage, error) {
	d := msgpack.NewDecoder(bytes.NewReader(b))
	if c, err := d.PeekCode(); err != nil || !msgpcode.IsFixedArray(c) && c != msgpcode.Array16 && c != msgpcode.Array32 {
		return nil, errOther
	}
	n, err := d.DecodeArrayLen()
	if err != nil {
		return nil, err
	}
	return values(d, n)
}

// mapMembers splits a map: key, value, key, value … Preconditions: b is valid MessagePack.
func mapMembers(b []byte) ([]msgpack.RawMessage, error) {
	d := msgpack.NewDecoder(bytes.NewReader(b))
	if c, err := d.PeekCode(); err != nil || !msgpcode.IsFixedMap(c) && c != msgpcode.Map16 && c != msgpcode.Map32 {
		return nil, errOther // the library takes some others for maps
	}
	n, err := d.DecodeMapLen()
	if err != nil {
		return nil, err
	}
	return values(d, 2*n)
}

func values(d *msgpack.Decoder, n int) ([]msgpack.RawMessage, error) {
	list := make([]msgpack.RawMessage, 0, min(n, 1024))
	for range n {
		v, err := d.DecodeRaw()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// text reads a value that is a string.
func text(v msgpack.RawMessage) (string, bool) {
	if len(v) == 0 || !msgpcode.IsString(v[0]) {
		return "", false
	}
	var s string
	err := msgpack.Unmarshal(v, &s)
	return s, err == nil
}
