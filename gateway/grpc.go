package gateway

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/proto/inference"
	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// grpcFront has the services that are asked for by gRPC. It is a [grpc.ServiceRegistrar], so that generated code and gRPC's own services are at home in it; what lies below them, HTTP/2 and frames, is not gRPC's
// server but this one's, so that a message is paid for before it is read: docs/decisions/0012-grpc.md.
//
//	web.ServeHTTP ─▶ grpcFront.serve ─▶ grpcCall (frames ⇄ messages) ─▶ generated code ─▶ an adapter ─▶ exchange.call
type grpcFront struct {
	web      *web
	services map[string]*grpcService // immutable once routes has returned
}

type grpcService struct {
	desc    *grpc.ServiceDesc
	impl    any
	unary   map[string]*grpc.MethodDesc
	streams map[string]*grpc.StreamDesc
}

func newGRPC(w *web) *grpcFront {
	f := &grpcFront{web: w, services: map[string]*grpcService{}}
	inference.RegisterGRPCInferenceServiceServer(f, inferer{web: w})
	ringmasterv1.RegisterRingmasterServer(f, ringmaster{})
	healthpb.RegisterHealthServer(f, grpcHealth{front: f})
	reflection.Register(f)
	return f
}

// RegisterService implements [grpc.ServiceRegistrar].
func (f *grpcFront) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s := &grpcService{desc: desc, impl: impl, unary: map[string]*grpc.MethodDesc{}, streams: map[string]*grpc.StreamDesc{}}
	for i := range desc.Methods {
		s.unary[desc.Methods[i].MethodName] = &desc.Methods[i]
	}
	for i := range desc.Streams {
		s.streams[desc.Streams[i].StreamName] = &desc.Streams[i]
	}
	f.services[desc.ServiceName] = s
}

// GetServiceInfo implements [reflection.ServiceInfoProvider].
func (f *grpcFront) GetServiceInfo() map[string]grpc.ServiceInfo {
	all := map[string]grpc.ServiceInfo{}
	for name, s := range f.services {
		info := grpc.ServiceInfo{Metadata: s.desc.Metadata}
		for name := range s.unary {
			info.Methods = append(info.Methods, grpc.MethodInfo{Name: name})
		}
		for name, d := range s.streams {
			info.Methods = append(info.Methods, grpc.MethodInfo{Name: name, IsClientStream: d.ClientStreams, IsServerStream: d.ServerStreams})
		}
		all[name] = info
	}
	return all
}

// speaksGRPC reports whether a request is a call of gRPC.
func speaksGRPC(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && (kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+"))
}

// serve answers one call.
func (f *grpcFront) serve(rw http.ResponseWriter, r *http.Request) {
	x := f.web.exchange(rw, r)
	switch kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case r.ProtoMajor != 2:
		x.json(http.StatusHTTPVersionNotSupported, errorDocument(ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "gRPC needs HTTP/2; this is %s", r.Proto)))
		return
	case kind != "application/grpc" && kind != "application/grpc+proto":
		x.json(http.StatusUnsupportedMediaType, errorDocument(ipc.Errorf(ipc.InvalidArgument, "unsupported_encoding", "the content type is %s; it must be application/grpc, with messages of Protocol Buffers", kind)))
		return
	}
	c := &grpcCall{exchange: x}
	defer c.close()
	c.end(c.serve(f))
}

// serve has the method that was called answer.
func (c *grpcCall) serve(f *grpcFront) error {
	if c.draining() {
		return errDraining
	}
	if e := c.begin(); e != nil {
		return e
	}
	limit, e := grpcTimeout(c.r.Header.Get("Grpc-Timeout"))
	if e != nil {
		return e
	}
	c.ctx = context.WithValue(c.r.Context(), grpcCallKey{}, c)
	if limit > 0 {
		var cancel context.CancelFunc
		c.ctx, cancel = context.WithTimeout(c.ctx, limit)
		defer cancel()
	}
	name, method, _ := strings.Cut(strings.TrimPrefix(c.r.URL.Path, "/"), "/")
	s := f.services[name]
	if s == nil {
		return ipc.Errorf(ipc.Unimplemented, "unknown_method", "there is no service %q; reflection lists those that there are", name)
	}
	if m := s.unary[method]; m != nil {
		answer, err := m.Handler(s.impl, c.ctx, c.RecvMsg, nil)
		if err != nil {
			return err
		}
		return c.SendMsg(answer)
	}
	if m := s.streams[method]; m != nil {
		if c.streaming = m.ClientStreams; c.streaming {
			defer c.untilLeaving()()
		}
		return m.Handler(s.impl, c)
	}
	return ipc.Errorf(ipc.Unimplemented, "unknown_method", "the service %s has no method %q; reflection lists those that there are", name, method)
}

// grpcTimeout reads the header grpc-timeout: up to eight digits and a unit. 0: there is none.
func grpcTimeout(text string) (time.Duration, *ipc.Error) {
	if text == "" {
		return 0, nil
	}
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	unit := units[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 64)
	if unit == 0 || err != nil || len(text) > 9 {
		return 0, ipc.Errorf(ipc.InvalidArgument, "invalid_argument", "grpc-timeout is %q; it must be up to eight digits and one of H, M, S, m, u, n", outline([]byte(text)))
	}
	if n > uint64(1<<63-1)/uint64(unit) {
		return 0, nil // for ever
	}
	return max(time.Duration(n)*unit, 1), nil // what is over is a deadline, too
}

// grpcCodes are gRPC's numbers; the names are the same.
var grpcCodes = map[ipc.Code]codes.Code{
	ipc.InvalidArgument: codes.InvalidArgument, ipc.NotFound: codes.NotFound, ipc.PermissionDenied: codes.PermissionDenied, ipc.ResourceExhausted: codes.ResourceExhausted,
	ipc.Unavailable: codes.Unavailable, ipc.DeadlineExceeded: codes.DeadlineExceeded, ipc.Cancelled: codes.Canceled, ipc.Aborted: codes.Aborted, ipc.Internal: codes.Internal,
	ipc.Unimplemented: codes.Unimplemented, ipc.DataLoss: codes.DataLoss,
}

const (
	errorDomain   = "ringmaster" // of ErrorInfo
	maxStatusText = 1 << 10      // bytes of a message, and of each detail: all of a status is in headers, of which clients take 8 KiB
)

// statusOf is an error as gRPC has it, with ErrorInfo, and RetryInfo where trying again later helps.
func statusOf(err error) *status.Status {
	var e *ipc.Error
	if s, ok := status.FromError(err); ok && !errors.As(err, &e) {
		return s
	}
	e = ipc.AsError(err)
	code, known := grpcCodes[e.Code]
	switch {
	case !known: // a worker may send any
		code = codes.Unknown
	case e.Reason == "too_large": // as frames have it
		code = codes.ResourceExhausted
	}
	info := &errdetails.ErrorInfo{Reason: shortened(e.Reason), Domain: errorDomain, Metadata: map[string]string{}}
	room := maxStatusText
	for key, value := range e.Details {
		key, value = shortened(key), shortened(value)
		if room -= len(key) + len(value); room < 0 {
			break
		}
		info.Metadata[key] = value
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if e.RetryAfter > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)}))
	}
	plain := status.New(code, shortened(e.Message))
	full, err := plain.WithDetails(details...)
	if err != nil {
		return plain
	}
	return full
}

// shortened is text as a status can hold it.
func shortened(s string) string {
	if len(s) > maxStatusText/2 {
		s = s[:maxStatusText/2] + "…"
	}
	return clean(s)
}

// end says how the call ended: the trailers.
func (c *grpcCall) end(err error) {
	c.headers()
	s := status.New(codes.OK, "")
	switch {
	case errors.Is(err, io.EOF): // as generated code passes it on
		s = statusOf(ipc.Errorf(ipc.InvalidArgument, "bad_body", "the call has no message"))
	case err != nil:
		s = statusOf(err)
	}
	h := c.w.Header()
	h.Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(int(s.Code())))
	if s.Message() != "" {
		h.Set(http.TrailerPrefix+"Grpc-Message", percentEncoded(s.Message()))
	}
	if len(s.Details()) > 0 {
		if b, err := proto.Marshal(s.Proto()); err == nil {
			h.Set(http.TrailerPrefix+"Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(b))
		}
	}
}

// percentEncoded is a message as the header grpc-message has it.
func percentEncoded(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
