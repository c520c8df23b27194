package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/shm"
)

// serveHere serves actions in this process and returns the asking end.
func serveHere(t testing.TB, actions Actions) *ipc.Caller {
	t.Helper()
	supervisor, err := shm.NewHeap(shm.Geometry{S2W: 64 << 10, W2S: 64 << 10, Eventfd: true})
	if err != nil {
		t.Fatal(err)
	}
	asking, answering := ipc.SupervisorRing(supervisor, 1<<20), ipc.WorkerRing(supervisor, 1<<20)
	c := ipc.NewCaller(asking, ipc.Events{})
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run() })
	running.Go(func() {
		_ = ipc.Serve(context.Background(), answering, newHandler(actions, newStatus(supervisor), &arenas{}), ipc.ServeConfig{Strict: true})
	})
	t.Cleanup(func() {
		_ = asking.Close()
		running.Wait()
		gone := ipc.Errorf(ipc.Unavailable, "connection_lost", "the test is over")
		c.Close(gone, func(uint64) *ipc.Error { return gone })
		if err := supervisor.Check(); err != nil {
			t.Error(err)
		}
		if err := supervisor.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// callHere makes a call with a body and tensors, skips the chunks and returns its END.
func callHere(t *testing.T, c *ipc.Caller, action string, body any, tensors ...ipc.Tensor) (*ipc.Reply, error) {
	t.Helper()
	b, err := ipc.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	call, err := c.Start(&ipc.Request{Action: action, Body: b, Tensors: tensors}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for {
		r, err := call.Recv(bounded(t))
		if err != nil || r.End {
			return r, err
		}
	}
}

var zero int

type bizarreError struct{}

func (*bizarreError) Error() string { return "bad bytes: \xff\xfe" }

func TestErrorsOfActions(t *testing.T) {
	checkLeaks(t)
	own := &ipc.Error{Code: ipc.ResourceExhausted, Reason: "gpu_full", Message: "later", Details: map[string]string{"a": "b"}}
	unary := func(f func() error) Action {
		return Action{Unary: func(context.Context, *Request) (*Reply, error) { return nil, f() }}
	}
	deep := func() error { // a stack longer than what is sent of it
		var f func(int) error
		f = func(n int) error {
			if n == 0 {
				panic("deep")
			}
			return fmt.Errorf("%d: %w", n, f(n-1))
		}
		return f(1000)
	}
	c := serveHere(t, Actions{
		"own":       unary(func() error { return own }),
		"wrapped":   unary(func() error { return fmt.Errorf("wrapped: %w", own) }),
		"plain":     unary(func() error { return io.ErrUnexpectedEOF }),
		"bizarre":   unary(func() error { return &bizarreError{} }),
		"a context": unary(func() error { return context.DeadlineExceeded }), // of its own: the request has no deadline
		"panic":     unary(func() error { panic(fmt.Sprint("oh no \xff", 1)) }),
		"panic nil": unary(func() error { panic(nil) }), //nolint:govet // the point
		"runtime":   unary(func() error { return fmt.Errorf("%d", 1/zero) }),
		"deep":      unary(deep),
		"goexit":    unary(func() error { runtime.Goexit(); return nil }),
		"body":      {Unary: func(context.Context, *Request) (*Reply, error) { return &Reply{Body: make(chan int)}, nil }},
		"bytes":     {Unary: func(context.Context, *Request) (*Reply, error) { return &Reply{Body: ipc.Body{0xc1}}, nil }},
		"tensor": {Unary: func(context.Context, *Request) (*Reply, error) {
			return &Reply{Tensors: []ipc.Tensor{{DType: "float"}}}, nil
		}},
		"large": {Unary: func(context.Context, *Request) (*Reply, error) { return &Reply{Body: make([]byte, 2<<20)}, nil }},
		"stream": {Stream: func(_ context.Context, _ *Request, send func(*Reply) error) error {
			return errors.Join(send(nil), io.ErrUnexpectedEOF)
		}},
		"stream panics": {Stream: func(context.Context, *Request, func(*Reply) error) error { panic("in a stream") }},
		"stream of tensors": {Stream: func(_ context.Context, _ *Request, send func(*Reply) error) error {
			return send(&Reply{Tensors: []ipc.Tensor{{DType: "float"}}})
		}},
	})
	for _, w := range []struct {
		action string
		code   ipc.Code
		reason string
		says   string
		kind   string // details["type"]
	}{
		{"own", ipc.ResourceExhausted, "gpu_full", "later", ""},
		{"wrapped", ipc.ResourceExhausted, "gpu_full", "later", ""},
		{"plain", ipc.Internal, "handler", "unexpected EOF", "*errors.errorString"},
		{"bizarre", ipc.Internal, "handler", "bad bytes: \uFFFD", "*worker.bizarreError"},
		{"a context", ipc.Internal, "handler", "deadline exceeded", "context.deadlineExceededError"},
		{"panic", ipc.Internal, "handler", "oh no \uFFFD", "panic"},
		{"panic nil", ipc.Internal, "handler", "panic", "panic"},
		{"runtime", ipc.Internal, "handler", "divide by zero", "panic"},
		{"deep", ipc.Internal, "handler", "deep", "panic"},
		{"goexit", ipc.Internal, "handler", "Goexit", "goexit"},
		{"body", ipc.Internal, "handler", "cannot be sent", "reply"},
		{"bytes", ipc.Internal, "handler", "cannot be sent", "reply"},
		{"tensor", ipc.Internal, "handler", `unknown dtype "float"`, "reply"},
		{"large", ipc.ResourceExhausted, "too_large", "limit is 1048576", ""},
		{"stream", ipc.Internal, "handler", "unexpected EOF", "*errors.joinError"},
		{"stream panics", ipc.Internal, "handler", "in a stream", "panic"},
		{"stream of tensors", ipc.Internal, "handler", "cannot be sent", "reply"},
		{"nobody's", ipc.NotFound, "unknown_action", "this worker has a context, bizarre, body", ""},
		{"", ipc.NotFound, "unknown_action", "this worker has", ""},
	} {
		t.Run(w.action, func(t *testing.T) {
			_, err := callHere(t, c, w.action, nil)
			e := wantError(t, err, w.code, w.reason)
			if !strings.Contains(e.Message, w.says) || e.Details["type"] != w.kind {
				t.Errorf("got %q with details %v, want %q and type %q", e.Message, e.Details, w.says, w.kind)
			}
			trace, has := e.Details["traceback"]
			if wantTrace := w.kind == "panic" || w.kind == "goexit"; has != wantTrace || has && !strings.Contains(trace, "TestErrorsOfActions") && w.action != "deep" {
				t.Errorf("the traceback is %q", trace)
			}
			if len(trace) > maxTraceback || !utf8.ValidString(trace) || !utf8.ValidString(e.Message) {
				t.Errorf("a traceback of %d bytes", len(trace))
			}
		})
	}
}

func TestRepliesOfActions(t *testing.T) {
	checkLeaks(t)
	c := serveHere(t, Actions{
		"nothing": {Unary: func(context.Context, *Request) (*Reply, error) { return nil, nil }},
		"all": {Unary: func(context.Context, *Request) (*Reply, error) {
			return &Reply{Headers: map[string]string{"h": "1"}, Body: []int{1}, Tensors: []ipc.Tensor{{Name: "t", DType: "bool", Data: []byte{1}}}}, nil
		}},
	})
	r, err := callHere(t, c, "nothing", nil)
	if err != nil || !r.End || !r.Empty() {
		t.Errorf("nil: %+v, %v", r, err)
	}
	r, err = callHere(t, c, "all", nil)
	if err != nil || r.Headers["h"] != "1" || string(r.Body) != "\x91\x01" || r.Tensors[0].Name != "t" {
		t.Errorf("everything: %+v, %v", r, err)
	}
}

func TestActionsAreChecked(t *testing.T) {
	for name, a := range map[string]Actions{
		"none": {}, "no function": {"x": {}}, "both": {"x": {Unary: echo, Stream: count}}, "no name": {"": {Unary: echo}},
		"no such dtype": {"x": {Unary: echo, Outputs: []Port{{Name: "y", DType: "f4"}}}},
	} {
		if a.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := builtins.validate(); err != nil {
		t.Error(err)
	}
}
