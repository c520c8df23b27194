package session

import (
	"errors"
	"log/slog"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	pool := func(p PoolConfig) map[string]PoolConfig { return map[string]PoolConfig{"p": p} }
	for _, tt := range []struct {
		cfg  Config
		want string // "": it is right
	}{
		{Config{}, ""},
		{Config{Store: Memory, TTL: time.Hour, Pools: pool(PoolConfig{Conversation: true, Actions: []string{"a"}, Messages: "m"})}, ""},
		{Config{Store: Redis, URL: "redis://localhost:6379/0"}, ""},
		{Config{Store: Redis, URL: "unix:///run/redis.sock?db=1"}, ""},
		{Config{Store: "etcd"}, "sessions.store: etcd: use memory, bbolt or redis"},
		{Config{Store: Bbolt}, "sessions.path: (none): say in which file bbolt is to keep them, as in /var/lib/ringmaster/sessions.db"},
		{Config{Store: Memory, Path: "x"}, "sessions.path: x: it is for `store: bbolt`; set that, or remove the key"},
		{Config{Store: Redis}, "sessions.url: (none): say where Redis is, as in redis://localhost:6379/0 or unix:///run/redis/redis.sock"},
		{Config{Store: Redis, URL: "http://u:secret@x"}, "sessions.url: http://u:xxxxx@x: use redis://[user:password@]host:port/db, rediss://… or unix:///path?db=0"},
		{Config{Store: Memory, URL: "redis://u:secret@x"}, "sessions.url: redis://u:xxxxx@x: it is for `store: redis`; set that, or remove the key"},
		{Config{Store: Memory, TTL: time.Millisecond}, "sessions.ttl: 1ms: use a duration from 1s to ten years, such as 24h"},
		{Config{Store: Memory, MaxBytes: -1}, "sessions.max_bytes: -1: use a positive size such as 1MiB"},
		{Config{Store: Memory, MaxSessions: -1}, "sessions.max_sessions: -1: use a number of 1 or more"},
		{Config{Store: Memory, MaxTotal: -1}, "sessions.max_total: -1: use a positive size such as 256MiB"},
		{Config{Store: Memory, MaxTotal: 1000}, "sessions.max_total: 1000: use at least 2097152 bytes, twice max_bytes"},
		{Config{Store: Redis, URL: "redis://x", MaxSessions: 5}, "sessions.max_sessions: 5: Redis has limits of its own (maxmemory, maxmemory-policy); remove the key"},
		{Config{Store: Memory, OnConflict: "fight"}, "sessions.on_conflict: fight: use queue or abort"},
		{Config{Store: Memory, OnStoreFailure: "ignore"}, "sessions.on_store_failure: ignore: use fail or stateless"},
		{Config{Pools: pool(PoolConfig{Conversation: true})}, "pools.p.session.conversation: true: nothing keeps sessions; add `sessions: {store: memory}`, or bbolt or redis"},
		{Config{Store: Memory, Pools: pool(PoolConfig{Messages: "m"})}, "pools.p.session.messages: m: it is for `conversation: true`; set that, or remove the key"},
		{Config{Store: Memory, Pools: pool(PoolConfig{Conversation: true, Actions: []string{""}})}, `pools.p.session.actions: "": an action has a name`},
	} {
		err := tt.cfg.Validate()
		var field *FieldError
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%+v: %v", tt.cfg, err)
		case tt.want != "" && (!errors.As(err, &field) || err.Error() != tt.want):
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
	if _, err := New(Config{Store: "etcd"}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}
