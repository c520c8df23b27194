package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

// The control is gRPC as one would tune it for this: a codec that adds nothing to the payload and copies it once (on arrival; generated code does the same), no TLS, limits raised to Ringmaster's own,
// and one connection per hop.

const maxMessage = 64 << 20

// frame is a message: its payload and nothing else.
type frame struct{ payload []byte }

// rawCodec is the codec for frames.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*frame).payload)}, nil
}

func (rawCodec) Unmarshal(b mem.BufferSlice, v any) error {
	v.(*frame).payload = b.Materialize()
	return nil
}

const echoMethod = "/peers.Echo/Echo"

// echoer answers a frame with another.
type echoer interface {
	echo(ctx context.Context, in *frame) (*frame, error)
}

var echoService = grpc.ServiceDesc{
	ServiceName: "peers.Echo",
	HandlerType: (*echoer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &frame{}
			if err := decode(in); err != nil {
				return nil, err
			}
			return srv.(echoer).echo(ctx, in)
		},
	}},
}

func newGRPCServer(e echoer) *grpc.Server {
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	s.RegisterService(&echoService, e)
	return s
}

// viaGRPC calls over one connection.
type viaGRPC struct{ conn *grpc.ClientConn }

func dialGRPC(socket string) (viaGRPC, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.WaitForReady(true)))
	return viaGRPC{conn}, err
}

func (v viaGRPC) call(ctx context.Context, payload []byte) ([]byte, error) {
	out := frame{}
	err := v.conn.Invoke(ctx, echoMethod, &frame{payload}, &out)
	return out.payload, err
}

func (v viaGRPC) close() error { return v.conn.Close() }

// forward is the server in the middle: it passes requests on to its workers in turn.
type forward struct {
	workers []viaGRPC
	next    atomic.Uint32
}

func (f *forward) echo(ctx context.Context, in *frame) (*frame, error) {
	w := f.workers[int(f.next.Add(1)-1)%len(f.workers)]
	payload, err := w.call(ctx, in.payload)
	return &frame{payload}, err
}

func serveGRPC(ctx context.Context, socket string, workers int) error {
	f := &forward{}
	var stops []func()
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for i := range workers {
		w, stop, err := startGRPCWorker(ctx, fmt.Sprintf("%s.%d", socket, i))
		if err != nil {
			return err
		}
		f.workers, stops = append(f.workers, w), append(stops, stop)
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := newGRPCServer(f)
	closed := make(chan error, 1)
	go func() { closed <- s.Serve(ln) }()
	err = standBy()
	s.Stop()
	return errors.Join(err, <-closed)
}

// startGRPCWorker starts a worker process and makes one call to it. The process ends with its standard input.
func startGRPCWorker(ctx context.Context, socket string) (viaGRPC, func(), error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "grpc-worker", socket)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return viaGRPC{}, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return viaGRPC{}, nil, err
	}
	if err := cmd.Start(); err != nil {
		return viaGRPC{}, nil, err
	}
	end := func() {
		in.Close()
		_ = cmd.Wait()
	}
	if err := awaitReady(out); err != nil {
		end()
		return viaGRPC{}, nil, err
	}
	w, err := dialGRPC(socket)
	if err == nil {
		_, err = w.call(ctx, []byte("hello"))
	}
	if err != nil {
		end()
		return viaGRPC{}, nil, err
	}
	return w, func() {
		_ = w.close()
		end()
	}, nil
}

// worker answers with what it was sent.
type grpcWorker struct{}

func (grpcWorker) echo(_ context.Context, in *frame) (*frame, error) { return in, nil }

func serveGRPCWorker(socket string) error {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := newGRPCServer(grpcWorker{})
	closed := make(chan error, 1)
	go func() { closed <- s.Serve(ln) }()
	err = standBy()
	s.Stop()
	return errors.Join(err, <-closed)
}

// awaitReady waits for the line with which a process says that it is ready.
func awaitReady(out io.Reader) error {
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, line); err != nil {
		return fmt.Errorf("a process ended before it was ready: %w", err)
	}
	if strings.TrimSpace(string(line)) != "ready" {
		return fmt.Errorf("a process said %q instead of being ready", line)
	}
	return nil
}
