package session

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// remote keeps sessions in Redis, where several servers can share them: each a string, stamp (16 bytes) · record, that expires by itself. Compare and set is a script, which Redis runs alone. A commit whose answer
// is lost is tried again: one that was done before is told so.
type remote struct {
	client *redis.Client
	limits atomic.Pointer[Limits]
}

const (
	redisPrefix  = "ringmaster:session:"
	redisTimeout = time.Second           // to connect, and for one answer
	redisPause   = 50 * time.Millisecond // before a commit is tried again, then twice as long each time
)

// redisCommit replaces the value of KEYS[1] by ARGV[2] if it begins with the stamp ARGV[1] (empty: if there is none) or is ARGV[2] already, for ARGV[3] milliseconds.
var redisCommit = redis.NewScript(`
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] and redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1`)

// redisOptions reads a URL.
func redisOptions(url string) (*redis.Options, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("use redis://[user:password@]host:port/db, rediss://… or unix:///path?db=0")
	}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = redisTimeout, redisTimeout, redisTimeout, redisTimeout
	o.ContextTimeoutEnabled = true
	o.MaxRetries, o.DialerRetries = -1, 1
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return o, nil
}

// silence keeps go-redis from writing to standard error: its errors come back from calls.
var silence = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// openRedis does not connect yet: a server may start before Redis does.
func openRedis(url string, limits Limits) (*remote, error) {
	silence()
	o, err := redisOptions(url)
	if err != nil {
		return nil, err
	}
	r := &remote{client: redis.NewClient(o)}
	r.limits.Store(&limits)
	return r, nil
}

// Load implements [Store].
func (r *remote) Load(ctx context.Context, key string) (Stamp, []byte, error) {
	v, err := r.client.Get(ctx, redisPrefix+key).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return Stamp{}, nil, nil
	case err != nil:
		return Stamp{}, nil, err
	}
	stamp, data, ok := cutStamp(v)
	if !ok {
		return Stamp{}, nil, errors.New("what is stored under " + redisPrefix + key + " is no session")
	}
	return stamp, data, nil
}

// Commit implements [Store].
func (r *remote) Commit(ctx context.Context, key string, was, is Stamp, data []byte) error {
	from := []byte{}
	if was != (Stamp{}) {
		from = was.append(nil)
	}
	v := append(is.append(make([]byte, 0, stampSize+len(data))), data...)
	for pause := redisPause; ; pause *= 2 {
		done, err := redisCommit.Run(ctx, r.client, []string{redisPrefix + key}, from, v, r.limits.Load().TTL.Milliseconds()).Int()
		if err == nil && done == 0 {
			err = errConflict
		}
		if !lost(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// lost reports whether an error leaves open what Redis has done: it is none that Redis answered with, but for one of a Redis that is not up yet.
func lost(err error) bool {
	var answered redis.Error
	return err != nil && !errors.Is(err, errConflict) && !errors.Is(err, redis.ErrClosed) && (!errors.As(err, &answered) || redis.IsLoadingError(err))
}

// Remove implements [Store].
func (r *remote) Remove(ctx context.Context, key string) (bool, error) {
	n, err := r.client.Del(ctx, redisPrefix+key).Result()
	return n > 0, err
}

// List implements [Store].
func (r *remote) List(ctx context.Context, prefix string, visit func(Info) bool) error {
	seen := map[string]bool{} // SCAN may tell a key twice
	for keys := r.client.Scan(ctx, 0, redisPrefix+globbed(prefix)+"*", 256).Iterator(); ; {
		if !keys.Next(ctx) {
			return keys.Err()
		}
		if seen[keys.Val()] {
			continue
		}
		seen[keys.Val()] = true
		info, err := r.info(ctx, keys.Val())
		if err != nil {
			return err
		}
		if info.Version > 0 && !visit(info) {
			return nil
		}
	}
}

// info looks at one session; without a version it has gone.
func (r *remote) info(ctx context.Context, key string) (Info, error) {
	pipe := r.client.Pipeline()
	head, size, left := pipe.GetRange(ctx, key, 0, stampSize-1), pipe.StrLen(ctx, key), pipe.PTTL(ctx, key)
	if _, err := pipe.Exec(ctx); err != nil {
		return Info{}, err
	}
	stamp, _, ok := cutStamp([]byte(head.Val()))
	if !ok {
		return Info{}, nil
	}
	idle := time.Duration(-1)
	if ttl := r.limits.Load().TTL; left.Val() > 0 && left.Val() <= ttl {
		idle = ttl - left.Val()
	}
	return Info{Key: strings.TrimPrefix(key, redisPrefix), Version: stamp.Version, Bytes: size.Val() - stampSize, Idle: idle}, nil
}

// globbed makes a text match itself.
func globbed(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(s)
}

// Limit implements [Store]. How many sessions there are is Redis's own affair.
func (r *remote) Limit(l Limits) { r.limits.Store(&l) }

// Count implements [Store].
func (r *remote) Count() Count { return Count{} }

// Close implements [Store].
func (r *remote) Close() error { return r.client.Close() }
