package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ringmasterd/ringmaster/ipc"
	"github.com/ringmasterd/ringmaster/proto/inference"
	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// grpcDial connects gRPC's own client.
func grpcDial(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// asIPC reads an error back.
func asIPC(t testing.TB, err error) *ipc.Error {
	t.Helper()
	s, ok := status.FromError(err)
	if !ok {
		t.Fatalf("no status: %v", err)
	}
	e := &ipc.Error{Message: s.Message()}
	for code, number := range grpcCodes {
		if number == s.Code() {
			e.Code = code
		}
	}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = d.GetReason()
			if d.GetDomain() != errorDomain {
				t.Errorf("the domain is %q", d.GetDomain())
			}
			if len(d.GetMetadata()) > 0 {
				e.Details = d.GetMetadata()
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

func TestGRPCCalls(t *testing.T) {
	s := start(t, newBabel(), Config{})
	c, ctx := ringmasterv1.NewRingmasterClient(grpcDial(t, s.path)), patient(t)
	in := &ringmasterv1.CallRequest{Pool: "p", Action: "echo", Body: &ringmasterv1.CallRequest_Json{Json: `{"b":1,"a":[true,null,"ü"]}`}, Tensors: []*ringmasterv1.Tensor{{Name: "x", Dtype: "int16", Shape: []uint64{2}, Data: []byte{1, 2, 3, 4}}}}
	out, err := c.Call(ctx, in)
	if err != nil || out.GetJson() != in.GetJson() || len(out.GetTensors()) != 1 || !proto.Equal(out.GetTensors()[0], in.GetTensors()[0]) {
		t.Errorf("%v, %v", out, err)
	}
	if out, err := c.Call(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "echo", Body: &ringmasterv1.CallRequest_Msgpack{Msgpack: []byte{0x92, 1, 2}}}); err != nil || string(out.GetMsgpack()) != "\x92\x01\x02" {
		t.Errorf("%v, %v", out, err)
	}
	large := strings.Repeat("0123456789abcdef", 1<<18)
	for name, options := range map[string][]grpc.CallOption{"plain": nil, "gzip": {grpc.UseCompressor(gzip.Name)}} {
		if out, err := c.Call(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "echo", Body: &ringmasterv1.CallRequest_Json{Json: `"` + large + `"`}}, options...); err != nil || out.GetJson() != `"`+large+`"` {
			t.Errorf("a large one, %s: %d bytes, %v", name, len(out.GetJson()), err)
		}
	}
	stream, err := c.Stream(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "count"})
	if err != nil {
		t.Fatal(err)
	}
	for want := range 3 {
		if out, err := stream.Recv(); err != nil || string(out.GetMsgpack()) != string([]byte{byte(want + 1)}) {
			t.Errorf("chunk %d: %v, %v", want, out, err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	for name, bad := range map[string]*ringmasterv1.CallRequest{
		"bad_body":         {Pool: "p", Action: "echo", Body: &ringmasterv1.CallRequest_Json{Json: `{`}},
		"bad_tensor":       {Pool: "p", Action: "echo", Tensors: []*ringmasterv1.Tensor{{Dtype: "int7"}}},
		"invalid_argument": {Pool: "p", Action: "echo", Timeout: nil, Body: nil, Headers: nil, Tensors: nil, Traceparent: ""},
	} {
		if name == "invalid_argument" {
			continue
		}
		if _, err := c.Call(ctx, bad); asIPC(t, err).Reason != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Call(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "echo", Body: &ringmasterv1.CallRequest_Msgpack{Msgpack: []byte{0x92, 1}}}); asIPC(t, err).Reason != "bad_body" {
		t.Errorf("half a body: %v", err)
	}
	if _, err := c.Call(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "count"}); asIPC(t, err).Reason != "stream" {
		t.Errorf("a stream that is called: %v", err)
	}
}

// Deadlines and cancellation reach the chain; metadata becomes headers, and headers metadata.
func TestGRPCMetadata(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{})
	c := ringmasterv1.NewRingmasterClient(grpcDial(t, s.path))
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := metadata.AppendToOutgoingContext(patient(t), "traceparent", trace, "x-ringmaster-session", "s1", "x-ringmaster-timeout", "1500", "other", "x")
	out, err := c.Call(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "inspect", Body: &ringmasterv1.CallRequest_Json{Json: "1"}})
	if err != nil || !strings.Contains(out.GetJson(), `"timeout_ms":1500,"trace":"`+trace+`"`) || !strings.Contains(out.GetJson(), `"headers":1`) {
		t.Errorf("%s, %v", out.GetJson(), err)
	}
	var header metadata.MD
	out, err = c.Call(ctx, &ringmasterv1.CallRequest{Pool: "p", Action: "mirror", Headers: map[string]string{"Session": "s2", "priority": "high"}}, grpc.Header(&header))
	if err != nil || out.GetHeaders()["session"] != "s2" || out.GetHeaders()["priority"] != "high" || !slices.Equal(header.Get("x-ringmaster-session"), []string{"s2"}) {
		t.Errorf("%v, %v, %v", out, header, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Call(short, &ringmasterv1.CallRequest{Pool: "p", Action: "block"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a deadline: %v", err)
	}
	await(t, b.ended, "the request to begin")
	if why := await(t, b.ended, "the deadline to reach the chain"); why != "deadline" && why != "cancelled" { // whoever is first: the client resets the stream, too
		t.Errorf("it ended with %s", why)
	}
	leaving, leave := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	go func() {
		_, err := c.Call(leaving, &ringmasterv1.CallRequest{Pool: "p", Action: "block"})
		failed <- err
	}()
	await(t, b.ended, "the request to begin")
	leave()
	if why := await(t, b.ended, "the cancellation to reach the chain"); why != "cancelled" {
		t.Errorf("it ended with %s", why)
	}
	<-failed
}

// Many requests share a stream: what blocks blocks nobody, each can be cancelled, each ends once.
func TestConverse(t *testing.T) {
	b := newBabel()
	s := start(t, b, Config{MaxInFlight: 8})
	stream, err := ringmasterv1.NewRingmasterClient(grpcDial(t, s.path)).Converse(patient(t), grpc.UseCompressor(gzip.Name))
	if err != nil {
		t.Fatal(err)
	}
	say := func(id uint64, action string) {
		t.Helper()
		if err := stream.Send(&ringmasterv1.ConverseRequest{Id: id, What: &ringmasterv1.ConverseRequest_Call{Call: &ringmasterv1.CallRequest{Pool: "p", Action: action, Body: &ringmasterv1.CallRequest_Json{Json: "7"}}}}); err != nil {
			t.Fatal(err)
		}
	}
	hear := func() *ringmasterv1.ConverseReply {
		t.Helper()
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	say(1, "block")
	await(t, b.ended, "the first to begin")
	say(2, "echo")
	if out := hear(); out.GetId() != 2 || out.GetEnd().GetJson() != "7" {
		t.Errorf("%v", out)
	}
	say(3, "count")
	for want := range 4 {
		if out := hear(); out.GetId() != 3 || want < 3 && out.GetChunk() == nil || want == 3 && out.GetEnd() == nil {
			t.Errorf("%v", out)
		}
	}
	say(1, "echo")
	if out := hear(); out.GetId() != 1 || out.GetError().GetReason() != "duplicate_id" {
		t.Errorf("%v", out)
	}
	say(4, "UNAVAILABLE")
	if out := hear(); out.GetError().GetCode() != "UNAVAILABLE" || out.GetError().GetRetryAfter().AsDuration() != 1500*time.Millisecond || out.GetError().GetDetails()["type"] != "T" {
		t.Errorf("%v", out)
	}
	if err := stream.Send(&ringmasterv1.ConverseRequest{Id: 9}); err != nil || hear().GetError().GetReason() != "invalid_argument" {
		t.Errorf("an empty message: %v", err)
	}
	for id := range uint64(7) {
		say(10+id, "block")
		await(t, b.ended, "it to begin")
	}
	say(20, "echo")
	if out := hear(); out.GetId() != 20 || out.GetError().GetReason() != "too_many_requests" {
		t.Errorf("%v", out)
	}
	if err := stream.Send(&ringmasterv1.ConverseRequest{Id: 1, What: &ringmasterv1.ConverseRequest_Cancel{Cancel: &ringmasterv1.Cancel{}}}); err != nil {
		t.Fatal(err)
	}
	if out := hear(); out.GetId() != 1 || out.GetError().GetCode() != "CANCELLED" {
		t.Errorf("%v", out)
	}
	for id := range uint64(7) {
		if err := stream.Send(&ringmasterv1.ConverseRequest{Id: 10 + id, What: &ringmasterv1.ConverseRequest_Cancel{}}); err != nil {
			t.Fatal(err)
		}
		hear()
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

func TestGRPCHealth(t *testing.T) {
	s := start(t, manager(newFake(), healthOf(false, "no worker")), Config{})
	conn, ctx := grpcDial(t, s.path), patient(t)
	c := healthpb.NewHealthClient(conn)
	for _, service := range []string{"", "grpc.health.v1.Health", "ringmaster.v1.Ringmaster"} {
		if out, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: service}); err != nil || out.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
			t.Errorf("%q: %v, %v", service, out, err)
		}
	}
	list, err := c.List(ctx, &healthpb.HealthListRequest{})
	if err != nil || list.GetStatuses()["a"].GetStatus() != healthpb.HealthCheckResponse_SERVING || list.GetStatuses()["b"].GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v, %v", list, err)
	}
	if out, err := inference.NewGRPCInferenceServiceClient(conn).ServerReady(ctx, &inference.ServerReadyRequest{}); err != nil || out.GetReady() {
		t.Errorf("%v, %v", out, err)
	}
}

// A watcher hears of changes, and of the server's end.
func TestGRPCHealthWatch(t *testing.T) {
	up := make(chan bool, 1)
	up <- true
	ok := true
	s := start(t, backendFunc(func(context.Context, *ipc.Request) (ipc.Replies, error) {
		select {
		case ok = <-up:
		default:
		}
		body, err := ipc.Marshal(healthOf(ok, "")["health"])
		return &echoReplies{body: body}, err
	}), Config{})
	stream, err := healthpb.NewHealthClient(grpcDial(t, s.path)).Watch(patient(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		if out, err := stream.Recv(); err != nil || out.GetStatus() != want {
			t.Errorf("%v, %v, want %v", out, err, want)
		}
		up <- false
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); asIPC(t, err).Reason != "draining" {
		t.Errorf("the end: %v", err)
	}
}

// What reflection tells is enough to know every service.
func TestGRPCReflection(t *testing.T) {
	s := start(t, newBabel(), Config{})
	stream, err := reflectionpb.NewServerReflectionClient(grpcDial(t, s.path)).ServerReflectionInfo(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(in *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(in); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var names []string
	for _, service := range ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	for _, want := range []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", "inference.GRPCInferenceService", "ringmaster.v1.Ringmaster"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %v", want, names)
		}
		out := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: want}})
		if len(out.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("%s: %v", want, out)
		}
	}
	if err := s.stop(); err != nil { // a stream that asks for nothing holds up nobody
		t.Error(err)
	}
}

// frames posts bytes as the body of a call, and returns its status.
func frames(t testing.TB, c *http.Client, method string, body []byte, headers ...string) (code, message string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST", "http://h/"+method, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != 200 {
		return answer.Status, ""
	}
	return answer.Trailer.Get("Grpc-Status"), answer.Trailer.Get("Grpc-Message")
}

func grpcFrame(flag byte, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(b))), b...)
}

// Whatever comes instead of a call is answered with a status, costs no more than it is, and others do not notice.
func TestBadGRPC(t *testing.T) {
	const call = "ringmaster.v1.Ringmaster/Call"
	s := start(t, newBabel(), Config{MaxMessage: 1 << 16, ReadTimeout: 200 * time.Millisecond})
	c, neighbour := browser(t, s.path, 2), dial(t, s.path)
	good, err := proto.Marshal(&ringmasterv1.CallRequest{Pool: "p", Action: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	blocked, err := proto.Marshal(&ringmasterv1.CallRequest{Pool: "p", Action: "block"})
	if err != nil {
		t.Fatal(err)
	}
	var nothings []byte
	for range 1 << 14 {
		nothings = append(nothings, 0x2a, 0) // inputs: {}
	}
	for _, tt := range []struct {
		name, method string
		body         []byte
		headers      []string
		code         codes.Code
	}{
		{"nothing", call, nil, nil, codes.InvalidArgument},
		{"half a prefix", call, []byte{0, 0}, nil, codes.Canceled},
		{"a length that is not there", call, append([]byte{0, 0, 0, 1, 0}, good...), nil, codes.Canceled},
		{"a length of gigabytes", call, []byte{0, 0xff, 0xff, 0xff, 0xff, 1}, nil, codes.ResourceExhausted},
		{"a flag of another protocol", call, grpcFrame(2, good), nil, codes.InvalidArgument},
		{"compressed, nobody knows how", call, grpcFrame(1, good), nil, codes.InvalidArgument},
		{"compressed in an unknown way", call, grpcFrame(1, good), []string{"Grpc-Encoding", "snappy"}, codes.Unimplemented},
		{"no gzip", call, grpcFrame(1, good), []string{"Grpc-Encoding", "gzip"}, codes.InvalidArgument},
		{"no zstd", call, grpcFrame(1, good), []string{"Grpc-Encoding", "zstd"}, codes.InvalidArgument},
		{"a bomb", call, grpcFrame(1, zipped(t, codingGzip, 1<<24)), []string{"Grpc-Encoding", "gzip"}, codes.ResourceExhausted},
		{"a bomb of zstd", call, grpcFrame(1, zipped(t, codingZstd, 1<<24)), []string{"Grpc-Encoding", "zstd"}, codes.ResourceExhausted},
		{"no message", call, grpcFrame(0, []byte("\xff\xff\xff\xff\xff")), nil, codes.InvalidArgument},
		{"no UTF-8", call, grpcFrame(0, []byte("\x0a\x02\xff\xfe")), nil, codes.InvalidArgument},
		{"nesting", call, grpcFrame(0, []byte(strings.Repeat("\x0b", 1<<15))), nil, codes.InvalidArgument},
		{"a flood of nothings", "inference.GRPCInferenceService/ModelInfer", grpcFrame(0, nothings), nil, codes.InvalidArgument},
		{"an unknown service", "no.Such/Call", grpcFrame(0, good), nil, codes.Unimplemented},
		{"an unknown method", "ringmaster.v1.Ringmaster/Hang", grpcFrame(0, good), nil, codes.Unimplemented},
		{"no method", "ringmaster.v1.Ringmaster", grpcFrame(0, good), nil, codes.Unimplemented},
		{"a timeout that is none", call, grpcFrame(0, good), []string{"Grpc-Timeout", "5x"}, codes.InvalidArgument},
		{"a timeout that is over", call, grpcFrame(0, blocked), []string{"Grpc-Timeout", "0n"}, codes.DeadlineExceeded},
		{"a timeout without end", call, grpcFrame(0, good), []string{"Grpc-Timeout", "99999999H"}, codes.OK},
		{"a good one", call, grpcFrame(0, good), nil, codes.OK},
	} {
		if code, message := frames(t, c, tt.method, tt.body, tt.headers...); code != itoa(tt.code) {
			t.Errorf("%s: %s %s, want %d", tt.name, code, message, tt.code)
		}
		neighbour.echo(t)
	}
	if code, _ := frames(t, c, call, grpcFrame(0, good), "Content-Type", "application/grpc+json"); !strings.HasPrefix(code, "415") {
		t.Errorf("messages of JSON: %s", code)
	}
	if code, _ := frames(t, browser(t, s.path, 1), call, grpcFrame(0, good)); !strings.HasPrefix(code, "505") {
		t.Errorf("HTTP/1.1: %s", code)
	}
	body, stop := io.Pipe() // one that says half a message, and nothing more
	defer stop.Close()
	go func() { _, _ = stop.Write([]byte{0, 0, 0, 1, 0, 1, 2, 3}) }()
	r, err := http.NewRequestWithContext(patient(t), "POST", "http://h/"+call, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	if code := answer.Trailer.Get("Grpc-Status"); code != itoa(codes.DeadlineExceeded) {
		t.Errorf("half a message: %s", code)
	}
	eventually(t, "everything to be given back", func() bool { return s.clients.memory.Used() == 0 })
}

func itoa(c codes.Code) string {
	return map[codes.Code]string{0: "0", 1: "1", 3: "3", 4: "4", 8: "8", 12: "12"}[c]
}

// A message that its client has no room for is refused before it is read.
func TestGRPCMemory(t *testing.T) {
	s := start(t, newBabel(), Config{MaxMessage: 1 << 20, Memory: 4 << 20})
	c := browser(t, s.path, 2)
	many := make([]byte, 0, 1<<20)
	for len(many) < 1<<19 {
		many = append(many, 0x2a, 0) // half a million bytes become messages of many times that
	}
	if code, message := frames(t, c, "inference.GRPCInferenceService/ModelInfer", grpcFrame(0, many)); code != "8" || !strings.Contains(message, "memory") {
		t.Errorf("%s %s", code, message)
	}
	if code, message := frames(t, c, "ringmaster.v1.Ringmaster/Call", grpcFrame(0, append([]byte("\x0a\x01p\x12\x04echo\x1a\x80\x80\x20"), append([]byte{0xc6, 0, 7, 0xff, 0xfb}, make([]byte, 1<<19-5)...)...))); code != "0" {
		t.Errorf("as many bytes: %s %s", code, message)
	}
}

// Streams that are opened and reset as fast as it goes neither stop others nor leave anything.
func TestRapidReset(t *testing.T) {
	s := start(t, newBabel(), Config{})
	neighbour := dial(t, s.path)
	conn := connect(t, s.path)
	go func() {
		_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
		// :method POST, :scheme http, :path /rpc, :authority h, without an index
		block := append([]byte{0x83, 0x86, 0x04, 0x04}, "/rpc\x01\x01h"...)
		for id := uint32(1); id < 40001; id += 2 {
			b := append([]byte{0, 0, byte(len(block)), 1, 4}, 0, 0, 0, 0)
			binary.BigEndian.PutUint32(b[5:], id)
			b = append(b, block...)
			b = append(b, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 8)
			binary.BigEndian.PutUint32(b[len(b)-8:], id)
			if _, err := conn.Write(b); err != nil {
				return // it was hung up on
			}
		}
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	for range 20 {
		neighbour.echo(t)
	}
	wantClosed(t, conn)
	eventually(t, "everything to be given back", func() bool { return s.clients.memory.Used() == 0 })
}

// Headers without end cost the connection that sends them, not its neighbours.
func TestHeaderFloods(t *testing.T) {
	s := start(t, newBabel(), Config{})
	neighbour, c := dial(t, s.path), browser(t, s.path, 2)
	r, err := http.NewRequestWithContext(patient(t), "GET", "http://h/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		r.Header.Add("X-Ringmaster-Flood", strings.Repeat("x", i%100))
	}
	if answer, err := c.Do(r); err == nil {
		answer.Body.Close()
		if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("many headers: %s", answer.Status)
		}
	}
	neighbour.echo(t)
	conn := connect(t, s.path)
	go func() { // headers that go on in frame after frame, and never end
		_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
		_, _ = conn.Write([]byte("\x00\x00\x01\x01\x00\x00\x00\x00\x01\x83"))
		more := append([]byte("\x00\x40\x00\x09\x00\x00\x00\x00\x01"), strings.Repeat("\x00\x01a\x01b", 1<<14/5+1)[:1<<14]...)
		for range 1000 {
			if _, err := conn.Write(more); err != nil {
				return // it was hung up on
			}
		}
	}()
	wantClosed(t, conn)
	neighbour.echo(t)
}
