package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"go.opentelemetry.io/otel/trace"

	rm "github.com/ringmasterd/ringmaster/worker"
)

// serveTestWorker is the test binary as a worker in Go; testdata/hangs.py and testdata/record.py are the like of it in Python. It returns the exit status.
func serveTestWorker() int {
	actions, _ := rm.Builtin("echo")
	hang := actions["hang"].Unary
	actions = maps.Clone(actions)
	maps.Copy(actions, rm.Actions{
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
