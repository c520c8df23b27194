// Package jsonbody turns JSON into a request's body and a reply's body into JSON. The order of an object's keys is kept both ways, and so are whole numbers.
//
// What JSON lacks: bytes become a base64 string, a timestamp becomes RFC 3339, NaN and the infinities become the strings "NaN", "Infinity" and "-Infinity", a key that is not a
// string becomes the string of its JSON, and any other extension becomes {"ext": type, "data": base64}.
package jsonbody

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/ringmasterd/ringmaster/ipc"
)

// maxDepth leaves room for the message around the body; see [ipc.Scan].
const maxDepth = 60

// Decode turns one JSON value into a body.
func Decode(data []byte) (ipc.Body, error) {
	in := json.NewDecoder(bytes.NewReader(data))
	in.UseNumber()
	var out bytes.Buffer
	enc := msgpack.NewEncoder(&out)
	enc.UseCompactInts(true)
	if err := decodeValue(in, enc, &out, 0); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("not JSON: something follows the value at byte %d", in.InputOffset())
	}
	return ipc.Body(out.Bytes()), nil
}

func decodeValue(in *json.Decoder, enc *msgpack.Encoder, out *bytes.Buffer, depth int) error {
	token, err := in.Token()
	if err != nil {
		return err
	}
	switch v := token.(type) {
	case nil:
		return enc.EncodeNil()
	case bool:
		return enc.EncodeBool(v)
	case string:
		return enc.EncodeString(v)
	case json.Number:
		return decodeNumber(v.String(), enc)
	case json.Delim:
		return decodeContainer(v, in, enc, out, depth+1)
	}
	return fmt.Errorf("unexpected %v", token)
}

// decodeContainer writes an array's or object's elements and then moves them behind their count, which MessagePack wants first.
func decodeContainer(open json.Delim, in *json.Decoder, enc *msgpack.Encoder, out *bytes.Buffer, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	begin := out.Len()
	n := 0
	for ; in.More(); n++ {
		if open == '{' {
			key, err := in.Token()
			if err != nil {
				return err
			}
			if err := enc.EncodeString(key.(string)); err != nil {
				return err
			}
		}
		if err := decodeValue(in, enc, out, depth); err != nil {
			return err
		}
	}
	if _, err := in.Token(); err != nil { // the closing bracket
		return err
	}
	elements := bytes.Clone(out.Bytes()[begin:])
	out.Truncate(begin)
	var err error
	if open == '{' {
		err = enc.EncodeMapLen(n)
	} else {
		err = enc.EncodeArrayLen(n)
	}
	out.Write(elements)
	return err
}

func decodeNumber(s string, enc *msgpack.Encoder) error {
	if !strings.ContainsAny(s, ".eE") {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return enc.EncodeInt(n)
		}
		if n, err := strconv.ParseUint(s, 10, 64); err == nil {
			return enc.EncodeUint(n)
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("the number %s is out of range", s)
	}
	return enc.EncodeFloat64(f)
}

// Encode turns a body into JSON.
func Encode(b ipc.Body) (json.RawMessage, error) {
	if len(b) == 0 {
		return json.RawMessage("null"), nil
	}
	if err := ipc.Scan(b); err != nil {
		return nil, fmt.Errorf("not MessagePack: %w", err)
	}
	return encodeValue(nil, msgpack.NewDecoder(bytes.NewReader(b)))
}

func encodeValue(dst []byte, d *msgpack.Decoder) ([]byte, error) {
	c, err := d.PeekCode()
	if err != nil {
		return nil, err
	}
	switch {
	case c == msgpcode.Nil:
		return append(dst, "null"...), d.DecodeNil()
	case c == msgpcode.False || c == msgpcode.True:
		v, err := d.DecodeBool()
		return strconv.AppendBool(dst, v), err
	case c == msgpcode.Uint64:
		v, err := d.DecodeUint64()
		return strconv.AppendUint(dst, v, 10), err
	case msgpcode.IsFixedNum(c) || c >= msgpcode.Uint8 && c <= msgpcode.Int64:
		v, err := d.DecodeInt64()
		return strconv.AppendInt(dst, v, 10), err
	case c == msgpcode.Float:
		v, err := d.DecodeFloat32()
		return appendFloat(dst, float64(v), 32), err
	case c == msgpcode.Double:
		v, err := d.DecodeFloat64()
		return appendFloat(dst, v, 64), err
	case msgpcode.IsString(c):
		v, err := d.DecodeString()
		return appendString(dst, v), err
	case msgpcode.IsBin(c):
		v, err := d.DecodeBytes()
		return appendBase64(dst, v), err
	case msgpcode.IsFixedArray(c) || c == msgpcode.Array16 || c == msgpcode.Array32:
		return encodeArray(dst, d)
	case msgpcode.IsFixedMap(c) || c == msgpcode.Map16 || c == msgpcode.Map32:
		return encodeMap(dst, d)
	}
	return encodeExt(dst, d)
}

func encodeArray(dst []byte, d *msgpack.Decoder) ([]byte, error) {
	n, err := d.DecodeArrayLen()
	dst = append(dst, '[')
	for i := 0; i < n && err == nil; i++ {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst, err = encodeValue(dst, d)
	}
	return append(dst, ']'), err
}

func encodeMap(dst []byte, d *msgpack.Decoder) ([]byte, error) {
	n, err := d.DecodeMapLen()
	dst = append(dst, '{')
	for i := 0; i < n && err == nil; i++ {
		if i > 0 {
			dst = append(dst, ',')
		}
		var key []byte
		if key, err = encodeValue(nil, d); err != nil {
			return nil, err
		}
		if key[0] != '"' {
			key = appendString(nil, string(key))
		}
		dst = append(append(dst, key...), ':')
		dst, err = encodeValue(dst, d)
	}
	return append(dst, '}'), err
}

const extTimestamp = -1

func encodeExt(dst []byte, d *msgpack.Decoder) ([]byte, error) {
	raw, err := d.DecodeRaw()
	if err != nil {
		return nil, err
	}
	inner := msgpack.NewDecoder(bytes.NewReader(raw))
	id, size, err := inner.DecodeExtHeader()
	if err != nil {
		return nil, err
	}
	if id == extTimestamp && (size == 4 || size == 8 || size == 12) {
		if t, err := msgpack.NewDecoder(bytes.NewReader(raw)).DecodeTime(); err == nil {
			return appendString(dst, t.UTC().Format(time.RFC3339Nano)), nil
		}
	}
	dst = strconv.AppendInt(append(dst, `{"ext":`...), int64(id), 10)
	return append(appendBase64(append(dst, `,"data":`...), raw[len(raw)-size:]), '}'), nil
}

func appendFloat(dst []byte, v float64, bits int) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(dst, `"-Infinity"`...)
	}
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, bits)
}

// appendString writes a JSON string without the escapes that only HTML needs.
func appendString(dst []byte, s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}
