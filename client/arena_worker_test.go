package client_test

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/worker"
)

// serveTestWorker is a worker with the builtin actions and those below.
func serveTestWorker(name string) error {
	actions, _ := worker.Builtin(name)
	actions = maps.Clone(actions)
	maps.Copy(actions, worker.Actions{
		"where":   {Unary: where},
		"invert":  {Unary: invert, Idempotent: true},
		"doomed":  {Unary: doomed, Idempotent: true},
		"late":    {Unary: late},
		"chunks":  {Stream: chunks},
		"inverts": {Batch: inverts, Idempotent: true},
	})
	return worker.Serve(context.Background(), actions)
}

// where says in which mapping each tensor lies.
func where(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	places := map[string]string{"pid": fmt.Sprint(os.Getpid()), "open": fmt.Sprint(openFiles(os.Getpid()))}
	for i := range req.Tensors {
		t := &req.Tensors[i]
		places[t.Name] = mappingOf(t.Data)
	}
	return &worker.Reply{Body: places}, nil
}

// mappingOf returns the name of the mapping in which the bytes lie, as /proc says.
func mappingOf(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to); err == nil && at >= from && at < to {
			fields := strings.Fields(lines.Text())
			return strings.Join(fields[5:], " ")
		}
	}
	return ""
}

// openFiles counts a process's descriptors.
func openFiles(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// invert answers with the inverted bytes of x, as y, written where the requester would like them.
func invert(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	x := req.Tensor("x")
	y, err := req.Output("y", x.DType, x.Shape...)
	if err != nil {
		return nil, err
	}
	for i, b := range x.Data {
		y.Data[i] = ^b
	}
	return &worker.Reply{Body: mappingOf(y.Data), Tensors: []ipc.Tensor{y}}, nil
}

// doomed writes half of its answer and dies, the first time, which a file that it makes tells from others.
func doomed(ctx context.Context, req *worker.Request) (*worker.Reply, error) {
	var file string
	if err := req.Body.Decode(&file); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return invert(ctx, req)
	}
	_ = f.Close()
	x := req.Tensor("x")
	if y, err := req.Output("y", x.DType, x.Shape...); err == nil {
		copy(y.Data[:len(y.Data)/2], "rubbish")
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// late makes a file, does not listen to its caller, and answers once another file is there.
func late(ctx context.Context, req *worker.Request) (*worker.Reply, error) {
	var files struct {
		Begun string `msgpack:"begun"`
		Until string `msgpack:"until"`
	}
	if err := req.Body.Decode(&files); err != nil {
		return nil, err
	}
	if err := os.WriteFile(files.Begun, nil, 0o600); err != nil {
		return nil, err
	}
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for range poll.C {
		if _, err := os.Stat(files.Until); err == nil {
			break
		}
	}
	return invert(ctx, req)
}

// chunks answers three times with the inverted bytes of x.
func chunks(ctx context.Context, req *worker.Request, send func(*worker.Reply) error) error {
	for range 3 {
		r, err := invert(ctx, req)
		if err != nil {
			return err
		}
		if err := send(r); err != nil {
			return err
		}
	}
	return nil
}

// inverts is invert for several at a time.
func inverts(ctx context.Context, reqs []*worker.Request) ([]worker.Result, error) {
	results := make([]worker.Result, len(reqs))
	for i, req := range reqs {
		results[i].Reply, results[i].Err = invert(ctx, req)
	}
	return results, nil
}
