package supervisor

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/worker"
)

// serveTestWorker is a worker with the builtin actions and those below.
func serveTestWorker() error {
	actions, _ := worker.Builtin("echo")
	actions = maps.Clone(actions)
	maps.Copy(actions, worker.Actions{
		"hold":   {Stream: hold},
		"until":  {Unary: until},
		"record": {Unary: record},
		"gauge":  {Unary: gauge},
		"frail":  {Stream: frail, Idempotent: true},
		"fatal":  {Stream: frail},
		"quiet":  {Stream: quiet, Idempotent: true},
		"bundle": {Batch: bundle, Idempotent: true},
		"print":  {Unary: printLines},
		"fork":   {Unary: fork},
		"swell":  {Unary: swell},
		"self": {Unary: func(context.Context, *worker.Request) (*worker.Reply, error) {
			return &worker.Reply{Body: map[string]int{"pid": os.Getpid(), "death_signal": int(deathSignal)}}, nil
		}},
		"declared": {Unary: until, Inputs: declared.Inputs, Outputs: declared.Outputs},
		"credit": {Unary: func(_ context.Context, req *worker.Request) (*worker.Reply, error) {
			return &worker.Reply{Body: req.Credit}, nil
		}},
	})
	return worker.Serve(context.Background(), actions)
}

// declared is what the worker says of its action of that name.
var declared = ipc.Signature{
	Inputs:  []ipc.Port{{Name: "image", DType: "uint8", Shape: []int64{-1, -1, 3}}, {Name: "file", DType: ipc.TextType, Shape: []int64{1}}},
	Outputs: []ipc.Port{{Name: "embedding", DType: "float32", Shape: []int64{384}}},
}

// deathSignal is this process's PDEATHSIG. It is the main thread's, on which packages are initialised.
var deathSignal = func() (signal int32) {
	_ = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0, 0, 0)
	return signal
}()

// hold answers with its pid, and then waits for its caller: with a credit of 1 the last chunk cannot leave before the one before it was taken.
func hold(_ context.Context, _ *worker.Request, send func(*worker.Reply) error) error {
	return errors.Join(send(&worker.Reply{Body: os.Getpid()}), send(&worker.Reply{}), send(&worker.Reply{}))
}

// until returns once the file is there, whatever its caller wants.
func until(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	var args struct {
		File string `msgpack:"file"`
	}
	if err := req.Body.Decode(&args); err != nil {
		return nil, err
	}
	await(args.File)
	return &worker.Reply{}, nil
}

// await waits until the file is there.
func await(file string) {
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for range poll.C {
		if _, err := os.Stat(file); err == nil {
			return
		}
	}
}

type recordArgs struct {
	File string `msgpack:"file"`
	Line string `msgpack:"line"`
}

// record appends a line to a file, so that it can be counted how often and in which order requests were run.
func record(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	var args recordArgs
	if err := req.Body.Decode(&args); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(args.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_, err = f.WriteString(args.Line + "\n")
	return &worker.Reply{Body: os.Getpid()}, err
}

type frailArgs struct {
	recordArgs
	Deaths int `msgpack:"deaths"` // so many runs die
	Chunks int `msgpack:"chunks"` // sent before
}

// frail records that it runs, sends some chunks, and dies, unless it has died often enough; then it answers with its pid.
func frail(ctx context.Context, req *worker.Request, send func(*worker.Reply) error) error {
	var args frailArgs
	if err := req.Body.Decode(&args); err != nil {
		return err
	}
	if _, err := record(ctx, req); err != nil {
		return err
	}
	for i := range args.Chunks {
		if err := send(&worker.Reply{Body: i}); err != nil {
			return err
		}
	}
	all, err := os.ReadFile(args.File)
	if err != nil {
		return err
	}
	runs := 0
	for line := range strings.Lines(string(all)) {
		if line == args.Line+"\n" {
			runs++
		}
	}
	if runs <= args.Deaths {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return send(&worker.Reply{Body: os.Getpid()})
}

type quietArgs struct {
	recordArgs
	Deaf  bool `msgpack:"deaf"`  // it does not listen to its context
	Times int  `msgpack:"times"` // so many runs are quiet
}

// quiet says nothing until it is told to stop; a run after those answers at once.
func quiet(ctx context.Context, req *worker.Request, send func(*worker.Reply) error) error {
	var args quietArgs
	if err := req.Body.Decode(&args); err != nil {
		return err
	}
	if _, err := record(ctx, req); err != nil {
		return err
	}
	all, err := os.ReadFile(args.File)
	if err != nil {
		return err
	}
	if strings.Count(string(all), "\n") > args.Times {
		return send(&worker.Reply{Body: os.Getpid()})
	}
	if args.Deaf {
		select {}
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

type bundleArgs struct {
	recordArgs
	Deaths int    `msgpack:"deaths"` // so many runs die
	Fail   bool   `msgpack:"fail"`   // with an error of its own
	Until  string `msgpack:"until"`  // the run lasts until this file is there
}

// bundle records the lines of its requests as one, and answers each with how many there are.
func bundle(_ context.Context, reqs []*worker.Request) ([]worker.Result, error) {
	results := make([]worker.Result, len(reqs))
	args := make([]bundleArgs, len(reqs))
	var lines []string
	for i, req := range reqs {
		if err := req.Body.Decode(&args[i]); err != nil {
			return nil, err
		}
		lines = append(lines, args[i].Line)
	}
	file, err := os.OpenFile(args[0].File, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.WriteString(strings.Join(lines, " ") + "\n"); err != nil {
		return nil, err
	}
	all, err := os.ReadFile(args[0].File)
	if err != nil {
		return nil, err
	}
	for i, a := range args {
		if strings.Count(string(all), a.Line) <= a.Deaths {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		if a.Until != "" {
			await(a.Until)
		}
		results[i].Reply = &worker.Reply{Body: len(reqs)}
		if a.Fail {
			results[i].Err = errors.New("as it was told to")
		}
	}
	return results, nil
}

var gauged, gaugedMost atomic.Int64

// gauge answers with the most of its kind that ever ran at a time.
func gauge(context.Context, *worker.Request) (*worker.Reply, error) {
	n := gauged.Add(1)
	defer gauged.Add(-1)
	for most := gaugedMost.Load(); n > most && !gaugedMost.CompareAndSwap(most, n); most = gaugedMost.Load() {
	}
	for range 100 { // let others in
		runtime.Gosched()
	}
	return &worker.Reply{Body: gaugedMost.Load()}, nil
}

// printLines prints a line of so many bytes, and then "the last line".
func printLines(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	var n int
	if err := req.Body.Decode(&n); err != nil {
		return nil, err
	}
	_, err := io.WriteString(os.Stdout, strings.Repeat("x", n)+"\nthe last line\n")
	return &worker.Reply{}, err
}

// fork starts a child that outlives its parent and answers with its pid. It shares the worker's stdout and stderr, and leaves the worker's process group if it is to escape.
func fork(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	var escape bool
	if err := req.Body.Decode(&escape); err != nil {
		return nil, err
	}
	child := exec.Command("sleep", "1000")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: escape}
	if err := child.Start(); err != nil {
		return nil, err
	}
	go child.Wait()
	return &worker.Reply{Body: child.Process.Pid}, nil
}

// swell takes so many bytes of memory, if they are to be had.
func swell(_ context.Context, req *worker.Request) (*worker.Reply, error) {
	var n int
	if err := req.Body.Decode(&n); err != nil {
		return nil, err
	}
	taken := make([]byte, n)
	for i := 0; i < len(taken); i += os.Getpagesize() {
		taken[i] = 1
	}
	return &worker.Reply{Body: len(taken)}, nil
}
