package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/trace"

	rm "github.com/ringmasterd/ringmaster/worker"
)

// serveTestWorker is the test binary as a worker in Go; testdata/hangs.py and testdata/record.py are the like of it in Python. It returns the exit status.
func serveTestWorker() int {
	actions, _ := rm.Builtin("echo")
	hang := actions["hang"].Unary
	actions = maps.Clone(actions)
	maps.Copy(actions, rm.Actions{
		"chat":         {Stream: chat},
		"pid":          {Unary: func(context.Context, *rm.Request) (*rm.Reply, error) { return &rm.Reply{Body: os.Getpid()}, nil }, Idempotent: true},
		"stuck":        {Unary: hang},
		"hang":         {Unary: once(hang), Idempotent: true},
		"record":       {Unary: recordLine},
		"record_again": {Unary: recordLine, Idempotent: true},
		"told":         {Unary: tellTrace},
	})
	if err := rm.Serve(context.Background(), actions); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// tellTrace answers with the trace that the request is part of, as it was told and as OpenTelemetry has it.
func tellTrace(ctx context.Context, req *rm.Request) (*rm.Reply, error) {
	span := trace.SpanContextFromContext(ctx)
	return &rm.Reply{Body: told{req.TraceID, span.TraceID().String() + "-" + span.SpanID().String(), span.TraceState().String()}}, nil
}

// chatted is what chat answers, as JSON in its text.
type chatted struct {
	PID      int      `json:"pid"`
	Turn     int      `json:"turn"`     // how often the session's context has been here
	Messages int      `json:"messages"` // how many came
	Asked    []string `json:"asked"`    // what those of the user say
}

// chat answers, in two pieces, with what it was sent; the session's context counts its turns. body.wait has it wait for its end after the first piece.
func chat(ctx context.Context, req *rm.Request, send func(*rm.Reply) error) error {
	var body struct {
		Messages []struct {
			Role    string `msgpack:"role"`
			Content string `msgpack:"content"`
		} `msgpack:"messages"`
		Wait bool `msgpack:"wait"`
	}
	if err := req.Body.Decode(&body); err != nil {
		return err
	}
	said := chatted{PID: os.Getpid(), Messages: len(body.Messages)}
	said.Turn, _ = strconv.Atoi(string(req.Context))
	for _, m := range body.Messages {
		if m.Role == "user" {
			said.Asked = append(said.Asked, m.Content)
		}
	}
	text, err := json.Marshal(said)
	if err != nil {
		return err
	}
	half := len(text) / 2
	if err := send(&rm.Reply{Body: map[string]string{"text": string(text[:half])}, Context: []byte(strconv.Itoa(said.Turn + 1))}); err != nil {
		return err
	}
	if body.Wait {
		<-ctx.Done()
		return ctx.Err()
	}
	return send(&rm.Reply{Body: map[string]string{"text": string(text[half:])}})
}

// once runs the action, and on a second try, to be known by the file body.once, answers "second".
func once(action func(context.Context, *rm.Request) (*rm.Reply, error)) func(context.Context, *rm.Request) (*rm.Reply, error) {
	return func(ctx context.Context, req *rm.Request) (*rm.Reply, error) {
		var args struct {
			Once string `msgpack:"once"`
		}
		if err := req.Body.Decode(&args); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(args.Once, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, os.ErrExist) {
			return &rm.Reply{Body: "second"}, nil
		}
		if err != nil {
			return nil, err
		}
		f.Close()
		return action(ctx, req)
	}
}

// recordLine appends body.line to body.file, so that it can be counted how often a request ran, and answers with the line and body.size bytes.
func recordLine(_ context.Context, req *rm.Request) (*rm.Reply, error) {
	var args struct {
		File string `msgpack:"file"`
		Line string `msgpack:"line"`
		Size int    `msgpack:"size"`
	}
	if err := req.Body.Decode(&args); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(args.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.WriteString(args.Line + "\n"); err != nil {
		return nil, err
	}
	return &rm.Reply{Body: map[string]any{"line": args.Line, "filling": slices.Repeat([]byte(args.Line[:1]), args.Size)}}, nil
}
