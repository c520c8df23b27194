package main

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// By gRPC and the Open Inference Protocol a token opens what it opens by other ways, and no more; each request of a stream is asked about.
func TestAuthTokensByGRPC(t *testing.T) {
	token := madeToken(t, "robot", "--role", "app")
	s := guarded(t, fmt.Sprintf(`listen: 127.0.0.1:0
auth:
  roles:
    app: {allow: [{pools: [echo], actions: ["*"]}]}
  tokens:
    %s
`, token.YAML)+authPools)
	conn, err := grpc.NewClient(s.port(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, health := ringmasterv1.NewRingmasterClient(conn), healthpb.NewHealthClient(conn)
	ask := func(pool string) *ringmasterv1.CallRequest {
		return &ringmasterv1.CallRequest{Pool: pool, Action: "echo", Body: &ringmasterv1.CallRequest_Json{Json: "[5]"}}
	}
	if _, err := c.Call(t.Context(), ask("echo")); grpcstatus.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "token") {
		t.Errorf("without a token: %v", err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token.Token)
	if out, err := c.Call(ctx, ask("echo")); err != nil || out.GetJson() != "[5]" {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := c.Call(ctx, ask("other")); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("another's pool: %v", err)
	}
	if _, err := c.Status(ctx, &ringmasterv1.StatusRequest{}); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("status: %v", err)
	}
	if out, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "echo"}); err != nil && grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("health: %v, %v", out, err)
	}
	stream, err := c.Converse(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for id, pool := range []string{"echo", "other"} {
		if err := stream.Send(&ringmasterv1.ConverseRequest{Id: uint64(id), What: &ringmasterv1.ConverseRequest_Call{Call: ask(pool)}}); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil || pool == "echo" && out.GetEnd().GetJson() != "[5]" || pool == "other" && out.GetError().GetReason() != "denied" {
			t.Errorf("%s: %v, %v", pool, out, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	web := browser(t, true, tcp(s.port()))
	infer := `{"parameters":{"action":"echo","n":5}}`
	get(t, web, "POST", "/v2/models/echo/infer", infer).want(t, "without a token", 401, `{"error":"PERMISSION_DENIED/unauthenticated: `)
	get(t, web, "POST", "/v2/models/echo/infer", infer, "Authorization", "Bearer "+token.Token).want(t, "with one", 200, `"parameters":{"n":5`)
	get(t, web, "POST", "/v2/models/other/infer", infer, "Authorization", "Bearer "+token.Token).want(t, "another's", 403, `{"error":"PERMISSION_DENIED/denied: `)
	get(t, web, "POST", "/v2/repository/index", "", "Authorization", "Bearer "+token.Token).want(t, "the index", 200, `[{"name":"echo","reason":"","state":"READY","version":"1"}]`)
}
