package gateway

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/ringmasterd/ringmaster/ipc"
)

// textType is the datatype whose elements are strings or bytes; all others are of tensors.
const textType = "BYTES"

// dtypes are NumPy's names for datatypes.
var dtypes = map[string]string{
	"BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
	"FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "bfloat16",
}

// datatypes are the other way round.
var datatypes = func() map[string]string {
	m := map[string]string{}
	for datatype, dtype := range dtypes {
		m[dtype] = datatype
	}
	return m
}()

// elements is how many a shape has, false if that is more than limit.
func elements(shape []uint64, limit uint64) (uint64, bool) {
	n := uint64(1)
	for _, d := range shape {
		if d == 0 {
			return 0, true
		}
	}
	for _, d := range shape {
		if n *= d; d > limit || n > limit {
			return 0, false
		}
	}
	return n, true
}

// leaves calls f with each element of a list of lists of any depth. Preconditions: it is JSON.
func leaves(list []byte, f func(leaf []byte) error) error {
	for i := 0; i < len(list); {
		end := i + 1
		switch c := list[i]; c {
		case ' ', '\t', '\r', '\n', ',', '[', ']':
			i++
			continue
		case '{':
			return errors.New("an element is an object; data is a list of numbers, booleans or strings, or of such lists")
		case '"':
			for list[end] != '"' {
				if list[end] == '\\' {
					end++
				}
				end++
			}
			end++
		default:
			for end < len(list) && list[end] != ',' && list[end] != ']' && list[end] > ' ' {
				end++
			}
		}
		if err := f(list[i:end]); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// appendLeaf appends an element of JSON as a tensor of a datatype has it.
func appendLeaf(dst []byte, datatype string, leaf []byte) ([]byte, error) {
	order := binary.LittleEndian
	wrong := func(error) ([]byte, error) {
		return nil, fmt.Errorf("an element of %s is %s, which is none or out of range", datatype, outline(leaf))
	}
	s := string(leaf)
	switch datatype {
	case "BOOL":
		switch s {
		case "true":
			return append(dst, 1), nil
		case "false":
			return append(dst, 0), nil
		}
		return wrong(nil)
	case "FP16", "BF16", "FP32", "FP64":
		v, err := parseFloat(s, datatype)
		if err != nil {
			return wrong(err)
		}
		switch datatype {
		case "FP16":
			return order.AppendUint16(dst, toHalf(float32(v))), nil
		case "BF16":
			return order.AppendUint16(dst, toBfloat(float32(v))), nil
		case "FP32":
			return order.AppendUint32(dst, math.Float32bits(float32(v))), nil
		}
		return order.AppendUint64(dst, math.Float64bits(v)), nil
	case "INT8", "INT16", "INT32", "INT64":
		bits := bitsOf(datatype)
		v, err := strconv.ParseInt(s, 10, bits)
		if err != nil {
			return wrong(err)
		}
		return appendBits(dst, uint64(v), bits), nil
	case "UINT8", "UINT16", "UINT32", "UINT64":
		bits := bitsOf(datatype)
		v, err := strconv.ParseUint(s, 10, bits)
		if err != nil {
			return wrong(err)
		}
		return appendBits(dst, v, bits), nil
	}
	return wrong(nil)
}

func bitsOf(datatype string) int { return 8 * int(ipc.ItemSize(dtypes[datatype])) }

func appendBits(dst []byte, v uint64, bits int) []byte {
	switch bits {
	case 8:
		return append(dst, byte(v))
	case 16:
		return binary.LittleEndian.AppendUint16(dst, uint16(v))
	case 32:
		return binary.LittleEndian.AppendUint32(dst, uint32(v))
	}
	return binary.LittleEndian.AppendUint64(dst, v)
}

// parseFloat reads a number, or one of the strings for what JSON has no numbers for.
func parseFloat(s, datatype string) (float64, error) {
	switch s {
	case `"NaN"`:
		return math.NaN(), nil
	case `"Infinity"`:
		return math.Inf(1), nil
	case `"-Infinity"`:
		return math.Inf(-1), nil
	}
	if s == "" || s[0] != '-' && (s[0] < '0' || s[0] > '9') {
		return 0, strconv.ErrSyntax
	}
	bits := 32
	if datatype == "FP64" {
		bits = 64
	}
	return strconv.ParseFloat(s, bits)
}

// appendElements appends the elements of a tensor as JSON, with commas between them.
func appendElements(dst []byte, datatype string, data []byte) []byte {
	size := bitsOf(datatype) / 8
	for i := 0; i+size <= len(data); i += size {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendElement(dst, datatype, data[i:i+size])
	}
	return dst
}

func appendElement(dst []byte, datatype string, b []byte) []byte {
	order := binary.LittleEndian
	switch datatype {
	case "BOOL":
		return strconv.AppendBool(dst, b[0] != 0)
	case "UINT8":
		return strconv.AppendUint(dst, uint64(b[0]), 10)
	case "INT8":
		return strconv.AppendInt(dst, int64(int8(b[0])), 10)
	case "UINT16":
		return strconv.AppendUint(dst, uint64(order.Uint16(b)), 10)
	case "INT16":
		return strconv.AppendInt(dst, int64(int16(order.Uint16(b))), 10)
	case "UINT32":
		return strconv.AppendUint(dst, uint64(order.Uint32(b)), 10)
	case "INT32":
		return strconv.AppendInt(dst, int64(int32(order.Uint32(b))), 10)
	case "UINT64":
		return strconv.AppendUint(dst, order.Uint64(b), 10)
	case "INT64":
		return strconv.AppendInt(dst, int64(order.Uint64(b)), 10)
	case "FP16":
		return appendFloat(dst, float64(fromHalf(order.Uint16(b))), 32)
	case "BF16":
		return appendFloat(dst, float64(math.Float32frombits(uint32(order.Uint16(b))<<16)), 32)
	case "FP32":
		return appendFloat(dst, float64(math.Float32frombits(order.Uint32(b))), 32)
	}
	return appendFloat(dst, math.Float64frombits(order.Uint64(b)), 64)
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
	return strconv.AppendFloat(dst, v, 'g', -1, bits)
}

// toBfloat rounds to the nearest, to even where two are as near.
func toBfloat(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v { // stays one, whatever is cut off
		return uint16(bits>>16) | 1<<6
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// toHalf rounds likewise.
func toHalf(v float32) uint16 {
	bits := math.Float32bits(v)
	sign, exponent, fraction := uint16(bits>>16)&0x8000, int(bits>>23&0xff)-127, bits&0x7fffff
	switch {
	case exponent == 128 && fraction != 0:
		return sign | 0x7e00
	case exponent > 15:
		return sign | 0x7c00
	case exponent < -25:
		return sign
	}
	shift := 13
	value := uint32(exponent+15)<<23 | fraction
	if exponent < -14 { // subnormal
		shift += -14 - exponent
		value = fraction | 1<<23
	}
	half := value >> shift
	if rest, middle := value&(1<<shift-1), uint32(1)<<(shift-1); rest > middle || rest == middle && half&1 == 1 {
		half++
	}
	return sign | uint16(half)
}

func fromHalf(h uint16) float32 {
	sign, exponent, fraction := uint32(h&0x8000)<<16, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exponent {
	case 0:
		v := float32(fraction) / (1 << 24)
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31:
		return math.Float32frombits(sign | 0xff<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}

// splitTexts takes the elements of BYTES apart, each of which stands behind its length: four bytes, little-endian.
func splitTexts(data []byte, count uint64) ([][]byte, error) {
	if count > uint64(len(data))/4 {
		return nil, fmt.Errorf("%d bytes hold no %d elements, each behind a length of four bytes", len(data), count)
	}
	texts := make([][]byte, 0, count)
	for len(data) > 0 {
		if len(data) < 4 || uint64(binary.LittleEndian.Uint32(data)) > uint64(len(data)-4) {
			return nil, fmt.Errorf("element %d is longer than what there is", len(texts))
		}
		n := 4 + int(binary.LittleEndian.Uint32(data))
		if texts = append(texts, data[4:n:n]); uint64(len(texts)) > count {
			break
		}
		data = data[n:]
	}
	return texts, counted(uint64(len(texts)), count)
}

func counted(got, want uint64) error {
	if got != want {
		return fmt.Errorf("there are %d elements or more, but the shape has %d", got, want)
	}
	return nil
}

// joinTexts puts them together.
func joinTexts(texts [][]byte) []byte {
	size := 0
	for _, text := range texts {
		size += 4 + len(text)
	}
	data := make([]byte, 0, size)
	for _, text := range texts {
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(text))), text...)
	}
	return data
}

// readable reports whether all elements of BYTES can be strings of JSON.
func readable(texts [][]byte) bool {
	for _, text := range texts {
		if !utf8.Valid(text) {
			return false
		}
	}
	return true
}

// appendTexts appends elements of BYTES as strings of JSON, with commas between them: as they are, or in base64.
func appendTexts(dst []byte, texts [][]byte, encoded bool) []byte {
	for i, text := range texts {
		if i > 0 {
			dst = append(dst, ',')
		}
		if encoded {
			dst = append(base64.StdEncoding.AppendEncode(append(dst, '"'), text), '"')
			continue
		}
		b, err := json.Marshal(string(text))
		if err != nil { // of a string: it does not happen
			b = []byte(`""`)
		}
		dst = append(dst, b...)
	}
	return dst
}

// parseText reads an element of BYTES: a string.
func parseText(leaf []byte, encoded bool) ([]byte, error) {
	var s string
	if err := json.Unmarshal(leaf, &s); err != nil {
		return nil, fmt.Errorf("an element of BYTES is %s; it must be a string", outline(leaf))
	}
	if !encoded {
		return []byte(s), nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("an element is not base64, which content_type says: %w", err)
	}
	return b, nil
}
