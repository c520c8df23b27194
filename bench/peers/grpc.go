package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// The control is gRPC as one would tune it for this: a codec that adds nothing to the payload and copies it once (on arrival; generated code does the same), no TLS, limits raised to Ringmaster's own,
// and one connection per hop.

const maxMessage = 64 << 20

// frameMessage is a message: its payload and nothing else.
type frameMessage struct{ payload []byte }

// rawCodec is the codec for them. It is asked for by name, so that a server may speak protobuf as well, as go-plugin's does.
type rawCodec struct{}

const rawName = "raw"

func init() { encoding.RegisterCodecV2(rawCodec{}) }

func (rawCodec) Name() string { return rawName }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*frameMessage).payload)}, nil
}

func (rawCodec) Unmarshal(b mem.BufferSlice, v any) error {
	v.(*frameMessage).payload = b.Materialize()
	return nil
}

// grpcService has a method for each action.
func grpcService() *grpc.ServiceDesc {
	s := &grpc.ServiceDesc{ServiceName: "peers.Work", HandlerType: (*any)(nil)}
	for _, action := range []string{"echo", "frame", "spin"} {
		s.Methods = append(s.Methods, grpc.MethodDesc{
			MethodName: action,
			Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				in := &frameMessage{}
				if err := decode(in); err != nil {
					return nil, err
				}
				payload, err := srv.(handler)(ctx, action, in.payload)
				return &frameMessage{payload}, err
			},
		})
	}
	return s
}

func grpcServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage)}
}

func serveGRPC(socket string, h handler) (stop func(), err error) {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer(grpcServerOptions()...)
	s.RegisterService(grpcService(), h)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(ln)
	}()
	return func() {
		s.Stop()
		<-ended
	}, nil
}

// viaGRPC calls over one connection.
type viaGRPC struct{ conn *grpc.ClientConn }

func grpcCallOptions() []grpc.CallOption {
	return []grpc.CallOption{grpc.CallContentSubtype(rawName), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.WaitForReady(true)}
}

func dialGRPC(_ context.Context, socket string) (caller, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpcCallOptions()...))
	if err != nil {
		return nil, err
	}
	return viaGRPC{conn}, nil
}

func (v viaGRPC) call(ctx context.Context, action string, payload []byte) ([]byte, error) {
	out := frameMessage{}
	err := v.conn.Invoke(ctx, "/peers.Work/"+action, &frameMessage{payload}, &out, grpcCallOptions()...)
	return out.payload, err
}

func (v viaGRPC) close() error { return v.conn.Close() }
