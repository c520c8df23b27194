package jsonbody

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ringmasterd/ringmaster/ipc"
)

// The keys under which tensors lie in JSON, beside a body's own or beside the body.
const (
	TensorsKey = "$tensors"
	bodyKey    = "$body"
)

// tensor is a tensor in JSON.
type tensor struct {
	Name  string   `json:"name"`
	DType string   `json:"dtype"`
	Shape []uint64 `json:"shape"`
	Data  []byte   `json:"data"` // base64: row-major, little-endian
}

// DecodeMessage turns one JSON value into a body and tensors. An object with the key $tensors, written without escapes, has them there; its other members are the body, or its member $body is, whatever that is.
func DecodeMessage(data []byte) (ipc.Body, []ipc.Tensor, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) || !bytes.Contains(data, []byte(`"`+TensorsKey+`"`)) {
		b, err := Decode(data)
		return b, nil, err
	}
	var tensors []ipc.Tensor
	var body json.RawMessage
	found := false
	rest := []byte("{")
	err := Members(data, func(key string, value json.RawMessage) (err error) {
		switch key {
		case TensorsKey:
			if found {
				return fmt.Errorf("%s is there twice", TensorsKey)
			}
			found = true
			tensors, err = decodeTensors(value)
			return err
		case bodyKey:
			body = value
			return nil
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(appendString(rest, key), ':'), value...)
		return nil
	})
	switch {
	case err != nil:
		return nil, nil, err
	case !found: // it was deeper down
		body = data
	case body == nil && len(rest) > 1:
		rest = append(rest, '}')
		body = rest
	case body == nil:
		return nil, tensors, nil
	case len(rest) > 1:
		return nil, nil, fmt.Errorf("%s stands beside other keys than %s; put them into it", bodyKey, TensorsKey)
	}
	b, err := Decode(body)
	return b, tensors, err
}

func decodeTensors(array []byte) ([]ipc.Tensor, error) {
	var list []ipc.Tensor
	err := Elements(array, func(value json.RawMessage) error {
		var t tensor
		if err := json.Unmarshal(value, &t); err != nil {
			var typed *json.UnmarshalTypeError
			if errors.As(err, &typed) {
				return fmt.Errorf("%s: element %d: %s is a %s; a tensor is {name, dtype, shape, data: base64}", TensorsKey, len(list), typed.Field, typed.Value)
			}
			return fmt.Errorf("%s: element %d: %w; a tensor is {name, dtype, shape, data: base64}", TensorsKey, len(list), err)
		}
		list = append(list, ipc.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: t.Data})
		return list[len(list)-1].Validate()
	})
	return list, err
}

// EncodeMessage turns a body and tensors into JSON that DecodeMessage reads.
func EncodeMessage(b ipc.Body, tensors []ipc.Tensor) (json.RawMessage, error) {
	body, err := Encode(b)
	if err != nil || len(tensors) == 0 {
		return body, err
	}
	dst := appendTensors([]byte(`{"`+TensorsKey+`":`), tensors)
	switch {
	case len(b) == 0:
		return append(dst, '}'), nil
	case body[0] != '{':
		return append(append(append(dst, `,"`+bodyKey+`":`...), body...), '}'), nil
	case len(body) == len("{}"):
		return append(dst, '}'), nil
	}
	return append(append(dst, ','), body[1:]...), nil
}

func appendTensors(dst []byte, tensors []ipc.Tensor) []byte {
	dst = append(dst, '[')
	for i, t := range tensors {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(append(dst, `{"name":`...), t.Name), `,"dtype":`...)
		dst = append(appendString(dst, t.DType), `,"shape":[`...)
		for j, n := range t.Shape {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = fmt.Append(dst, n)
		}
		dst = append(dst, `],"data":"`...)
		dst = append(base64.StdEncoding.AppendEncode(dst, t.Data), `"}`...)
	}
	return append(dst, ']')
}
