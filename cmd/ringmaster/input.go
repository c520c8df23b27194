package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/internal/tensorfile"
	"github.com/ringmasterd/ringmaster/ipc"
)

// request makes the call's body and options of the flags, and says how large an arena is that has room for its tensors.
func (f *callFlags) request(stdin io.Reader) (_ ipc.Body, _ []client.CallOption, arena int, err error) {
	body, err := readBody(f.data, stdin)
	if err != nil {
		return nil, nil, 0, err
	}
	if f.timeout < 0 {
		return nil, nil, 0, fmt.Errorf("--timeout %v: use a positive duration, such as 30s", f.timeout)
	}
	opts := []client.CallOption{client.WithTimeout(f.timeout)}
	for _, arg := range f.tensors {
		name, file, ok := pair(arg)
		file, isFile := strings.CutPrefix(file, "@")
		if !ok || !isFile {
			return nil, nil, 0, fmt.Errorf("--tensor %s: use name=@file, as in image=@page.png", arg)
		}
		t, err := tensorfile.Read(name, file)
		if err != nil {
			return nil, nil, 0, fmt.Errorf("--tensor %s: %w", name, err)
		}
		arena += len(t.Data) + 64 // begins at a multiple of that
		opts = append(opts, client.WithTensors(t))
	}
	headers := map[string]string{}
	for _, arg := range f.headers {
		key, value, ok := pair(arg)
		if !ok {
			return nil, nil, 0, fmt.Errorf("--header %s: use key=value", arg)
		}
		headers[key] = value
	}
	return body, append(opts, client.WithHeaders(headers)), arena, nil
}

// readBody reads JSON from the argument itself, from @file, or from stdin for -.
func readBody(arg string, stdin io.Reader) (ipc.Body, error) {
	var data []byte
	var err error
	switch file, isFile := strings.CutPrefix(arg, "@"); {
	case arg == "":
		return nil, nil
	case arg == "-":
		data, err = io.ReadAll(stdin)
	case isFile:
		data, err = os.ReadFile(file)
	default:
		data = []byte(arg)
	}
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	body, err := jsonbody.Decode(data)
	if err != nil {
		return nil, fmt.Errorf(`--data: %w; text needs quotes of its own, as in --data '"hello"'`, err)
	}
	return body, nil
}
