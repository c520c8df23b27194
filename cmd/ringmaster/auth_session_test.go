package main

import (
	"fmt"
	"testing"
)

// By a token, over TCP, a session is the token's: another's of that id is another, and who may look at sessions sees his own.
func TestSessionsByToken(t *testing.T) {
	a, b := madeToken(t, "a", "--role", "app", "--role", "looks"), madeToken(t, "b", "--role", "app")
	s := guarded(t, fmt.Sprintf(`listen: 127.0.0.1:0
sessions: {store: memory}
auth:
  roles:
    app: {allow: [{pools: [echo], actions: ["*"]}]}
    looks: {allow: [{pools: [ringmaster], actions: ["session_*"]}]}
  tokens:
    %s
    %s
`, a.YAML, b.YAML)+authPools)
	call := func(method, params string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`, method, params)
	}
	for _, h2 := range []bool{false, true} {
		web := browser(t, h2, tcp(s.port()))
		as := func(token newToken, body string, headers ...string) page {
			t.Helper()
			return get(t, web, "POST", "/rpc", body, append(headers, "Authorization", "Bearer "+token.Token)...)
		}
		session := []string{"X-Ringmaster-Session", fmt.Sprint("tea-", h2)}
		for _, turn := range []struct {
			token newToken
			want  string
		}{{a, "1"}, {a, "2"}, {b, "1"}, {a, "3"}, {b, "2"}} {
			if p := as(turn.token, call("echo.echo", "5"), session...); p.status != 200 || p.header.Get("X-Ringmaster-Session-Version") != turn.want {
				t.Errorf("token %s: %+v, want version %s", turn.token.Name, p, turn.want)
			}
		}
		get(t, web, "POST", "/rpc", call("echo.echo", "5"), session...).want(t, "without a token", 401, "unauthenticated")
		as(a, call("ringmaster.session_show", `{"session":"`+session[1]+`"}`)).want(t, "its own", 200, `"version":3`)
		as(a, call("ringmaster.session_list", "{}")).want(t, "all of its own", 200, `"id":"`+session[1]+`"`, `"version":3`)
		as(b, call("ringmaster.session_show", `{"session":"`+session[1]+`"}`)).want(t, "who may not look", 200, `"reason":"denied"`)
		as(a, call("ringmaster.session_rm", `{"session":"`+session[1]+`"}`)).want(t, "it goes", 200, `"removed":true`)
		if p := as(b, call("echo.echo", "5"), session...); p.header.Get("X-Ringmaster-Session-Version") != "3" {
			t.Errorf("another's went with it: %+v", p)
		}
	}
}
