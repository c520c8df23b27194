package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/client"
	"github.com/ringmasterd/ringmaster/ipc"
)

// The users of these tests need not exist.
const appUser, monitorUser, nobodyUser = 54321, 54322, 54323

const authPools = "pools: {echo: {builtin: echo, concurrency: 4}, other: {builtin: echo}}\n"

// guarded starts a server whose directory other users may enter.
func guarded(t *testing.T, yaml string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "rm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return guardedIn(t, dir, yaml)
}

func guardedIn(t *testing.T, dir, yaml string) *server {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(binary)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := beginServer(t, dir, yaml, func(*exec.Cmd) {})
	s.dial()
	s.settle()
	t.Cleanup(func() {
		s.signal(syscall.SIGTERM)
		if code := s.wait(); code != 0 {
			t.Errorf("serve exited with %d:\n%s", code, s.log)
		}
	})
	return s
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be several users")
	}
}

// runAs runs a command line against the server as a user without a group that it shares, with more changes.
func (s *server) runAs(uid uint32, change func(*exec.Cmd), args ...string) result {
	s.t.Helper()
	p := command(s.dir, append(args, "--socket", s.socket)...)
	p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, NoSetGroups: false}}
	var out, errOut bytes.Buffer
	p.Stdout, p.Stderr = &out, &errOut
	if change != nil {
		change(p)
	}
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = p.Process.Kill() })
	defer kill.Stop()
	return result{exitCode(s.t, p.Wait()), out.String(), errOut.String()}
}

// connectAs connects to a socket as another user: a thread that becomes that user connects, and then ends.
func connectAs(uid int, path string) (net.Conn, error) {
	type connected struct {
		conn net.Conn
		err  error
	}
	done := make(chan connected)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var c connected
		defer func() { done <- c }()
		for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)}, {unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)}} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				c.err = errno
				return
			}
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			c.err = err
			return
		}
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		if c.err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); c.err == nil {
			c.conn, c.err = net.FileConn(f)
		}
	}()
	c := <-done
	return c.conn, c.err
}

// browser is a client of HTTP that connects by dial.
func browser(t *testing.T, h2 bool, dial func() (net.Conn, error)) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	transport := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return dial() }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// page is what a client of HTTP got.
type page struct {
	status int
	header http.Header
	body   string
}

func get(t *testing.T, c *http.Client, method, url, body string, headers ...string) page {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{answer.StatusCode, answer.Header, string(b)}
}

func (p page) want(t *testing.T, what string, status int, wants ...string) {
	t.Helper()
	if p.status != status {
		t.Errorf("%s: %d %s, want %d", what, p.status, p.body, status)
	}
	contains(t, what, p.body, wants...)
}

func (r result) want(t *testing.T, what string, code int, wants ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("%s: %+v, want exit status %d", what, r, code)
	}
	contains(t, what, r.out+r.errOut, wants...)
}

func wantReason(t *testing.T, what string, err error, want string) {
	t.Helper()
	var e *ipc.Error
	if !errors.As(err, &e) || string(e.Code)+"/"+e.Reason != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// madeToken is one of `ringmaster auth token`.
func madeToken(t *testing.T, args ...string) newToken {
	t.Helper()
	r := ringmaster(t, t.TempDir(), "", append([]string{"auth", "token", "--json"}, args...)...)
	var token newToken
	if err := json.Unmarshal([]byte(r.out), &token); err != nil || r.code != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	return token
}

const authUsers = `socket_mode: 0666
auth:
  roles:
    app: {allow: [{pools: [echo], actions: ["*"]}]}
    monitor: {allow: [{pools: [ringmaster], actions: [status]}]}
  users: {54321: [app], 54322: [monitor]}
` + authPools

// Users do what their roles allow and no more, by the command line and by HTTP, and are told what they lack in the form of the protocol.
func TestAuthUsers(t *testing.T) {
	needRoot(t)
	s := guarded(t, authUsers)
	s.runAs(appUser, nil, "call", "echo", "echo", "-d", "1").want(t, "the app", 0, "1\n")
	s.runAs(appUser, nil, "call", "other", "echo").want(t, "another pool", exitFailed, `PERMISSION_DENIED/denied: user 54321 may not ask pool "other" for "echo": of its roles (app)`)
	s.runAs(appUser, nil, "call", "no-such-pool", "echo").want(t, "a pool that does not exist", exitFailed, `PERMISSION_DENIED/denied: user 54321 may not ask pool "no-such-pool" for "echo": of its roles (app)`)
	s.runAs(appUser, nil, "status").want(t, "status", exitFailed, "PERMISSION_DENIED/denied")
	s.runAs(appUser, nil, "auth", "whoami").want(t, "whoami", 0, "user 54321\nrole app, from auth.users.54321\n  echo: *\n")
	if r := s.runAs(appUser, nil, "call", "ringmaster", "pools"); strings.Contains(r.out, "other") || !strings.Contains(r.out, `"name":"echo"`) {
		t.Errorf("the pools that the app sees: %+v", r)
	}
	s.runAs(monitorUser, nil, "status").want(t, "the monitor's status", 0, "echo", "other")
	s.runAs(monitorUser, nil, "health").want(t, "the monitor's health", 0, "ok")
	s.runAs(monitorUser, nil, "restart", "echo").want(t, "the monitor's restart", exitFailed, "PERMISSION_DENIED/denied")
	s.runAs(monitorUser, nil, "call", "echo", "echo").want(t, "the monitor's call", exitFailed, "PERMISSION_DENIED/denied")
	s.runAs(nobodyUser, nil, "call", "echo", "echo").want(t, "nobody", exitFailed, "PERMISSION_DENIED/peer: user 54323 has no role here; `auth.users`")
	s.run("restart", "other").want(t, "root", 0)
	s.run("auth", "whoami").want(t, "root's whoami", 0, "user 0", "may do everything")

	app := browser(t, false, func() (net.Conn, error) { return connectAs(appUser, s.socket) })
	get(t, app, "GET", "/healthz", "").want(t, "/healthz", 200)
	get(t, app, "GET", "/readyz", "").want(t, "/readyz", 403, `"reason":"denied"`)
	get(t, app, "GET", "/metrics", "").want(t, "/metrics", 403, `"reason":"denied"`)
	get(t, app, "GET", "/v1/models", "").want(t, "/v1/models", 200, `"data":[]`)
	get(t, app, "POST", "/v1/chat/completions", `{"model":"other","messages":[]}`).want(t, "OpenAI's", 403, `"code":"denied"`, `"type":"permission_error"`)
	get(t, app, "POST", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"other.echo"}`).want(t, "JSON-RPC", 200, `"code":-32007`, `"reason":"denied"`)
	get(t, app, "POST", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"echo.echo","params":[5]}`, "Authorization", "Bearer none").want(t, "JSON-RPC", 200, `"result":[5]`)
	get(t, app, "POST", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"echo.echo"}`, "Authorization", "Bearer rm_nonsense").want(t, "a broken token", 401, `"reason":"unauthenticated"`)
	monitor := browser(t, true, func() (net.Conn, error) { return connectAs(monitorUser, s.socket) })
	get(t, monitor, "GET", "/readyz", "").want(t, "/readyz", 200)
	get(t, monitor, "GET", "/metrics", "").want(t, "/metrics", 200, `ringmaster_auth_denials_total{reason="denied"} `, `ringmaster_auth_denials_total{reason="peer"} 1`, `ringmaster_auth_denials_total{reason="unauthenticated"} 1`)
	s.logged("client refused", "uid=54321", "denied")
}

// Groups count, the primary one and supplementary ones; without `owner` not even root may do everything, while the server itself goes on.
func TestAuthGroups(t *testing.T) {
	needRoot(t)
	s := guarded(t, `socket_mode: 0666
auth:
  owner: false
  roles: {app: {allow: [{pools: ["*"], actions: [echo]}]}, monitor: {allow: [{pools: [ringmaster], actions: [status]}]}}
  users: {0: [monitor]}
  groups: {54400: [app]}
`+authPools)
	for name, groups := range map[string]*syscall.Credential{"primary": {Uid: nobodyUser, Gid: 54400}, "supplementary": {Uid: nobodyUser, Gid: 1, Groups: []uint32{2, 54400}}} {
		s.runAs(0, func(p *exec.Cmd) { p.SysProcAttr.Credential = groups }, "call", "other", "echo", "-d", "1").want(t, name, 0, "1\n")
	}
	s.run("status").want(t, "root's status", 0)
	s.run("restart", "echo").want(t, "root's restart", exitFailed, "PERMISSION_DENIED/denied: user 0")
}

// A process is known by its control group, wherever below it.
func TestAuthCGroup(t *testing.T) {
	needRoot(t)
	mount, own := unified(t)
	name := fmt.Sprintf("ringmaster-auth-%d", os.Getpid())
	dir := filepath.Join(mount, own, name, "sub")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skipf("this test needs a control group: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "the control group to be empty", func() bool { return os.Remove(dir) == nil && os.Remove(filepath.Dir(dir)) == nil })
	})
	s := guarded(t, fmt.Sprintf(`socket_mode: 0666
auth:
  roles: {app: {allow: [{pools: [echo], actions: ["*"]}]}}
  cgroups: {"%s": [app]}
`, filepath.Join("/", own, name))+authPools)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside := func(p *exec.Cmd) { p.SysProcAttr.UseCgroupFD, p.SysProcAttr.CgroupFD = true, int(f.Fd()) }
	s.runAs(nobodyUser, inside, "call", "echo", "echo", "-d", "1").want(t, "inside", 0, "1\n")
	s.runAs(nobodyUser, inside, "auth", "whoami", "--json").want(t, "whoami", 0, name+`/sub"`, `"from":"auth.cgroups./`)
	s.runAs(nobodyUser, nil, "call", "echo", "echo").want(t, "outside", exitFailed, "PERMISSION_DENIED/peer")
}

// unified is where control groups of version 2 are, and which this process's is.
func unified(t *testing.T) (mount, own string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			mount = f[1]
		}
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			own = p
		}
	}
	if mount == "" || own == "" {
		t.Skip("there are no control groups of version 2")
	}
	return mount, own
}

var portLine = regexp.MustCompile(`listen=(127\.0\.0\.1:\d+)`)

// port is where the server listens.
func (s *server) port() string {
	s.t.Helper()
	var m []string
	eventually(s.t, "the port in the log", func() bool {
		m = portLine.FindStringSubmatch(s.log.String())
		return m != nil
	})
	return m[1]
}

func tcp(address string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.Dial("tcp", address) }
}

// By TCP each request needs a token; by the socket a token makes somebody of nobody; the worker sees none.
func TestAuthTokens(t *testing.T) {
	token, other := madeToken(t, "robot", "--role", "app", "--role", "monitor"), madeToken(t, "other")
	s := guarded(t, fmt.Sprintf(`socket_mode: 0666
listen: 127.0.0.1:0
listen_origins: ["http://localhost:3000"]
auth:
  roles:
    app: {allow: [{pools: [echo], actions: ["*"]}]}
    monitor: {allow: [{pools: [ringmaster], actions: [status]}]}
  tokens:
    %s
`, token.YAML)+authPools)
	address := s.port()
	bearer := "Bearer " + token.Token
	for _, h2 := range []bool{false, true} {
		web := browser(t, h2, tcp(address))
		for _, wrong := range [][]string{nil, {"Authorization", "Bearer " + other.Token}, {"Authorization", "Bearer none"}, {"Authorization", "Basic " + token.Token}} {
			for url, shape := range map[string]string{"/healthz": `{"error":{`, "/metrics": `"reason":"unauthenticated"`, "/v1/models": `"type":"invalid_request_error"`, "/rpc": `"jsonrpc":"2.0"`, "/nonsense": `"reason":"unauthenticated"`} {
				p := get(t, web, "POST", url, `{"jsonrpc":"2.0","id":1,"method":"echo.echo"}`, wrong...)
				p.want(t, url, 401, shape, "unauthenticated")
				if p.header.Get("WWW-Authenticate") != `Bearer realm="ringmaster"` {
					t.Errorf("%s: %v", url, p.header)
				}
			}
		}
		get(t, web, "GET", "/healthz", "", "Authorization", bearer).want(t, "/healthz", 200)
		get(t, web, "GET", "/metrics", "", "Authorization", bearer).want(t, "/metrics", 200, "ringmaster_build_info")
		get(t, web, "POST", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"echo.echo","params":[5]}`, "Authorization", bearer).want(t, "/rpc", 200, `"result":[5]`)
		get(t, web, "POST", "/v1/chat/completions", `{"model":"other","messages":[]}`, "Authorization", bearer).want(t, "OpenAI's", 403, `"code":"denied"`, "token robot")
		for _, host := range []string{"evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil"} {
			get(t, web, "GET", "/healthz", "", "Authorization", bearer, "Host", host).want(t, host, 403, "is not this machine's own")
		}
		for _, host := range []string{"localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "[::1]"} {
			get(t, web, "GET", "/healthz", "", "Authorization", bearer, "Host", host).want(t, host, 200)
		}
		get(t, web, "GET", "/healthz", "", "Authorization", bearer, "Origin", "http://evil.example").want(t, "a page", 403, "listen_origins")
		get(t, web, "GET", "/healthz", "", "Authorization", bearer, "Origin", "null").want(t, "a page without origin", 403, "listen_origins")
		if p := get(t, web, "GET", "/healthz", "", "Authorization", bearer, "Origin", "http://localhost:3000"); p.status != 200 || p.header.Get("Access-Control-Allow-Origin") != "http://localhost:3000" {
			t.Errorf("a page that may: %+v", p)
		}
		if p := get(t, web, "OPTIONS", "/rpc", "", "Origin", "http://localhost:3000", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization"); p.status != 204 || p.header.Get("Access-Control-Allow-Headers") != "authorization" {
			t.Errorf("a page's question beforehand: %+v", p)
		}
	}
	if _, err := client.Dial(t.Context(), client.WithAddress("tcp://10.0.0.1:80")); err == nil {
		t.Error("a client sends tokens to other machines")
	}
	t.Run("from the environment", func(t *testing.T) {
		t.Setenv("RINGMASTER_TOKEN", token.Token)
		for _, opts := range [][]client.DialOption{{}, {client.WithToken("")}} {
			c, err := client.Dial(t.Context(), append(opts, client.WithAddress("tcp://"+address))...)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Call(t.Context(), "echo", "echo", 1)
			c.Close()
			if (err == nil) != (len(opts) == 0) {
				t.Errorf("with %d options: %v", len(opts), err)
			}
		}
	})
	for name, tt := range map[string]struct{ token, want string }{"with": {token.Token, ""}, "without": {"", "PERMISSION_DENIED/unauthenticated"}, "with another": {other.Token, "PERMISSION_DENIED/unauthenticated"}} {
		c, err := client.Dial(t.Context(), client.WithAddress("tcp://"+address), client.WithToken(tt.token))
		if err != nil {
			t.Fatal(err)
		}
		headers := map[string]string{"k": "v"}
		reply, err := c.Call(t.Context(), "echo", "echo", make([]byte, 1<<20), client.WithHeaders(headers))
		c.Close()
		if tt.want != "" {
			wantReason(t, "frames "+name, err, tt.want)
			continue
		}
		if err != nil || len(reply.Headers) != 1 || reply.Headers["k"] != "v" || len(headers) != 1 {
			t.Errorf("frames %s: %v, %+v", name, err, reply)
		}
	}
	by := func(change func(*exec.Cmd), args ...string) result {
		if os.Geteuid() == 0 {
			return s.runAs(nobodyUser, change, args...)
		}
		return s.runAs(uint32(os.Geteuid()), change, args...)
	}
	known := func(p *exec.Cmd) { p.Env = append(os.Environ(), "RINGMASTER_TOKEN="+token.Token) }
	by(known, "call", "echo", "echo", "-d", "1", "--json").want(t, "by the socket", 0, `"headers":{}`)
	by(known, "auth", "whoami").want(t, "whoami", 0, "token robot", "role app, from auth.tokens.robot")
	by(known, "restart", "echo").want(t, "what a token may not", exitFailed, "PERMISSION_DENIED/denied: token robot")
	if os.Geteuid() == 0 {
		by(nil, "call", "echo", "echo").want(t, "without a token", exitFailed, "PERMISSION_DENIED/unauthenticated: user 54323 has no role here, and the request has no token")
		nobody := browser(t, false, func() (net.Conn, error) { return connectAs(nobodyUser, s.socket) })
		get(t, nobody, "GET", "/healthz", "").want(t, "without a token", 401)
		get(t, nobody, "GET", "/healthz", "", "Authorization", bearer).want(t, "with a token", 200)
	}
	file := filepath.Join(s.dir, "token")
	if err := os.WriteFile(file, []byte(token.Token+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ringmaster(t, s.dir, "", "call", "echo", "echo", "-d", "1", "--token-file", file, "--socket", "tcp://"+address).want(t, "the command line by TCP", 0, "1\n")
	if strings.Contains(s.log.String(), token.Token) {
		t.Error("the log has the token")
	}
}

// A limit is told with the time after which to ask again, in the form of the protocol; others are not concerned.
func TestAuthLimits(t *testing.T) {
	slow, fast := madeToken(t, "slow", "--role", "slow"), madeToken(t, "fast", "--role", "fast")
	s := guarded(t, fmt.Sprintf(`listen: 127.0.0.1:0
auth:
  roles:
    slow: {allow: [{pools: [echo], actions: ["*"]}], rate: 1/h, burst: 2}
    fast: {allow: [{pools: [echo], actions: ["*"]}], in_flight: 1}
  tokens:
    %s
    %s
`, slow.YAML, fast.YAML)+authPools)
	web := browser(t, false, tcp(s.port()))
	ask := func(token newToken, url, body string) page {
		t.Helper()
		return get(t, web, "POST", url, body, "Authorization", "Bearer "+token.Token)
	}
	const call = `{"jsonrpc":"2.0","id":1,"method":"echo.echo","params":[5]}`
	ask(slow, "/rpc", call).want(t, "the first", 200, `"result":[5]`)
	ask(slow, "/rpc", call).want(t, "the second", 200, `"result":[5]`)
	ask(slow, "/rpc", call).want(t, "JSON-RPC", 200, `"code":-32008`, `"reason":"rate_limited"`, `"retry_after_ms":`)
	p := ask(slow, "/v1/chat/completions", `{"model":"echo","messages":[]}`)
	p.want(t, "OpenAI's", 429, `"code":"rate_limited"`, `"type":"rate_limit_error"`, "auth.roles.slow.rate")
	if p.header.Get("Retry-After") == "" || p.header.Get("Retry-After-Ms") == "" {
		t.Errorf("headers %v", p.header)
	}
	c, err := client.Dial(t.Context(), client.WithAddress("tcp://"+s.port()), client.WithToken(slow.Token))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Call(t.Context(), "echo", "echo", nil)
	wantReason(t, "frames", err, "RESOURCE_EXHAUSTED/rate_limited")
	var e *ipc.Error
	if errors.As(err, &e) && e.RetryAfter <= time.Minute {
		t.Errorf("after %v", e.RetryAfter)
	}

	quick, err := client.Dial(t.Context(), client.WithAddress(s.socket), client.WithToken(fast.Token))
	if err != nil {
		t.Fatal(err)
	}
	defer quick.Close()
	for chunk, err := range quick.Stream(t.Context(), "echo", "count", map[string]any{"n": 1 << 20}) {
		if chunk == nil || err != nil {
			t.Fatal(err)
		}
		_, err = quick.Call(t.Context(), "echo", "echo", nil)
		wantReason(t, "a second at the same time", err, "RESOURCE_EXHAUSTED/rate_limited")
		break
	}
	eventually(t, "the stream's place to be free", func() bool {
		_, err := quick.Call(t.Context(), "echo", "echo", nil)
		return err == nil
	})
}

// A reload takes a token back and gives another one, on connections that are open; what is under way is finished.
func TestAuthReload(t *testing.T) {
	old, fresh := madeToken(t, "old"), madeToken(t, "fresh")
	head := "listen: 127.0.0.1:0\nauth: {roles: {app: {allow: [{pools: [echo], actions: ['*']}]}}, tokens_file: tokens.yaml}\n" + authPools
	dir, err := os.MkdirTemp("", "rm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tokens := func(list ...newToken) {
		t.Helper()
		var lines []string
		for _, token := range list {
			lines = append(lines, token.YAML)
		}
		if err := os.WriteFile(filepath.Join(dir, "tokens.yaml"), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tokens(old)
	s := guardedIn(t, dir, head)
	dial := func(token newToken) *client.Client {
		t.Helper()
		c, err := client.Dial(t.Context(), client.WithAddress("tcp://"+s.port()), client.WithToken(token.Token))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	first, second := dial(old), dial(fresh)
	_, err = second.Call(t.Context(), "echo", "echo", nil)
	wantReason(t, "before it is there", err, "PERMISSION_DENIED/unauthenticated")
	const n = 1000
	chunks := 0
	for _, err := range first.Stream(t.Context(), "echo", "count", map[string]any{"n": n}) {
		if err != nil {
			t.Fatalf("the stream under way, after %d chunks: %v", chunks, err)
		}
		if chunks++; chunks > 1 {
			continue
		}
		tokens(fresh)
		s.run("reload").want(t, "the reload", 0)
		_, err = first.Call(t.Context(), "echo", "echo", nil)
		wantReason(t, "the one that was taken back", err, "PERMISSION_DENIED/unauthenticated")
		if _, err := second.Call(t.Context(), "echo", "echo", nil); err != nil {
			t.Errorf("the new one, on a connection that was there before: %v", err)
		}
	}
	if chunks != n {
		t.Errorf("%d chunks", chunks)
	}
	// With a mistake in it nothing changes; a port without tokens is one.
	if err := os.WriteFile(filepath.Join(dir, "tokens.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("reload").want(t, "without tokens", exitUsage, "there is no token")
	if _, err := second.Call(t.Context(), "echo", "echo", nil); err != nil {
		t.Error(err)
	}
	// Without `auth` nobody is let in there any more.
	writeConfig(t, dir, authPools)
	s.run("reload").want(t, "without auth", 0, "started anew: listen")
	_, err = second.Call(t.Context(), "echo", "echo", nil)
	wantReason(t, "without auth", err, "PERMISSION_DENIED/unauthenticated")
}

// A token that is taken back counts no more as soon as the file is read, however long the pools take to follow.
func TestAuthReloadDoesNotWait(t *testing.T) {
	old, fresh := madeToken(t, "old"), madeToken(t, "fresh")
	yaml := func(token newToken, echo string) string {
		return fmt.Sprintf("auth: {roles: {app: {allow: [{pools: [echo], actions: ['*']}]}}, tokens: {%s}}\npools: {echo: {%s}}\n", token.YAML, echo)
	}
	s := guarded(t, yaml(old, "builtin: echo"))
	c, err := client.Dial(t.Context(), client.WithAddress(s.socket), client.WithToken(old.Token))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Call(t.Context(), "echo", "echo", nil); err != nil {
		t.Fatal(err)
	}
	writeConfig(t, s.dir, yaml(fresh, "command: [sleep, '1000'], replace: start-first, start_timeout: 10m"))
	reload := s.begin("reload")
	eventually(t, "the token to be taken back", func() bool {
		_, err := c.Call(t.Context(), "echo", "echo", nil)
		var e *ipc.Error
		return errors.As(err, &e) && e.Reason == "unauthenticated"
	})
	if !alive(reload.Process.Pid) {
		t.Error("the reload has ended already")
	}
}

// What is wrong with `listen` and with tokens is told with the line, before anything starts.
func TestAuthMistakes(t *testing.T) {
	dir := t.TempDir()
	token := madeToken(t, "robot")
	roles := "auth:\n  roles: {app: {allow: [{pools: [echo], actions: [\"*\"]}]}}\n"
	for yaml, want := range map[string]string{
		"listen: 0.0.0.0:8080\n":                        "ringmaster.yaml:1:9: listen: 0.0.0.0:8080: 0.0.0.0 is not this machine's own interface",
		"listen: \"[2001:db8::1]:8080\"\n":              "2001:db8::1 is not this machine's own interface",
		"listen: example.com:80\n":                      "is no IP address with a port",
		"listen: 127.0.0.1:8080\n":                      "ringmaster.yaml:1:9: listen: 127.0.0.1:8080: there is no token",
		"listen: 127.0.0.1:8080\n" + roles:              "there is no token",
		"socket_mode: 0777\n":                           "ringmaster.yaml:1:14: socket_mode: 0777: use 0600, 0660 or 0666",
		roles + "  users: {no-such-user-here: [app]}\n": "ringmaster.yaml:3:30: auth.users.no-such-user-here: no-such-user-here: there is no such user here",
		roles + "  users: {root: [ap]}\n":               "auth.users.root: ap: there is no such role; auth.roles has app",
		roles + "  tokens_file: nowhere.yaml\n":         "auth.tokens_file: nowhere.yaml: it cannot be read",
		roles + "  tokens_file: tokens.yaml\n":          "tokens.yaml:1:15: auth.tokens.robot.hash: sha256:1: use the line that",
	} {
		if err := os.WriteFile(filepath.Join(dir, "tokens.yaml"), []byte(strings.Replace(token.YAML, token.Hash, "sha256:1", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		writeConfig(t, dir, yaml+"pools: {echo: {builtin: echo}}\n")
		ringmaster(t, dir, "", "serve", "--check").want(t, yaml, exitUsage, want)
	}
}

// The command that explains decisions needs no server, and agrees with the file.
func TestAuthCan(t *testing.T) {
	dir := t.TempDir()
	token := madeToken(t, "robot", "--expires", "2999-01-01")
	writeConfig(t, dir, fmt.Sprintf(`auth:
  roles:
    app: {allow: [{pools: [echo], actions: ["*"]}], rate: 30/m, burst: 2, in_flight: 3, cost: 1KiB/s}
  users: {54321: [app]}
  cgroups: {"/docker/*": [app]}
  tokens: {%s}
`, token.YAML)+authPools)
	can := func(args ...string) result {
		return ringmaster(t, dir, "", append([]string{"auth", "can"}, args...)...)
	}
	can("54321", "echo", "echo").want(t, "a user", 0, "yes: user 54321, echo.echo: role app allows it, which auth.users.54321 gives\nrole app, from auth.users.54321, 0.5 requests a second (2 at once), 3 in flight, 1024 bytes a second\n  echo: *\n")
	can("54321", "other", "echo").want(t, "a user", 1, "no: user 54321, other.echo: of its roles (app) none allows that")
	can("54322", "echo", "echo").want(t, "a user without a role", 1, "no: user 54322, echo.echo: it has no role")
	can("54322", "echo", "echo", "--cgroup", "/docker/abc").want(t, "a container", 0, "which auth.cgroups./docker/* gives")
	can("root", "ringmaster", "restart").want(t, "root", 0, "yes: user 0, ringmaster.restart: root and the server's own user may do everything")
	can("token:robot", "echo", "echo").want(t, "a token", 0, "yes: token robot")
	can("token:nobody", "echo", "echo").want(t, "an unknown token", exitUsage, "there is no token")
	can("no-such-user-here", "echo", "echo").want(t, "an unknown user", exitUsage, "there is no user")
	var v auth.Verdict
	if r := can("54321", "other", "echo", "--json"); json.Unmarshal([]byte(r.out), &v) != nil || r.code != 1 || v.Allowed || v.Who != "user 54321" || len(v.Roles) != 1 || v.By != nil {
		t.Errorf("%+v, %+v", r, v)
	}
	writeConfig(t, dir, authPools)
	can("54321", "echo", "echo").want(t, "without auth", 1, "without `auth:` only root")
	can("root", "echo", "echo").want(t, "without auth", 0)
}
