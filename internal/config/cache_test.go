package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain/cache"
)

func TestCacheKeys(t *testing.T) {
	f := parseFile(t, "cache.yaml")
	if actions := f.Supervisor.Pools[0].Actions; len(actions) != 1 {
		t.Errorf("actions that only the cache is about change the supervisor's part: %v", actions)
	}
	got := f.Cache
	pool := got.Pools["d"]
	if !strings.HasSuffix(pool.Version, " 2026-05") || len(pool.Version) < 64 {
		t.Errorf("version %q", pool.Version)
	}
	pool.Version = ""
	want := cache.Config{MaxBytes: 64 << 20, Prefetch: cache.Prefetch{Learn: true, Concurrency: 3}, Pools: map[string]cache.Pool{"d": {
		Timeout: 5 * time.Second,
		Actions: map[string]cache.Action{
			"echo":  {TTL: 10 * time.Minute, Stale: time.Hour, MaxEntry: 2 << 20, Shared: true},
			"count": {Then: []cache.Follow{{Pool: "d", Action: "echo", Body: map[string]any{"texts": []any{"$reply.text", "/models", 1, 1.5, true}}}, {Pool: "d", Action: "echo"}}},
		},
	}}}
	got.Pools["d"] = pool
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The version follows what makes the workers what they are, and nothing else.
func TestCacheVersion(t *testing.T) {
	version := func(pool string) string {
		t.Helper()
		f, err := Parse("f", []byte("pools: {a: {"+pool+", actions: {x: {cache: {ttl: 1m}}}}}"), environment)
		if err != nil {
			t.Fatal(err)
		}
		return f.Cache.Pools["a"].Version
	}
	base := version("builtin: echo")
	for _, pool := range []string{"builtin: echo, workers: 3, queue: 5", "builtin: echo, timeout: 3s, limits: {idle: 1m}"} {
		if version(pool) != base {
			t.Errorf("%s is another version", pool)
		}
	}
	for _, pool := range []string{"builtin: count", "builtin: echo, version: 2", "builtin: echo, env: {MODEL: x}", "command: [echo]", "builtin: echo, dir: /tmp", "builtin: echo, devices: none"} {
		if version(pool) == base {
			t.Errorf("%s is the same version", pool)
		}
	}
}

func TestCacheMistakes(t *testing.T) {
	for yaml, want := range map[string]string{
		"pools: {a: {builtin: echo, actions: {x: {cache: {}}}}}":                                                "f:1:49: pools.a.actions.x.cache: (none): say how long an answer is good, as in {ttl: 10m}",
		"pools: {a: {builtin: echo, actions: {x: {cache: {ttl: 1m, max_entry: 1GiB}}}}}":                        "f:1:70: pools.a.actions.x.cache.max_entry: 1073741824: use at most 16777216 bytes, a 16th of cache.max_bytes, or a larger cache.max_bytes",
		"pools: {a: {builtin: echo, actions: {x: {cache: {ttl: 1m, shared: yes}}}}}":                            "f:1:67: pools.a.actions.x.cache.shared: yes: use true or false",
		"pools: {a: {builtin: echo, actions: {x: {then: [{pool: b, action: y}]}}}}":                             "f:1:67: pools.a.actions.x.then[0].action: b y: answers of this action are not cached, so that asking in advance is of no use; give it `cache: {ttl: …}`",
		"pools: {a: {builtin: echo, actions: {x: {then: [{pool: b}]}}}}":                                        "f:1:49: pools.a.actions.x.then[0]: (none): name the pool and the action, as in {pool: embed, action: embed, body: $reply}",
		"cache: {max_bytes: 1KiB}\npools: {a: {builtin: echo}}":                                                 "f:1:20: cache.max_bytes: 1024: use 1MiB or more",
		"prefetch: {concurrency: 100}\npools: {a: {builtin: echo}}":                                             "f:1:25: prefetch.concurrency: 100: use 1 to 64",
		"pools: {a: {builtin: echo, actions: {x: {cache: {ttl: 1m}, then: [{pool: a, action: x, body: $r}]}}}}": "f:1:94: pools.a.actions.x.then[0].body: $r: a text that begins with $ stands",
	} {
		_, err := Parse("f", []byte(yaml), environment)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", yaml, err, want)
		}
	}
}
