package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/ringmasterd/ringmaster/proto/inference"
	ringmasterv1 "github.com/ringmasterd/ringmaster/proto/ringmaster/v1"
)

// Whoever lists models sees those that he may use, by every protocol, and no answer or refusal names another, or tells one that there is from one that there is not.
func TestAuthModels(t *testing.T) {
	token := madeToken(t, "robot", "--role", "app")
	s := guarded(t, fmt.Sprintf(`socket_mode: 0666
listen: 127.0.0.1:0
auth:
  roles:
    app: {allow: [{pools: [echo, mine], actions: [echo, chat]}, {pools: [ringmaster], actions: ["health:echo", "health:mine"]}]}
  users: {%d: [app]}
  tokens:
    %s
pipelines:
  mine: {actions: [chat, secret], steps: {one: {pool: echo, action: echo, body: $input.body}}}
  hidden: {actions: [chat], steps: {one: {pool: other, action: echo, body: $input.body}}}
`, appUser, token.YAML)+authPools)

	all := browser(t, false, func() (net.Conn, error) { return net.Dial("unix", s.socket) })
	get(t, all, "GET", "/v1/models", "").want(t, "the owner's models", 200, `"id":"mine"`, `"id":"hidden"`)
	get(t, all, "POST", "/v2/repository/index", "").want(t, "the owner's index", 200, `"name":"echo"`, `"name":"other"`, `"name":"mine"`, `"name":"hidden"`)

	askers := map[string]*http.Client{"a token, by TCP": browser(t, true, tcp(s.port()))}
	if os.Geteuid() == 0 { // who can be another
		askers["a user, by the socket"] = browser(t, false, func() (net.Conn, error) { return connectAs(appUser, s.socket) })
	}
	for who, web := range askers {
		ask := func(what, method, url, body string, status int, wants ...string) string {
			t.Helper()
			var headers []string
			if strings.Contains(who, "token") {
				headers = []string{"Authorization", "Bearer " + token.Token}
			}
			p := get(t, web, method, url, body, headers...)
			p.want(t, who+": "+what, status, wants...)
			if strings.Contains(p.body, "hidden") && !strings.Contains(url, "hidden") || strings.Contains(p.body, "secret") {
				t.Errorf("%s: %s tells too much: %s", who, what, p.body)
			}
			return p.body
		}
		ask("OpenAI's models", "GET", "/v1/models", "", 200, `"data":[{`, `"id":"mine"`)
		ask("a model", "GET", "/v1/models/mine", "", 200, `"id":"mine"`)
		ask("the index", "POST", "/v2/repository/index", "", 200, `[{"name":"echo","reason":"","state":"READY","version":"1"},{"name":"mine","reason":"","state":"READY","version":"1"}]`)
		ask("a model's metadata", "GET", "/v2/models/mine", "", 200, `"actions":["chat"]`)
		ask("a model's health", "GET", "/v2/models/echo/ready", "", 200, `{"ready":true}`)
		ask("JSON-RPC's list", "POST", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"ringmaster.pools"}`, 200, `"pools":[{"name":"echo","state":"ready","actions":["echo"]},{"name":"mine","state":"ready","actions":["chat"]}]`)
		for _, path := range []string{"/v1/models/%s", "/v2/models/%s", "/v2/models/%s/ready", "/v2/models/%s/infer"} {
			var answers []string
			for _, name := range []string{"hidden", "absent"} {
				method, body, status := "GET", "", 404
				switch {
				case strings.HasSuffix(path, "infer"):
					method, body, status = "POST", "{}", 403
				case strings.HasSuffix(path, "ready"):
					status = 403
				}
				answers = append(answers, strings.ReplaceAll(ask(name, method, fmt.Sprintf(path, name), body, status), name, "NAME"))
			}
			if answers[0] != answers[1] {
				t.Errorf("%s: %s tells a model that there is from one that there is not:\n%s%s", who, path, answers[0], answers[1])
			}
		}
	}
	modelsByGRPC(t, s.port(), token.Token)
}

// modelsByGRPC is the same by gRPC.
func modelsByGRPC(t *testing.T, address, token string) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	models := inference.NewGRPCInferenceServiceClient(conn)
	index, err := models.RepositoryIndex(ctx, &inference.RepositoryIndexRequest{})
	var names []string
	for _, m := range index.GetModels() {
		names = append(names, m.GetName())
	}
	if err != nil || !slices.Equal(names, []string{"echo", "mine"}) {
		t.Errorf("the index: %v, %v", names, err)
	}
	if out, err := models.ModelMetadata(ctx, &inference.ModelMetadataRequest{Name: "mine"}); err != nil || out.GetName() != "mine" {
		t.Errorf("a model's metadata: %v, %v", out, err)
	}
	if out, err := models.ModelReady(ctx, &inference.ModelReadyRequest{Name: "echo"}); err != nil || !out.GetReady() {
		t.Errorf("a model's health: %v, %v", out, err)
	}
	if out, err := models.ServerMetadata(ctx, &inference.ServerMetadataRequest{}); err != nil || strings.Contains(out.String(), "echo") {
		t.Errorf("the server's metadata: %v, %v", out, err)
	}
	for what, ask := range map[string]func(name string) error{
		"metadata": func(name string) error {
			_, err := models.ModelMetadata(ctx, &inference.ModelMetadataRequest{Name: name})
			return err
		},
		"ready": func(name string) error {
			_, err := models.ModelReady(ctx, &inference.ModelReadyRequest{Name: name})
			return err
		},
		"infer": func(name string) error {
			_, err := models.ModelInfer(ctx, &inference.ModelInferRequest{ModelName: name})
			return err
		},
		"health": func(name string) error {
			_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: name})
			return err
		},
	} {
		hidden, absent := ask("hidden"), ask("absent")
		if hidden == nil || absent == nil || strings.ReplaceAll(hidden.Error(), "hidden", "NAME") != strings.ReplaceAll(absent.Error(), "absent", "NAME") {
			t.Errorf("%s tells a model that there is from one that there is not: %v, %v", what, hidden, absent)
		}
	}
	if _, err := healthpb.NewHealthClient(conn).List(ctx, &healthpb.HealthListRequest{}); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("health of all: %v", err)
	}
	if _, err := ringmasterv1.NewRingmasterClient(conn).Status(ctx, &ringmasterv1.StatusRequest{}); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("the status: %v", err)
	}
}
