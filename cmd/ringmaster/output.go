package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/internal/jsonbody"
	"github.com/ringmasterd/ringmaster/ipc"
)

// print prints a call's replies: each at once if streaming or in JSON, otherwise as one value when all are there.
func (a *app) print(replies iter.Seq2[*client.Reply, error], stream bool) error {
	switch {
	case a.json:
		return a.printLines(replies)
	case stream:
		return a.printChunks(replies)
	}
	return a.printWhole(replies)
}

// replyJSON is how --json prints a reply, in one line.
type replyJSON struct {
	Body    json.RawMessage   `json:"body"`
	Headers map[string]string `json:"headers"`
	Tensors []tensorJSON      `json:"tensors"`
}

type tensorJSON struct {
	Name  string   `json:"name"`
	DType string   `json:"dtype"`
	Shape []uint64 `json:"shape"`
	Data  []byte   `json:"data"` // base64
}

// printLines prints each reply as an object.
func (a *app) printLines(replies iter.Seq2[*client.Reply, error]) error {
	out := json.NewEncoder(a.out)
	out.SetEscapeHTML(false)
	for r, err := range replies {
		if err != nil {
			return err
		}
		line := replyJSON{Headers: r.Headers, Tensors: []tensorJSON{}}
		if line.Headers == nil {
			line.Headers = map[string]string{}
		}
		if line.Body, err = bodyJSON(r); err != nil {
			return err
		}
		for _, t := range r.Tensors {
			if t.Shape == nil {
				t.Shape = []uint64{}
			}
			line.Tensors = append(line.Tensors, tensorJSON{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: t.Data})
		}
		if err := out.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// printChunks prints the text of each chunk that has one as it is, and other chunks as lines of JSON.
func (a *app) printChunks(replies iter.Seq2[*client.Reply, error]) error {
	midLine := false
	defer func() {
		if midLine {
			fmt.Fprintln(a.out)
		}
	}()
	for r, err := range replies {
		if err != nil {
			return err
		}
		a.mentionDegraded(r)
		if text, ok := textOf(r.Body); ok {
			if text != "" {
				midLine = !strings.HasSuffix(text, "\n")
			}
			if _, err := io.WriteString(a.out, text); err != nil {
				return err
			}
			continue
		}
		if midLine {
			fmt.Fprintln(a.out)
			midLine = false
		}
		if err := a.printBody(r); err != nil {
			return err
		}
	}
	return nil
}

// textOf returns the string under "text" in a body that is a map with one.
func textOf(b ipc.Body) (string, bool) {
	var chunk struct {
		Text *string `msgpack:"text"`
	}
	if len(b) == 0 || b.Decode(&chunk) != nil || chunk.Text == nil {
		return "", false
	}
	return *chunk.Text, true
}

// printWhole prints an answer as it is, and chunks as one array.
func (a *app) printWhole(replies iter.Seq2[*client.Reply, error]) error {
	var chunks []json.RawMessage
	for r, err := range replies {
		if err != nil {
			return err
		}
		a.mentionDegraded(r)
		if r.Last && chunks == nil {
			return a.printBody(r)
		}
		chunk, err := bodyJSON(r)
		if err != nil {
			return err
		}
		chunks = append(chunks, chunk)
		a.mentionTensors(r)
	}
	if chunks == nil { // nothing came but an END without a body
		_, err := fmt.Fprintln(a.out, "null")
		return err
	}
	out := json.NewEncoder(a.out)
	out.SetEscapeHTML(false)
	return out.Encode(chunks)
}

func (a *app) printBody(r *client.Reply) error {
	body, err := bodyJSON(r)
	if err != nil {
		return err
	}
	a.mentionTensors(r)
	_, err = fmt.Fprintf(a.out, "%s\n", body)
	return err
}

// mentionDegraded says on stderr that something else took the place of the answer.
func (a *app) mentionDegraded(r *client.Reply) {
	if what := r.Headers["degraded"]; what != "" {
		fmt.Fprintf(a.err, "degraded: %s\n", what)
	}
}

// mentionTensors says on stderr what the printed body leaves out.
func (a *app) mentionTensors(r *client.Reply) {
	for _, t := range r.Tensors {
		fmt.Fprintf(a.err, "tensor %s: %s %v, %d bytes (--json prints the data)\n", t.Name, t.DType, t.Shape, len(t.Data))
	}
}

func bodyJSON(r *client.Reply) (json.RawMessage, error) {
	body, err := jsonbody.Encode(r.Body)
	if err != nil {
		return nil, fmt.Errorf("the answer's body cannot be printed: %w", err)
	}
	return body, nil
}
