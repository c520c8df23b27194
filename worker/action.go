package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ringmasterd/ringmaster/ipc"
)

// Request is what an action is asked. Its body is decoded with req.Body.Decode(&v), its tensors are found with req.Tensor(name). Its TraceID is a W3C traceparent, which OpenTelemetry's spans that are begun with the action's
// ctx are below; where a call answers several requests, each has its own and ctx none.
type Request = ipc.Request

// Reply is what an action answers, or one chunk of it.
type Reply struct {
	Headers map[string]string
	Body    any // anything MessagePack can encode, or an [ipc.Body] that already is
	Tensors []ipc.Tensor
	Context []byte // what the session's opaque bytes are from now on; of a stream the last chunk that has any counts. Empty: what they were
}

// Action is one thing that a worker can do. Exactly one of Unary, Stream and Batch is set. Each is called on a goroutine of its own (a Unary that takes microseconds on one that receives requests, too), at most as many at a time as the pool's
// concurrency says; ctx ends when the caller cancels or its deadline passes. An [ipc.Error] that they return reaches the caller as it is, any other error as INTERNAL/handler.
type Action struct {
	// Unary returns the whole answer. A nil Reply is an empty one.
	Unary func(ctx context.Context, req *Request) (*Reply, error)
	// Stream sends the answer in chunks. send blocks while the caller is behind; its error means that nobody is listening any more, and is to be returned.
	Stream func(ctx context.Context, req *Request, send func(*Reply) error) error

	// Batch answers several requests in one call, with one result for each in their order; an error is everybody's. How many come together the pool's configuration says
	// (`actions: {NAME: {batch: {max: 32, delay: 2ms}}}`); without it, and while others are idle, they come one at a time. ctx ends when nobody waits for any of them any more.
	Batch func(ctx context.Context, reqs []*Request) ([]Result, error)

	Idempotent bool // may be run again elsewhere if this worker dies in the middle

	// Inputs and Outputs say what it takes and answers, for those who ask how to call it (the Open Inference Protocol's metadata, `ringmaster status --json`). Requests are not held against them. Not to say it is as good.
	Inputs, Outputs []Port
}

// Port is an input or an output: a tensor, or with the dtype str strings in the body. Its shape has -1 for any length.
type Port = ipc.Port

// Actions are a worker's actions by name.
type Actions map[string]Action

func (a Actions) validate() error {
	if len(a) == 0 {
		return errors.New("worker: there are no actions to serve; give at least one")
	}
	for _, name := range a.names() {
		action := a[name]
		kinds := 0
		for _, set := range []bool{action.Unary != nil, action.Stream != nil, action.Batch != nil} {
			if set {
				kinds++
			}
		}
		switch {
		case name == "":
			return errors.New("worker: an action has no name")
		case kinds != 1:
			return fmt.Errorf("worker: action %q: set exactly one of Unary, Stream and Batch", name)
		}
		if err := (&ipc.Signature{Inputs: action.Inputs, Outputs: action.Outputs}).Validate(); err != nil {
			return fmt.Errorf("worker: action %q: %w", name, err)
		}
	}
	return nil
}

func (a Actions) names() []string { return slices.Sorted(maps.Keys(a)) }

// describe is what the hello says about the actions.
func (a Actions) describe() []ipc.Action {
	var list []ipc.Action
	for _, name := range a.names() {
		action := a[name]
		said := ipc.Action{Name: name, Stream: action.Stream != nil, Idempotent: action.Idempotent, Batchable: action.Batch != nil}
		if len(action.Inputs)+len(action.Outputs) > 0 {
			said.Signature = &ipc.Signature{Inputs: action.Inputs, Outputs: action.Outputs}
		}
		list = append(list, said)
	}
	return list
}
