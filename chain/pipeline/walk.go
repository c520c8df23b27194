package pipeline

import (
	"bytes"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/ringmasterd/ringmaster/ipc"
)

// null is MessagePack's nil.
var null = ipc.Body{0xc0}

// walker goes through a value's bytes. Preconditions: it is one that [ipc.Scan] has passed.
type walker struct {
	b   []byte
	r   *bytes.Reader
	dec *msgpack.Decoder
}

func newWalker(b []byte) *walker {
	r := bytes.NewReader(b)
	return &walker{b, r, msgpack.NewDecoder(r)} // it reads from r byte by byte, without a buffer of its own
}

func (w *walker) offset() int { return len(w.b) - w.r.Len() }

// skip passes over one value and returns its bytes.
func (w *walker) skip() ([]byte, error) {
	begin := w.offset()
	if err := w.dec.Skip(); err != nil {
		return nil, err
	}
	return w.b[begin:w.offset()], nil
}

// members enters a map and calls f for each of its members with a string for a key, until f returns false. What is no map has none.
func (w *walker) members(f func(name string, value []byte) bool) error {
	c, err := w.dec.PeekCode()
	if err != nil || !(msgpcode.IsFixedMap(c) || c == msgpcode.Map16 || c == msgpcode.Map32) {
		return err
	}
	n, err := w.dec.DecodeMapLen()
	for i := 0; i < n && err == nil; i++ {
		if c, err = w.dec.PeekCode(); err != nil {
			return err
		}
		name, named := "", msgpcode.IsString(c)
		if named {
			name, err = w.dec.DecodeString()
		} else {
			_, err = w.skip()
		}
		if err != nil {
			return err
		}
		var value []byte
		if value, err = w.skip(); err == nil && named && !f(name, value) {
			return nil
		}
	}
	return err
}

// element enters an array and returns one of its elements; nil: it has none of this number, or is no array.
func (w *walker) element(index int) ([]byte, error) {
	c, err := w.dec.PeekCode()
	if err != nil || !(msgpcode.IsFixedArray(c) || c == msgpcode.Array16 || c == msgpcode.Array32) {
		return nil, err
	}
	n, err := w.dec.DecodeArrayLen()
	if err != nil || index >= n {
		return nil, err
	}
	for range index {
		if _, err := w.skip(); err != nil {
			return nil, err
		}
	}
	return w.skip()
}

// at returns the part of a body that a path leads to, still encoded; nil: it leads nowhere.
func at(b ipc.Body, path []key) (ipc.Body, error) {
	part := []byte(b)
	if len(part) == 0 {
		part = null
	}
	for _, k := range path {
		var next []byte
		var err error
		if k.index >= 0 {
			next, err = newWalker(part).element(k.index)
		}
		if next == nil && err == nil && !k.element {
			err = newWalker(part).members(func(name string, value []byte) bool {
				if name == k.name {
					next = value
				}
				return next == nil
			})
		}
		if err != nil || next == nil {
			return nil, err
		}
		part = next
	}
	return part, nil
}

// stringOf returns the string that an encoded value is, if it is one.
func stringOf(b []byte) (string, bool) {
	w := newWalker(b)
	c, err := w.dec.PeekCode()
	if err != nil || !msgpcode.IsString(c) {
		return "", false
	}
	s, err := w.dec.DecodeString()
	return s, err == nil
}
