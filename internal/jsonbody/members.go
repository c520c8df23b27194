package jsonbody

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Members calls f with each member of a JSON object, in order, and stops at its first error. Nothing is kept of what was called before, so that an object of many members takes no more memory than its bytes.
func Members(object []byte, f func(key string, value json.RawMessage) error) error {
	return each(object, '{', "an object", func(in *json.Decoder) error {
		key, err := in.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return err
		}
		return f(key.(string), value)
	})
}

// Elements calls f with each element of a JSON array, likewise.
func Elements(array []byte, f func(value json.RawMessage) error) error {
	return each(array, '[', "an array", func(in *json.Decoder) error {
		var value json.RawMessage
		if err := in.Decode(&value); err != nil {
			return err
		}
		return f(value)
	})
}

func each(data []byte, open json.Delim, what string, f func(*json.Decoder) error) error {
	in := json.NewDecoder(bytes.NewReader(data))
	in.UseNumber()
	token, err := in.Token()
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("not JSON: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return fmt.Errorf("not JSON: %w", err)
	case token != open:
		return fmt.Errorf("not %s", what)
	}
	for in.More() {
		if err := f(in); err != nil {
			return err
		}
	}
	if _, err := in.Token(); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("not JSON: something follows the value at byte %d", in.InputOffset())
	}
	return nil
}
