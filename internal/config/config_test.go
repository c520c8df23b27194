package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/chain/session"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/supervisor"
)

func environment(name string) (string, bool) {
	v, ok := map[string]string{"MODEL_DIR": "/models", "HOME": "/me", "EMPTY": "", "N": "2"}[name]
	return v, ok
}

func parseFile(t *testing.T, name string) *File {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(name, data, environment)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDesignExample(t *testing.T) {
	got := parseFile(t, "design.yaml").Supervisor.Pools
	want := []supervisor.PoolConfig{
		{
			Name: "smollm2", Command: []string{".venv/bin/python", "-m", "examples.smollm2"}, Workers: 2, Concurrency: 1, Balance: supervisor.LeastConnection,
			Queue: 256, Timeout: time.Minute, StartTimeout: 5 * time.Minute, Env: map[string]string{"MODEL_DIR": "/models"},
			Limits: supervisor.Limits{RSS: 4 << 30, Requests: 100000, Lifetime: 24 * time.Hour},
		},
		{Name: "echo", Builtin: "echo", Workers: 2},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestEveryKey(t *testing.T) {
	f := parseFile(t, "full.yaml")
	if f.Socket != "unix:///run/rm.sock" || f.SocketGroup != "models" || f.Log != (Log{"debug", "json", true}) || f.Supervisor.MaxMessage != 128<<20 || f.Supervisor.DrainTimeout != 2*time.Minute ||
		!reflect.DeepEqual(f.Gateway, gateway.Config{MaxMessage: 128 << 20, Memory: 2 << 30, Clients: gateway.Limits{Connections: 8, InFlight: 100}, Arenas: gateway.Arenas{Client: 64 << 20, Total: 512 << 20}, Origins: []string{"http://localhost:3000"}}) {
		t.Errorf("got %+v", f)
	}
	if f.SocketMode != 0o666 || f.Listen != "localhost:8080" {
		t.Errorf("got %+v", f)
	}
	if want := (trace.Config{OTLP: "http://127.0.0.1:4318", File: "/var/log/traces.jsonl", Sample: 0.5, Recent: -1, Requests: true}); f.Tracing != want {
		t.Errorf("got  %+v\nwant %+v", f.Tracing, want)
	}
	if access := (auth.Config{
		Given: true, NoOwner: true,
		Roles: map[string]auth.Role{
			"app":     {Allow: []auth.Rule{{Pools: []string{"a", "embed-*"}, Actions: []string{"*"}}, {Pools: []string{"b"}, Actions: []string{"rank"}, Weight: 5}}, Rate: 1.5, Burst: 10, InFlight: 16, Cost: 3 << 19},
			"monitor": {Allow: []auth.Rule{{Pools: []string{"ringmaster"}, Actions: []string{"status"}}}},
		},
		Users: map[string][]string{"alice": {"app", "monitor"}, "1000": {"app"}, "*": {"monitor"}}, Groups: map[string][]string{"video": {"app"}}, CGroups: map[string][]string{"/system.slice/robot.service": {"app"}},
		Tokens: map[string]auth.Token{
			"robot": {Hash: "sha256:" + strings.Repeat("a1", 32), Roles: []string{"app"}, Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)},
			"ci":    {Hash: "sha256:" + strings.Repeat("b2", 32), Roles: []string{"monitor"}, Expires: f.Auth.Tokens["ci"].Expires},
		},
	}); !reflect.DeepEqual(f.Auth, access) || !f.Auth.Tokens["ci"].Expires.Equal(time.Date(2027, 1, 1, 11, 0, 0, 0, time.UTC)) {
		t.Errorf("got  %+v\nwant %+v", f.Auth, access)
	}
	b := supervisor.PoolConfig{Name: "b", Builtin: "echo", Devices: supervisor.Devices{None: true}, Balance: supervisor.Hash, AffinityWait: 2 * time.Second, Queue: 7, CPUs: []int{2, 0},
		Actions: map[string]supervisor.ActionConfig{"embed": {Batch: supervisor.Batch{Max: 32, Delay: 2 * time.Millisecond}}, "rank": {Batch: supervisor.Batch{Max: 8}}}}
	c := b
	c.Name = "c"
	want := []supervisor.PoolConfig{{
		Name: "a", Command: []string{"python", "-u", "worker.py"}, Dir: "models", Workers: 2, Concurrency: 4,
		Env:     map[string]string{"A": "1", "B": "", "C": "/me/x", "D": "${HOME} $X", "E": "5"},
		Devices: supervisor.Devices{List: []int{0, 1}}, Balance: supervisor.Weighted, Weights: []int{1, 3}, Queue: -1, Timeout: 90 * time.Second, StartTimeout: 10 * time.Minute,
		HangTimeout: 30 * time.Second, Grace: 2 * time.Second, Replace: supervisor.StopFirst,
		Limits: supervisor.Limits{RSS: 3 << 29, VRAM: 20 << 30, Idle: 10 * time.Minute}, EnvPass: []string{"MODEL_*", "AWS_REGION"},
		Rlimits: map[string]uint64{"nofile": 4096, "core": supervisor.Unlimited, "as": 64 << 30, "memlock": supervisor.Unlimited, "nproc": 0},
		User:    "nobody", Group: "7", CPUs: []int{0, 1, 2, 3, 8},
	}, b, c}
	if got := f.Supervisor.Pools; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	talks := session.PoolConfig{Conversation: true, Actions: []string{"chat", "ask"}, Messages: "turns"}
	sessions := session.Config{Store: session.Bbolt, Path: "/me/sessions.db", TTL: time.Hour, MaxBytes: 64 << 10, MaxSessions: 500, MaxTotal: 16 << 20, OnConflict: session.Abort, OnStoreFailure: session.Stateless,
		Pools: map[string]session.PoolConfig{"b": talks, "c": talks}}
	if !reflect.DeepEqual(f.Sessions, sessions) {
		t.Errorf("got  %+v\nwant %+v", f.Sessions, sessions)
	}
}

func TestNoArenas(t *testing.T) {
	f, err := Parse("f", []byte("arenas: {client: 0}\npools: {a: {builtin: echo}}\n"), environment)
	if err != nil || f.Gateway.Arenas != (gateway.Arenas{Off: true}) {
		t.Errorf("got %+v, %v", f, err)
	}
}

// Each mistake is told in full: place, key, value, and what would be right.
func TestErrors(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"a role's keys", "auth: {roles: {a: {alow: []}}}", "f:1:20: auth.roles.a.alow: unknown key: did you mean allow?"},
		{"a rate", "auth: {roles: {a: {rate: 50}}}", "f:1:26: auth.roles.a.rate: 50: use a number of requests in a time, such as 50/s, 100/m or 3000/h"},
		{"no rate", "auth: {roles: {a: {rate: 0/s}}}", "f:1:26: auth.roles.a.rate: 0/s: use a number of requests in a time, such as 50/s, 100/m or 3000/h"},
		{"a cost", "auth: {roles: {a: {cost: 1MB/s}}}", "f:1:26: auth.roles.a.cost: 1MB/s: use bytes a second, such as 20MiB/s (units: KiB, MiB, GiB)"},
		{"an expiry", "auth: {tokens: {a: {expires: soon}}}", "f:1:30: auth.tokens.a.expires: soon: use a date such as 2027-01-01, or a time such as 2027-01-01T12:00:00Z"},
		{"no list of roles", "auth: {users: {a: app}}", "f:1:19: auth.users.a: app: expected a list of roles, as in [app]"},
		{"an owner", "auth: {owner: maybe}", "f:1:15: auth.owner: maybe: use true or false"},
		{"an origin", "listen_origins: [localhost:3000]", "f:1:18: listen_origins: localhost:3000: use the origin of a page, http:// or https:// and its host, without a path, such as http://localhost:3000"},
		{"empty", "", "f:1:1: pools: (none): the file is empty; a configuration begins with `pools:`"},
		{"only a comment", "# x\n", "f:1:1: pools: (none): the file is empty; a configuration begins with `pools:`"},
		{"null", "~\n", "f:1:1: pools: (none): the file is empty; a configuration begins with `pools:`"},
		{"a list", "- a\n", "f:1:1: a list: expected keys such as pools"},
		{"a word", "pools\n", "f:1:1: pools: expected keys such as pools"},
		{"syntax", "pools:\n  a: [\n", "f:2:1: this is not YAML: did not find expected node content"},
		{"a tab", "pools:\n\ta: 1\n", "f:2:1: this is not YAML: found character that cannot start any token"},
		{"not UTF-8", "pools: \xff\n", "f:1:1: this is not YAML: invalid leading UTF-8 octet"},
		{"two documents", "pools: {a: {builtin: echo}}\n---\npools: {}\n", "f:2:1: a second document begins here; a configuration is one document"},
		{"no pools", "log: {level: info}\n", "f:1:1: pools: (none): name at least one pool, for example `echo: {builtin: echo}`"},
		{"pools without a value", "pools:\n", "f:1:7: pools: (empty): give a value, or remove the key"},
		{"a pool without a value", "pools:\n  echo:\n", "f:2:8: pools.echo: (empty): give a value, or remove the key"},
		{"pools is a list", "pools: [a]\n", "f:1:8: pools: a list: expected pools by name, as in `echo: {builtin: echo}`"},
		{"unknown key", "pool:\n  a: {builtin: echo}\n", "f:1:1: pool: unknown key: did you mean pools?"},
		{"unknown key in a pool", "pools:\n  a:\n    builtin: echo\n    wokrers: 2\n", "f:4:5: pools.a.wokrers: unknown key: did you mean workers?"},
		{"another tool's key", "pools:\n  a: {builtin: echo, replicas: 2}\n", "f:2:22: pools.a.replicas: unknown key: did you mean workers?"},
		{"nothing like a key", "pools:\n  a: {builtin: echo, limits: {zzzzz: 2}}\n", "f:2:31: pools.a.limits.zzzzz: unknown key: use one of idle, lifetime, requests, rss, vram"},
		{"duplicate key", "pools:\n  a: {builtin: echo}\n  b: {builtin: echo}\n  a: {builtin: sum}\n", "f:4:3: pools.a: duplicate key: it is already given in line 2; remove one"},
		{"a key that is a list", "pools:\n  ? [x]\n  : {}\n", "f:2:5: pools: a list: a key must be a string"},
		{"merge", "pools:\n  a: &a {builtin: echo}\n  b:\n    <<: *a\n", "f:4:5: pools.b.<<: <<: merge keys are not supported; write the values out"},
		{"neither command nor builtin", "pools:\n  a: {workers: 2}\n", "f:2:6: pools.a.command: (none): give `command: [program, argument…]` or `builtin: NAME`"},
		{"both", "pools:\n  a:\n    command: [x]\n    builtin: echo\n", "f:4:14: pools.a.builtin: echo: give either `command` or `builtin`, not both"},
		{"command is a string", "pools:\n  a: {command: python worker.py}\n", "f:2:16: pools.a.command: python worker.py: expected a list, as in [python, -m, my_worker]"},
		{"an argument is a map", "pools:\n  a: {command: [x, {y: 1}]}\n", "f:2:20: pools.a.command[1]: an object: expected a string"},
		{"an empty argument", "pools:\n  a: {command: [x, ]}\n  b: {command: [x, ~]}\n", "f:3:20: pools.b.command[1]: (empty): expected a string"},
		{"an empty program", "pools:\n  a: {command: ['']}\n", `f:2:16: pools.a.command: "": the program's name is empty`},
		{"bad pool name", "pools:\n  a b: {builtin: echo}\n", `f:2:8: pools: "a b": a pool's name is 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit`},
		{"reserved pool name", "pools:\n  ringmaster: {builtin: echo}\n", "f:2:15: pools: ringmaster: this name is reserved for control requests; choose another"},
		{"workers", "pools:\n  a: {builtin: echo, workers: two}\n", "f:2:31: pools.a.workers: two: use a whole number, 1 or more"},
		{"no workers", "pools:\n  a: {builtin: echo, workers: 0}\n", "f:2:31: pools.a.workers: 0: use a whole number, 1 or more"},
		{"many workers", "pools:\n  a: {builtin: echo, workers: 5000}\n", "f:2:31: pools.a.workers: 5000: use 1 to 1024"},
		{"a fraction", "pools:\n  a: {builtin: echo, workers: 1.5}\n", "f:2:31: pools.a.workers: 1.5: use a whole number, 1 or more"},
		{"negative queue", "pools:\n  a: {builtin: echo, queue: -1}\n", "f:2:29: pools.a.queue: -1: use a whole number, 0 or more"},
		{"no unit", "pools:\n  a: {builtin: echo, timeout: 60}\n", "f:2:31: pools.a.timeout: 60: use a number with a unit (ms, s, m, h), such as 60s"},
		{"arenas of all that are less than one client's", "arenas: {client: 1GiB, total: 1MiB}\npools: {a: {builtin: echo}}\n", "f:1:31: arenas.total: 1048576: use at least as much as arenas.client, what one process may have"},
		{"no arenas, said at the wrong place", "arenas: {total: 0}\npools: {a: {builtin: echo}}\n", "f:1:17: arenas.total: 0: use a positive size such as 4GiB, or remove the key for the default"},
		{"a drain of days", "drain_timeout: 48h\npools: {a: {builtin: echo}}\n", "f:1:16: drain_timeout: 48h0m0s: use a duration up to 24h, such as 30s"},
		{"no time", "pools:\n  a: {builtin: echo, timeout: 0s}\n", "f:2:31: pools.a.timeout: 0s: use a positive duration such as 60s"},
		{"a batch of one", "pools:\n  a: {builtin: echo, actions: {x: {batch: {max: 1}}}}\n", "f:2:49: pools.a.actions.x.batch.max: 1: use a whole number, 2 or more"},
		{"a large batch", "pools:\n  a: {builtin: echo, actions: {x: {batch: {max: 4096}}}}\n", "f:2:49: pools.a.actions.x.batch.max: 4096: use 2 to 1024"},
		{"a batch of how many", "pools:\n  a: {builtin: echo, actions: {x: {batch: {delay: 2ms}}}}\n", "f:2:43: pools.a.actions.x.batch: (none): say how many requests may be one call, as in {max: 32}"},
		{"a long delay", "pools:\n  a: {builtin: echo, actions: {x: {batch: {max: 2, delay: 2s}}}}\n", "f:2:59: pools.a.actions.x.batch.delay: 2s: use a duration up to 1s, such as 2ms"},
		{"an action's unknown key", "pools:\n  a: {builtin: echo, actions: {x: {btach: {max: 2}}}}\n", "f:2:36: pools.a.actions.x.btach: unknown key: did you mean batch?"},
		{"an order that is none", "pools:\n  a: {builtin: echo, replace: first}\n", "f:2:31: pools.a.replace: first: use auto, start-first or stop-first"},
		{"negative time", "pools:\n  a: {builtin: echo, limits: {lifetime: -1h}}\n", "f:2:41: pools.a.limits.lifetime: -1h: use a positive duration such as 24h"},
		{"a decimal unit", "pools:\n  a: {builtin: echo, limits: {rss: 4GB}}\n", "f:2:36: pools.a.limits.rss: 4GB: use a size such as 4GiB, 512MiB or a number of bytes (units: KiB, MiB, GiB, TiB)"},
		{"a negative size", "max_message: -5\npools: {a: {builtin: echo}}\n", "f:1:14: max_message: -5: use a size such as 4GiB, 512MiB or a number of bytes (units: KiB, MiB, GiB, TiB)"},
		{"a small message", "max_message: 1KiB\npools: {a: {builtin: echo}}\n", "f:1:14: max_message: 1024: use a size from 64KiB to 1GiB"},
		{"an astronomical message", "max_message: 9000TiB\npools: {a: {builtin: echo}}\n", "f:1:14: max_message: 9895604649984000: use a size from 64KiB to 1GiB"},
		{"no memory", "memory: 0\npools: {a: {builtin: echo}}\n", "f:1:9: memory: 0: use a positive size such as 4GiB, or remove the key for the default"},
		{"little memory", "memory: 255MiB\npools: {a: {builtin: echo}}\n", "f:1:9: memory: 267386880: use at least 268435456 bytes, 4 times max_message, or a smaller max_message"},
		{"clients", "clients: {connections: 0, inflight: 3}\npools: {a: {builtin: echo}}\n", "f:1:24: clients.connections: 0: use a whole number, 1 or more\nf:1:27: clients.inflight: unknown key: did you mean in_flight?"},
		{"a sample", "tracing: {sample: 2}\npools: {a: {builtin: echo}}\n", "f:1:19: tracing.sample: 2: use a number from 0 to 1, such as 0.1 for a tenth"},
		{"a collector", "tracing: {otlp: 'localhost:4318', recent: 5}\npools: {a: {builtin: echo}}\n", "f:1:17: tracing.otlp: localhost:4318: use the URL of a collector's HTTP port, as in http://127.0.0.1:4318"},
		{"a trace file", "tracing: {file: traces.jsonl}\npools: {a: {builtin: echo}}\n", "f:1:17: tracing.file: traces.jsonl: use an absolute path, as in /var/log/ringmaster/traces.jsonl"},
		{"many recent", "tracing: {recent: 2000000}\npools: {a: {builtin: echo}}\n", "f:1:19: tracing.recent: 2000000: use a number of requests, from 0 (none) to 1048576"},
		{"logged requests", "log: {requests: maybe}\npools: {a: {builtin: echo}}\n", "f:1:17: log.requests: maybe: use true or false"},
		{"devices", "pools:\n  a: {builtin: echo, devices: all}\n", "f:2:31: pools.a.devices: all: use auto, none or [0, 1]"},
		{"no devices", "pools:\n  a: {builtin: echo, devices: []}\n", "f:2:31: pools.a.devices: []: the list is empty; use auto, none, or a list of device numbers as in [0, 1]"},
		{"a negative device", "pools:\n  a: {builtin: echo, devices: [0, -1]}\n", "f:2:35: pools.a.devices[1]: -1: use a whole number, 0 or more"},
		{"balance", "pools:\n  a: {builtin: echo, balance: random}\n", "f:2:31: pools.a.balance: random: use least-connection, round-robin, weighted or hash"},
		{"affinity", "pools:\n  a: {builtin: echo, affinity_wait: 2s}\n", "f:2:37: pools.a.affinity_wait: 2s: it is for `balance: hash`; set that, or remove the key"},
		{"an affinity of days", "pools:\n  a: {builtin: echo, balance: hash, affinity_wait: 48h}\n", "f:2:52: pools.a.affinity_wait: 48h0m0s: use a duration up to 1h0m0s, such as 500ms"},
		{"a store", "sessions: {store: etcd}\npools: {a: {builtin: echo}}\n", "f:1:19: sessions.store: etcd: use memory, bbolt or redis"},
		{"a store without a file", "sessions: {store: bbolt}\npools: {a: {builtin: echo}}\n", "f:1:11: sessions.path: (none): say in which file bbolt is to keep them, as in /var/lib/ringmaster/sessions.db"},
		{"a file without a store", "sessions: {path: x}\npools: {a: {builtin: echo}}\n", "f:1:18: sessions.path: x: it is for `store: bbolt`; set that, or remove the key"},
		{"sessions without room", "sessions: {max_bytes: 0, max_sessions: 0, ttl: 0s}\npools: {a: {builtin: echo}}\n", "f:1:23: sessions.max_bytes: 0: use a positive size such as 4GiB, or remove the key for the default\nf:1:40: sessions.max_sessions: 0: use a whole number, 1 or more\nf:1:48: sessions.ttl: 0s: use a positive duration such as 24h"},
		{"conflicts", "sessions: {on_conflict: fight, on_store_failure: cry}\npools: {a: {builtin: echo}}\n", "f:1:25: sessions.on_conflict: fight: use queue or abort\nf:1:50: sessions.on_store_failure: cry: use fail or stateless"},
		{"a conversation that nobody keeps", "pools:\n  a: {builtin: echo, session: {conversation: true}}\n", "f:2:46: pools.a.session.conversation: true: nothing keeps sessions; add `sessions: {store: memory}`, or bbolt or redis"},
		{"not a conversation", "pools:\n  a: {builtin: echo, session: {conversation: maybe}}\n", "f:2:46: pools.a.session.conversation: maybe: use true or false"},
		{"no weights", "pools:\n  a: {builtin: echo, workers: 2, balance: weighted}\n", "f:2:6: pools.a.weights: []: balance: weighted needs one weight for each of the 2 workers"},
		{"an unset variable", "pools:\n  a: {builtin: echo, dir: '${NOWHERE}/x'}\n", "f:2:27: pools.a.dir: ${NOWHERE}/x: the environment variable NOWHERE is not set; set it, or write ${NOWHERE:-default}"},
		{"half a variable", "pools:\n  a: {builtin: echo, dir: '${HOME'}\n", "f:2:27: pools.a.dir: ${HOME: ${ without }; write $${ for a literal ${"},
		{"no variable", "pools:\n  a: {builtin: echo, dir: '${1}'}\n", "f:2:27: pools.a.dir: ${1}: ${1} is not a variable; use ${NAME} or ${NAME:-default}, and $${ for a literal ${"},
		{"a variable's name", "pools:\n  a: {builtin: echo, env: {A-B: 1}}\n", "f:2:33: pools.a.env.A-B: A-B: a variable's name consists of letters, digits and '_'"},
		{"a variable's value", "pools:\n  a: {builtin: echo, env: {A: [1]}}\n", `f:2:31: pools.a.env.A: a list: expected a string; "" for an empty one`},
		{"env_pass", "pools:\n  a: {builtin: echo, env_pass: [A, 'B-*']}\n", `f:2:32: pools.a.env_pass: "B-*": use a variable's name, the beginning of names as in MODEL_*, or * for all`},
		{"env_pass is a word", "pools:\n  a: {builtin: echo, env_pass: A}\n", "f:2:32: pools.a.env_pass: A: expected a list of names, as in [MODEL_DIR, AWS_*]"},
		{"an unknown limit", "pools:\n  a: {builtin: echo, rlimits: {nofiles: 5}}\n", "f:2:32: pools.a.rlimits.nofiles: unknown key: did you mean nofile?"},
		{"a bad limit", "pools:\n  a: {builtin: echo, rlimits: {as: much, nofile: 1KiB}}\n", "f:2:36: pools.a.rlimits.as: much: use a size such as 4GiB, 512MiB or a number of bytes (units: KiB, MiB, GiB, TiB)\nf:2:50: pools.a.rlimits.nofile: 1KiB: use a whole number, 0 or more"},
		{"few files", "pools:\n  a: {builtin: echo, rlimits: {nofile: 5}}\n", "f:2:40: pools.a.rlimits.nofile: 5: use 16 or more; the worker's pipes and memory take six"},
		{"cpus", "pools:\n  a: {builtin: echo, cpus: 3-1}\n", "f:2:28: pools.a.cpus: 3-1: use a list of CPUs such as 0-3,8 or [0, 1]"},
		{"no cpus", "pools:\n  a: {builtin: echo, cpus: []}\n", "f:2:28: pools.a.cpus: []: the list is empty; use a list of CPUs such as 0-3,8 or [0, 1]"},
		{"many cpus", "pools:\n  a: {builtin: echo, cpus: [4096]}\n", "f:2:28: pools.a.cpus: 4096: CPUs have numbers from 0 to 1023"},
		{"NUL", "pools:\n  a: {builtin: \"e\\0\"}\n", `f:2:16: pools.a.builtin: "e\x00": it contains a NUL byte`},
		{"log level", "log: {level: loud}\npools: {a: {builtin: echo}}\n", "f:1:14: log.level: loud: use debug, info, warn or error"},
		{"socket", "socket: tcp://localhost:80\npools: {a: {builtin: echo}}\n", "f:1:9: socket: tcp://localhost:80: only Unix sockets are served; use unix:///path or a plain path"},
		{
			"all at once", "pools:\n  a: {builtin: echo, workers: x, timout: 1s}\nsocket_grup: y\n",
			"f:2:31: pools.a.workers: x: use a whole number, 1 or more\nf:2:34: pools.a.timout: unknown key: did you mean timeout?\nf:3:1: socket_grup: unknown key: did you mean socket_group?",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Parse("f", []byte(tt.yaml), environment)
			if err == nil {
				t.Fatalf("accepted as %+v", f)
			}
			var errs Errors
			if !errors.As(err, &errs) {
				t.Errorf("a %T", err)
			}
			if err.Error() != tt.want {
				t.Errorf("\ngot  %s\nwant %s", err, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load("testdata/none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Load("testdata"); err == nil {
		t.Error("a directory was read")
	}
	t.Setenv("MODEL_DIR", "/m")
	f, err := Load("testdata/design.yaml")
	if err != nil || f.Supervisor.Pools[0].Env["MODEL_DIR"] != "/m" {
		t.Errorf("%+v, %v", f, err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(large); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: %v", err)
	}
}

func TestLocate(t *testing.T) {
	f := parseFile(t, "full.yaml")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&supervisor.FieldError{Pool: "a", Field: "limits.rss", Value: 1, Want: "w"}, "full.yaml:35:12: pools.a.limits.rss: 1: w"},
		{&supervisor.FieldError{Pool: "b", Field: "command", Value: "(none)", Want: "w"}, "full.yaml:45:6: pools.b.command: (none): w"},
		{&auth.FieldError{Field: "auth.tokens.ci.hash", Value: "x", Want: "w"}, "testdata/tokens.yaml:2:12: auth.tokens.ci.hash: x: w"},
		{&supervisor.FieldError{Field: "nonsense", Value: 1, Want: "w"}, "full.yaml:1:1: nonsense: 1: w"},
		{&session.FieldError{Pool: "b", Field: "session.messages", Value: 1, Want: "w"}, "full.yaml:50:67: pools.b.session.messages: 1: w"},
		{&session.FieldError{Field: "sessions.ttl", Value: 1, Want: "w"}, "full.yaml:11:8: sessions.ttl: 1: w"},
		{errors.New("other"), "other"},
	} {
		if got := f.Locate(tt.err).Error(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, name := range []string{"design.yaml", "full.yaml"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range []string{"a: &a [*a]", "pools: &x {a: *x}", "? {a: b}\n: c", "pools: {a: {builtin: '${X:-}'}}", "!!binary aaa: 1", "<<: {a: b}", "pools: {a: {limits: {rss: 1e308TiB}}}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data, environment)
		var errs Errors
		switch {
		case err == nil:
			if err := file.Supervisor.Validate(); err != nil {
				t.Fatalf("accepted, but %v", err)
			}
		case !errors.As(err, &errs):
			t.Fatalf("a %T: %v", err, err)
		default:
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.Want == "" {
					t.Fatalf("%#v", e)
				}
			}
		}
	})
}
