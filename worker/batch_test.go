package worker

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

// startBatch sends requests for action that are one call, and returns what becomes of each.
func startBatch(t *testing.T, c *ipc.Caller, action string, bodies ...any) []*ipc.Call {
	t.Helper()
	var calls []*ipc.Call
	var ids []uint64
	for _, v := range bodies {
		b, err := ipc.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		call, err := c.Start(&ipc.Request{Action: action, Body: b, Held: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		calls, ids = append(calls, call), append(ids, call.ID())
	}
	c.Batch(ids)
	return calls
}

// doubled answers each number with its double and how many there were; "bad" is an error of its own, and a number below 0 one of all.
func doubled(_ context.Context, reqs []*Request) ([]Result, error) {
	results := make([]Result, len(reqs))
	for i, req := range reqs {
		var v any
		if err := req.Body.Decode(&v); err != nil {
			return nil, err
		}
		n, ok := toFloat(v)
		switch {
		case !ok:
			results[i].Err = ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "not a number")
		case n < 0:
			return nil, errors.New("below zero")
		default:
			results[i].Reply = &Reply{Body: []int{int(2 * n), len(reqs)}}
		}
	}
	return results, nil
}

func wantDoubled(t *testing.T, call *ipc.Call, want ...int) {
	t.Helper()
	r, err := call.Recv(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	if err := r.Body.Decode(&got); err != nil || !r.End || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

func wantFailure(t *testing.T, call *ipc.Call, code ipc.Code, reason, says string) {
	t.Helper()
	_, err := call.Recv(bounded(t))
	if e := ipc.AsError(err); e == nil || e.Code != code || e.Reason != reason || !strings.Contains(e.Message, says) {
		t.Errorf("got %v, want %s/%s with %q", err, code, reason, says)
	}
}

func TestBatches(t *testing.T) {
	checkLeaks(t)
	c := serveHere(t, Actions{
		"double": {Batch: doubled},
		"plain":  {Unary: echo},
		"few":    {Batch: func(context.Context, []*Request) ([]Result, error) { return make([]Result, 1), nil }},
		"panic":  {Batch: func(context.Context, []*Request) ([]Result, error) { panic("ouch") }},
		"exit": {Batch: func(context.Context, []*Request) ([]Result, error) {
			runtime.Goexit()
			return nil, nil
		}},
	})
	calls := startBatch(t, c, "double", 1, "bad", 3)
	wantDoubled(t, calls[0], 2, 3)
	wantFailure(t, calls[1], ipc.InvalidArgument, "invalid_argument", "not a number")
	wantDoubled(t, calls[2], 6, 3)
	for _, call := range startBatch(t, c, "double", 1, -1) {
		wantFailure(t, call, ipc.Internal, "handler", "below zero")
	}
	for _, call := range startBatch(t, c, "few", 1, 2) {
		wantFailure(t, call, ipc.Internal, "handler", "1 results for a batch of 2 requests")
	}
	for _, call := range startBatch(t, c, "panic", 1, 2) {
		wantFailure(t, call, ipc.Internal, "handler", "ouch")
	}
	for _, call := range startBatch(t, c, "exit", 1, 2) {
		wantFailure(t, call, ipc.Internal, "handler", "Goexit")
	}
	for _, call := range startBatch(t, c, "nothing", 1, 2) {
		wantFailure(t, call, ipc.NotFound, "unknown_action", "nothing")
	}
	for _, call := range startBatch(t, c, "plain", 1, 2) { // a supervisor that does not listen
		if r, err := call.Recv(bounded(t)); err != nil || !r.End {
			t.Error(r, err)
		}
	}
	r, err := callHere(t, c, "double", 4) // one that comes alone
	var got []int
	if err != nil || r.Body.Decode(&got) != nil || got[0] != 8 || got[1] != 1 {
		t.Errorf("got %v (%v)", got, err)
	}
}

// The context of a batch ends with the last one who waits for it.
func TestABatchIsCancelledByItsLastMember(t *testing.T) {
	checkLeaks(t)
	began, ended := make(chan struct{}), make(chan error, 1)
	c := serveHere(t, Actions{"wait": {Batch: func(ctx context.Context, _ []*Request) ([]Result, error) {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	}}})
	calls := startBatch(t, c, "wait", 1, 2)
	await(t, began, "the action")
	calls[0].Cancel("cancelled")
	if err := c.Ping(bounded(t)); err != nil { // what was sent before it has been read
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the batch was cancelled (%v), though one waits for it", err)
	default:
	}
	calls[1].Cancel("cancelled")
	if err := await(t, ended, "the batch's end"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
