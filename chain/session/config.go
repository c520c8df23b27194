package session

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"
)

// Config says whether and how sessions are kept. The zero values of its fields are the defaults named beside them.
type Config struct {
	Store       string        // memory, bbolt or redis; "": sessions are not kept
	Path        string        // bbolt: its file
	URL         string        // redis: redis://[user:password@]host:port/db, rediss:// with TLS, or unix:///path?db=0
	TTL         time.Duration // since the last request that was answered; 0: 24 h
	MaxBytes    int64         // of one session; 0: 1 MiB
	MaxSessions int           // memory, bbolt; 0: 10000
	MaxTotal    int64         // bytes of all sessions; memory, bbolt; 0: 256 MiB

	OnConflict     Conflict // "": queue
	OnStoreFailure Failure  // "": fail

	Pools map[string]PoolConfig // by name
}

// PoolConfig says what a pool's requests have of their sessions besides the context.
type PoolConfig struct {
	Conversation bool     // the messages of earlier requests, and their answers, go before those of the next
	Actions      []string // to which that applies; nil: chat
	Messages     string   // the member of the body that has the messages; "": messages
}

// Conflict is what becomes of requests of one session that come at the same time.
type Conflict string

// Failure is what becomes of a request whose session cannot be read or written.
type Failure string

// What there is of both.
const (
	Queue     Conflict = "queue"     // one after the other
	Abort     Conflict = "abort"     // side by side; the first to end counts, the others end with ABORTED/session_conflict
	Fail      Failure  = "fail"      // it ends with UNAVAILABLE/session_store
	Stateless Failure  = "stateless" // it goes on without a session, and the reply's header says `degraded: session`
)

// The stores.
const (
	Memory = "memory"
	Bbolt  = "bbolt"
	Redis  = "redis"
)

const (
	defaultTTL         = 24 * time.Hour
	defaultMaxBytes    = 1 << 20
	defaultMaxSessions = 10_000
	defaultMaxTotal    = 256 << 20
	minTTL             = time.Second
	maxTTL             = 10 * 365 * 24 * time.Hour
	defaultAction      = "chat"
	defaultMessages    = "messages"
)

// FieldError says which field of a [Config] is wrong.
type FieldError struct {
	Pool  string // "" for a field outside of pools
	Field string // as in the configuration file, such as sessions.ttl
	Value any
	Want  string // what would be right
}

func (e *FieldError) Error() string {
	where := e.Field
	if e.Pool != "" {
		where = fmt.Sprintf("pools.%s.%s", e.Pool, e.Field)
	}
	return fmt.Sprintf("%s: %v: %s", where, e.Value, e.Want)
}

// Validate reports the first field that is wrong, as a [*FieldError].
func (c Config) Validate() error {
	bad := func(field string, value any, want string) error {
		return &FieldError{"", "sessions." + field, value, want}
	}
	switch {
	case !slices.Contains([]string{"", Memory, Bbolt, Redis}, c.Store):
		return bad("store", c.Store, "use memory, bbolt or redis")
	case c.Store == Bbolt && c.Path == "":
		return bad("path", "(none)", "say in which file bbolt is to keep them, as in /var/lib/ringmaster/sessions.db")
	case c.Store != Bbolt && c.Path != "":
		return bad("path", c.Path, "it is for `store: bbolt`; set that, or remove the key")
	case c.Store == Redis && c.URL == "":
		return bad("url", "(none)", "say where Redis is, as in redis://localhost:6379/0 or unix:///run/redis/redis.sock")
	case c.Store != Redis && c.URL != "":
		return bad("url", hidden(c.URL), "it is for `store: redis`; set that, or remove the key")
	case c.TTL != 0 && (c.TTL < minTTL || c.TTL > maxTTL):
		return bad("ttl", c.TTL, "use a duration from 1s to ten years, such as 24h")
	case c.MaxBytes < 0:
		return bad("max_bytes", c.MaxBytes, "use a positive size such as 1MiB")
	case c.MaxSessions < 0:
		return bad("max_sessions", c.MaxSessions, "use a number of 1 or more")
	case c.MaxTotal < 0:
		return bad("max_total", c.MaxTotal, "use a positive size such as 256MiB")
	case c.Store == Redis && c.MaxSessions != 0:
		return bad("max_sessions", c.MaxSessions, "Redis has limits of its own (maxmemory, maxmemory-policy); remove the key")
	case c.Store == Redis && c.MaxTotal != 0:
		return bad("max_total", c.MaxTotal, "Redis has limits of its own (maxmemory, maxmemory-policy); remove the key")
	case !slices.Contains([]Conflict{"", Queue, Abort}, c.OnConflict):
		return bad("on_conflict", c.OnConflict, "use queue or abort")
	case !slices.Contains([]Failure{"", Fail, Stateless}, c.OnStoreFailure):
		return bad("on_store_failure", c.OnStoreFailure, "use fail or stateless")
	}
	if d := c.withDefaults(); c.Store != Redis && 2*d.MaxBytes > d.MaxTotal {
		return bad("max_total", d.MaxTotal, fmt.Sprintf("use at least %d bytes, twice max_bytes", 2*d.MaxBytes))
	}
	if c.Store == Redis {
		if _, err := redisOptions(c.URL); err != nil {
			return bad("url", hidden(c.URL), err.Error())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Pools)) {
		if err := c.validatePool(name); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) validatePool(name string) error {
	p := c.Pools[name]
	switch {
	case p.Conversation && c.Store == "":
		return &FieldError{name, "session.conversation", true, "nothing keeps sessions; add `sessions: {store: memory}`, or bbolt or redis"}
	case slices.Contains(p.Actions, ""):
		return &FieldError{name, "session.actions", `""`, "an action has a name"}
	case !p.Conversation && p.Actions != nil:
		return &FieldError{name, "session.actions", p.Actions, "it is for `conversation: true`; set that, or remove the key"}
	case !p.Conversation && p.Messages != "":
		return &FieldError{name, "session.messages", p.Messages, "it is for `conversation: true`; set that, or remove the key"}
	}
	return nil
}

// hidden is a URL without its password.
func hidden(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(a URL that cannot be read)"
	}
	return u.Redacted()
}

// withDefaults returns a copy in which every default is filled in.
func (c Config) withDefaults() Config {
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = defaultMaxSessions
	}
	if c.MaxTotal == 0 {
		c.MaxTotal = defaultMaxTotal
	}
	if c.OnConflict == "" {
		c.OnConflict = Queue
	}
	if c.OnStoreFailure == "" {
		c.OnStoreFailure = Fail
	}
	return c
}

// messages returns the member of the body that has the messages of a conversation; "": the action holds none.
func (c *Config) messages(pool, action string) string {
	p, ok := c.Pools[pool]
	switch {
	case !ok || !p.Conversation:
		return ""
	case p.Actions == nil && action != defaultAction, p.Actions != nil && !slices.Contains(p.Actions, action):
		return ""
	case p.Messages == "":
		return defaultMessages
	}
	return p.Messages
}
