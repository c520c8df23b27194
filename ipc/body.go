package ipc

import (
	"bytes"
	"reflect"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// Body is one MessagePack value, still encoded. nil is MessagePack's nil.
type Body []byte

// maxPooled is the size in bytes of the largest body whose coder is kept for the next one; coders hold on to their buffers.
const maxPooled = 64 << 10

// Validate checks that b can lie in a message: that it is one well-formed MessagePack value, nested at most 63 deep. The receiver of a message with another one takes its sender for broken.
func (b Body) Validate() error {
	if len(b) == 0 {
		return nil
	}
	s := scanner{within: 1}
	if err := s.whole(b); err != nil {
		return Errorf(InvalidArgument, "bad_body", "the body is not one MessagePack value that can be sent: %v", err)
	}
	return nil
}

// Marshal encodes v, with vmihailenco/msgpack's struct tags and shortest integers. Maps from strings to strings, bools or any are written in the order of their keys, so that equal values are equal bytes: requests are recognised by them.
func Marshal(v any) (Body, error) {
	if v == nil {
		return nil, nil
	}
	if b, ok := v.(Body); ok {
		if err := b.Validate(); err != nil {
			return nil, err
		}
		return b, nil
	}
	w := bodyWriters.Get().(*bodyWriter)
	w.enc.Reset(w)
	w.enc.UseCompactInts(true)
	w.enc.SetSortMapKeys(true)
	err := w.enc.Encode(v)
	if err != nil {
		err = Errorf(InvalidArgument, "bad_body", "the body cannot be encoded as MessagePack: %v", err)
	}
	b := w.take()
	if err == nil {
		err = b.Validate() // it may be nested too deep, and custom encoders may have written anything
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// bodyWriter is an encoder together with what it writes to.
type bodyWriter struct {
	enc *msgpack.Encoder
	buf []byte
}

var bodyWriters = sync.Pool{New: func() any { return &bodyWriter{enc: msgpack.NewEncoder(nil)} }}

// take returns what was written and gives the writer back.
func (w *bodyWriter) take() Body {
	if len(w.buf) > maxPooled {
		return Body(w.buf)
	}
	b := bytes.Clone(w.buf)
	w.buf = w.buf[:0]
	w.enc.Reset(nil)
	bodyWriters.Put(w)
	return b
}

// Write is for the encoder.
func (w *bodyWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	return len(p), nil
}

// WriteByte is for the encoder, which would otherwise allocate for each byte.
func (w *bodyWriter) WriteByte(c byte) error {
	w.buf = append(w.buf, c)
	return nil
}

// DecodeFactor is the most memory, in bytes for each byte of the body, that [Body.Decode] takes to decode into an `any` (less than 4 KiB for the decoder apart). The worst body is a
// chain of maps of one entry whose key is empty: a link is 2 bytes here (81 a0) and 336 in memory, Go's map header of 48 and its first group of eight slots of 288. It is
// all live memory; nothing is allocated and dropped on the way. docs/decisions/0002-decode-memory-bound.md has the measurements.
const DecodeFactor = 168

// Decode decodes the body into v (a pointer). The bytes are scanned first, so a hostile body cannot make the decoder allocate without bound: into an `any` at most
// [DecodeFactor] times the body's size. What typed values take is their types' business; each element of a slice or map has at least one byte in the body.
//
// Values of extension types, of which timestamps are the common one, can be decoded into an `any`, a [time.Time], and structs, slices and pointers
// of such that hold no maps, no interfaces and no decoders of their own.
func (b Body) Decode(v any) error {
	if len(b) == 0 {
		b = Body{codeNil}
	}
	var s scanner
	if err := s.whole(b); err != nil {
		return Errorf(InvalidArgument, "bad_body", "the body is not one MessagePack value: %v", err)
	}
	if s.ext && !takesExtensions(v) {
		return Errorf(InvalidArgument, "bad_body", "the body has a value of an extension type, which cannot be decoded into a %T; decode it into an any", v)
	}
	r := bodyReaders.Get().(*bodyReader)
	r.bytes.Reset(b)
	r.dec.Reset(&r.bytes)
	err := r.dec.Decode(v)
	if len(b) <= maxPooled {
		r.bytes.Reset(nil)
		bodyReaders.Put(r)
	}
	if err != nil {
		return Errorf(InvalidArgument, "bad_body", "the body is not what was expected: %v", err)
	}
	return nil
}

// bodyReader is a decoder together with what it reads from.
type bodyReader struct {
	dec   *msgpack.Decoder
	bytes bytes.Reader
}

var bodyReaders = sync.Pool{New: func() any { return &bodyReader{dec: msgpack.NewDecoder(nil)} }}

// takesExtensions reports whether a body with extension types may be decoded into v.
//
// Where vmihailenco/msgpack v5.4.1 is to decode a map and finds an extension, it skips the extension's header and takes the payload, and what comes after it, for the
// map (Decoder.DecodeMapLen): bytes that Scan has only skipped. c7 05 00 df ff ff ff ff decoded into a map[string]any ends the process with an
// out-of-memory.
func takesExtensions(v any) bool {
	switch v := v.(type) {
	case *any:
		return *v == nil // else it is decoded into what is there
	case *time.Time:
		return true
	}
	t := reflect.TypeOf(v)
	if t == nil {
		return false
	}
	if known, ok := extensionTypes.Load(t); ok {
		return known.(bool)
	}
	takes := typeTakesExtensions(t, map[reflect.Type]bool{})
	extensionTypes.Store(t, takes)
	return takes
}

var (
	extensionTypes sync.Map // reflect.Type → bool

	timeType    = reflect.TypeFor[time.Time]()
	rawType     = reflect.TypeFor[msgpack.RawMessage]()
	customType  = reflect.TypeFor[msgpack.CustomDecoder]()
	unmarshaler = reflect.TypeFor[msgpack.Unmarshaler]()
)

// typeTakesExtensions walks a type; seen holds what is being walked further up.
func typeTakesExtensions(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == timeType || t == rawType || seen[t] {
		return true
	}
	seen[t] = true
	if t.Kind() == reflect.Pointer {
		return typeTakesExtensions(t.Elem(), seen)
	}
	if p := reflect.PointerTo(t); p.Implements(customType) || p.Implements(unmarshaler) {
		return false
	}
	switch t.Kind() {
	case reflect.Map, reflect.Interface:
		return false
	case reflect.Slice, reflect.Array:
		return typeTakesExtensions(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if !typeTakesExtensions(t.Field(i).Type, seen) {
				return false
			}
		}
	}
	return true
}
