package auth

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/chain"
	"github.com/ringmasterd/ringmaster/ipc"
)

// benchConfig is one of ten roles and a thousand tokens.
func benchConfig() (cfg Config, token string) {
	cfg = Config{Given: true, Roles: map[string]Role{"app": {Allow: rules("smollm2 embed-*", "chat embed"), Rate: 1e9, Burst: 1e9, Cost: 1 << 40}}, Users: map[string][]string{"alice": {"app"}}, Tokens: map[string]Token{}}
	for i := range 10 {
		name := fmt.Sprint("role-", i)
		cfg.Roles[name] = Role{Allow: rules("other-*", "*")}
		cfg.Users["alice"] = append([]string{name}, cfg.Users["alice"]...)
	}
	for i := range 1000 {
		text, hash := NewToken()
		cfg.Tokens[fmt.Sprint("t", i)] = Token{Hash: hash, Roles: []string{"app"}, Expires: time.Now().Add(time.Hour)}
		token = text
	}
	return cfg, token
}

func through(context.Context, *ipc.Request) (ipc.Replies, error) { return nil, nil }

// What the link costs a request: beside the handler alone, a server without a configuration, one of a known user, and one with a token.
func BenchmarkLink(b *testing.B) {
	given, token := benchConfig()
	alice := chain.Peer{UID: 1000, Standing: chain.Stranger, Memo: new(atomic.Value)}
	remote := chain.Peer{UID: chain.NoID, Standing: chain.Remote}
	for _, bb := range []struct {
		name          string
		cfg           Config
		peer          chain.Peer
		authorization string
	}{{"open", Config{}, alice, ""}, {"user", given, alice, ""}, {"token", given, remote, "Bearer " + token}} {
		b.Run(bb.name, func(b *testing.B) {
			a := newTest(b, bb.cfg, bb.peer.Standing == chain.Remote)
			handle := a.Link(through)
			ctx := chain.WithPeer(context.Background(), bb.peer)
			req := &ipc.Request{Pool: "smollm2", Action: "chat", Body: make([]byte, 64), Headers: map[string]string{}}
			b.ReportAllocs()
			for b.Loop() {
				if bb.authorization != "" {
					req.Headers[Header] = bb.authorization
				}
				if _, err := handle(ctx, req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("control", func(b *testing.B) {
		handle := chain.New(through)
		req := &ipc.Request{}
		for b.Loop() {
			_, _ = handle(context.Background(), req)
		}
	})
}

// A decision about a known identity allocates nothing.
func TestDecisionsDoNotAllocate(t *testing.T) {
	cfg, token := benchConfig()
	a := newTest(t, cfg, true)
	handle := a.Link(through)
	for name, tt := range map[string]struct {
		peer          chain.Peer
		authorization string
	}{"user": {chain.Peer{UID: 1000, Standing: chain.Stranger, Memo: new(atomic.Value)}, ""}, "token": {chain.Peer{UID: chain.NoID, Standing: chain.Remote}, "Bearer " + token}} {
		ctx := chain.WithPeer(context.Background(), tt.peer)
		req := &ipc.Request{Pool: "smollm2", Action: "chat", Body: make([]byte, 64), Headers: map[string]string{}}
		if n := testing.AllocsPerRun(100, func() {
			if tt.authorization != "" {
				req.Headers[Header] = tt.authorization
			}
			if _, err := handle(ctx, req); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
