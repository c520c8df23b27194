package supervisor

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	pool := func(change func(*PoolConfig)) Config {
		p := PoolConfig{Name: "ocr", Command: []string{"worker"}}
		change(&p)
		return Config{Pools: []PoolConfig{p}}
	}
	for want, cfg := range map[string]Config{
		"": pool(func(p *PoolConfig) {
			p.Workers, p.Concurrency, p.Queue, p.Balance, p.Weights = 2, 65536, -1, Weighted, []int{1, 1000}
		}),
		"max_message: 65535: use a size from 64KiB to 1GiB":                                   {MaxMessage: 65535},
		"max_message: 1073741825: use a size from 64KiB to 1GiB":                              {MaxMessage: 1<<30 + 1},
		"pools: (none): name at least one pool, for example `echo: {builtin: echo}`":          {},
		"pools: a: there are two pools of this name":                                          {Pools: []PoolConfig{{Name: "a", Builtin: "echo"}, {Name: "a", Builtin: "echo"}}},
		`pools: "": a pool's name is 1 to 64 letters`:                                         pool(func(p *PoolConfig) { p.Name = "" }),
		`pools: "-a": a pool's name is 1 to 64 letters`:                                       pool(func(p *PoolConfig) { p.Name = "-a" }),
		`pools: "a/b": a pool's name is 1 to 64 letters`:                                      pool(func(p *PoolConfig) { p.Name = "a/b" }),
		`pools: "é": a pool's name is 1 to 64 letters`:                                        pool(func(p *PoolConfig) { p.Name = "é" }),
		`pools: "` + strings.Repeat("a", 65) + `": a pool's name is`:                          pool(func(p *PoolConfig) { p.Name = strings.Repeat("a", 65) }),
		"pools: ringmaster: this name is reserved for control requests; choose another":       pool(func(p *PoolConfig) { p.Name = ControlPool }),
		"pools.ocr.command: (none): give `command: [program, argument…]` or `builtin: NAME`":  pool(func(p *PoolConfig) { p.Command = nil }),
		"pools.ocr.builtin: echo: give either `command` or `builtin`, not both":               pool(func(p *PoolConfig) { p.Builtin = "echo" }),
		`pools.ocr.command: "": the program's name is empty`:                                  pool(func(p *PoolConfig) { p.Command = []string{"", "x"} }),
		"pools.ocr.workers: -1: use 1 to 1024":                                                pool(func(p *PoolConfig) { p.Workers = -1 }),
		"pools.ocr.workers: 1025: use 1 to 1024":                                              pool(func(p *PoolConfig) { p.Workers = 1025 }),
		"pools.ocr.concurrency: -1: use 1 to 65536":                                           pool(func(p *PoolConfig) { p.Concurrency = -1 }),
		"pools.ocr.concurrency: 65537: use 1 to 65536":                                        pool(func(p *PoolConfig) { p.Concurrency = 65537 }),
		"pools.ocr.queue: -2: use 0 to 1048576":                                               pool(func(p *PoolConfig) { p.Queue = -2 }),
		"pools.ocr.queue: 1048577: use 0 to 1048576":                                          pool(func(p *PoolConfig) { p.Queue = 1<<20 + 1 }),
		"pools.ocr.timeout: -1s: use a positive duration such as 60s":                         pool(func(p *PoolConfig) { p.Timeout = -time.Second }),
		"pools.ocr.start_timeout: -1s: use a positive duration such as 5m":                    pool(func(p *PoolConfig) { p.StartTimeout = -time.Second }),
		"pools.ocr.limits.lifetime: -1s: use a positive duration such as 24h":                 pool(func(p *PoolConfig) { p.Limits.Lifetime = -time.Second }),
		"pools.ocr.devices: -3: device numbers begin at 0":                                    pool(func(p *PoolConfig) { p.Devices.List = []int{0, -3} }),
		"pools.ocr.weights: [1]: balance: weighted needs one weight for each of the 2 worker": pool(func(p *PoolConfig) { p.Workers, p.Balance, p.Weights = 2, Weighted, []int{1} }),
		"pools.ocr.weights: []: balance: weighted needs one weight for each of the 1 workers": pool(func(p *PoolConfig) { p.Balance = Weighted }),
		"pools.ocr.weights: 0: use weights from 1 to 1000":                                    pool(func(p *PoolConfig) { p.Balance, p.Weights = Weighted, []int{0} }),
		"pools.ocr.actions.embed.batch.max: 1: use 2 to 1024":                                 pool(func(p *PoolConfig) { p.Actions = batching("embed", 1, 0) }),
		"pools.ocr.actions.embed.batch.max: 0: use 2 to 1024":                                 pool(func(p *PoolConfig) { p.Actions = batching("embed", 0, time.Second) }),
		"pools.ocr.actions.embed.batch.max: 1025: use 2 to 1024":                              pool(func(p *PoolConfig) { p.Actions = batching("embed", 1025, 0) }),
		"pools.ocr.actions.embed.batch.delay: 1.5s: use a duration up to 1s, such as 2ms":     pool(func(p *PoolConfig) { p.Actions = batching("embed", 2, 1500*time.Millisecond) }),
		"pools.ocr.actions.embed.batch.delay: -1ns: use a duration up to 1s, such as 2ms":     pool(func(p *PoolConfig) { p.Actions = batching("embed", 2, -1) }),
		"pools.ocr.actions.embed.batch: 8: requests are gathered in the queue":                pool(func(p *PoolConfig) { p.Queue, p.Actions = -1, batching("embed", 8, 0) }),
		`pools.ocr.actions: "": an action has a name`:                                         pool(func(p *PoolConfig) { p.Actions = batching("", 8, 0) }),
		"pools.ocr.weights: 1001: use weights from 1 to 1000":                                 pool(func(p *PoolConfig) { p.Balance, p.Weights = Weighted, []int{1001} }),
		"drain_timeout: -1s: use a duration up to 24h, such as 30s":                           {DrainTimeout: -time.Second, Pools: pool(func(*PoolConfig) {}).Pools},
		"pools.ocr.balance: dice: use least-connection, round-robin, weighted or hash":        pool(func(p *PoolConfig) { p.Balance = "dice" }),
		"pools.ocr.affinity_wait: 1s: it is for `balance: hash`":                              pool(func(p *PoolConfig) { p.AffinityWait = time.Second }),
	} {
		err := cfg.Validate()
		var field *FieldError
		switch {
		case want == "" && err != nil:
			t.Errorf("%v for a good configuration", err)
		case want != "" && (!errors.As(err, &field) || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%v, want %s", err, want)
		}
		if _, newErr := New(cfg); (newErr == nil) != (err == nil) {
			t.Errorf("New says %v, Validate %v", newErr, err)
		}
	}
}

func TestBuiltinPoolsNeedAnExecutable(t *testing.T) {
	_, err := New(Config{Pools: []PoolConfig{{Name: "a", Builtin: "echo"}}})
	if err == nil || err.Error() != "pools.a.builtin: echo: builtin pools need Config.Executable, a ringmaster binary" {
		t.Fatalf("error %v", err)
	}
}

func TestDefaults(t *testing.T) {
	given := []PoolConfig{{Name: "a", Command: []string{"worker"}}, {Name: "b", Command: []string{"worker"}, Queue: -1}}
	c := Config{Pools: given}.withDefaults()
	if p := c.Pools[0]; p.Workers != 1 || p.Concurrency != 1 || p.Queue != 256 || p.Timeout != time.Minute || p.StartTimeout != 5*time.Minute || p.Balance != LeastConnection {
		t.Errorf("defaults %+v", p)
	}
	if c.Pools[1].Queue != 0 || c.MaxMessage != 64<<20 || c.Logger == nil {
		t.Errorf("queue %d, message %d, logger %v", c.Pools[1].Queue, c.MaxMessage, c.Logger)
	}
	if given[0].Workers != 0 {
		t.Error("the caller's configuration was changed")
	}
}

func TestJitteredLimits(t *testing.T) {
	l := Limits{RSS: 1 << 30, Requests: 1000, Lifetime: time.Hour}
	if got := l.jittered(0); got != l {
		t.Errorf("not shortened at all: %+v", got)
	}
	if got, want := l.jittered(0.5), (Limits{RSS: 1020054733, Requests: 950, Lifetime: 57 * time.Minute}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := l.jittered(math.Nextafter(1, 0)); got.Requests < 900 || got.Lifetime < 54*time.Minute {
		t.Errorf("shortened by more than a tenth: %+v", got)
	}
	// A small limit must not become 0, which is none.
	if got := (Limits{Requests: 1, Lifetime: 1}).jittered(0.9); got.Requests != 1 || got.Lifetime != 1 {
		t.Errorf("%+v, want 1 and 1", got)
	}
	if got := (Limits{}).jittered(0.9); got != (Limits{}) {
		t.Errorf("%+v from no limits", got)
	}
}
