package cache

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Config says what is cached. The zero value caches nothing.
type Config struct {
	MaxBytes int64 // that entries and answers on their way into the cache may take; 0: 256 MiB
	Prefetch Prefetch
	Pools    map[string]Pool // those with actions that concern the cache
}

// Pool is what the cache knows of a pool.
type Pool struct {
	Version string        // what its workers are: any change of it makes all earlier answers unfit
	Timeout time.Duration // a request's deadline if it brings none; 0: 60 s
	Actions map[string]Action
}

// Action says what is done about one action.
type Action struct {
	TTL      time.Duration // how long an answer is good; 0: answers are not cached
	Stale    time.Duration // for how much longer it may stand in where there is no other
	MaxEntry int64         // bytes of the largest answer that is kept; 0: 1 MiB
	Shared   bool          // one user's answers may be given to another
	Then     []Follow      // what is asked next as a rule
}

// Follow is a request that follows another.
type Follow struct {
	Pool, Action string
	Body         any // as YAML has it; strings such as $reply.text stand for a part of the reply or the request
}

// Prefetch says how requests are asked in advance.
type Prefetch struct {
	Learn       bool // from what clients ask one after the other
	Concurrency int  // at a time; 0: 1
}

// The bounds of a [Config].
const (
	defaultMaxBytes    = 256 << 20
	minMaxBytes        = 1 << 20
	defaultMaxEntry    = 1 << 20
	entryShare         = 16 // the largest entry is at most this part of max_bytes
	maxMaxEntry        = 1 << 30
	defaultTimeout     = 60 * time.Second
	maxTTL             = 365 * 24 * time.Hour
	maxConcurrency     = 64
	defaultConcurrency = 1
	maxFollows         = 16
)

// FieldError is a bad value in a [Config]: which field, the value, and what would be right.
type FieldError struct {
	Field string // as in the configuration file, such as pools.embed.actions.embed.cache.ttl
	Value any
	Want  string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Field, e.Value, e.Want) }

// Validate reports the first field that is wrong, as a [*FieldError].
func (c *Config) Validate() error {
	switch {
	case c.MaxBytes != 0 && c.MaxBytes < minMaxBytes:
		return &FieldError{"cache.max_bytes", c.MaxBytes, "use 1MiB or more"}
	case c.Prefetch.Concurrency < 0 || c.Prefetch.Concurrency > maxConcurrency:
		return &FieldError{"prefetch.concurrency", c.Prefetch.Concurrency, fmt.Sprintf("use 1 to %d", maxConcurrency)}
	}
	for _, pool := range slices.Sorted(maps.Keys(c.Pools)) {
		for _, action := range slices.Sorted(maps.Keys(c.Pools[pool].Actions)) {
			if err := c.validateAction("pools."+pool+".actions."+action, c.Pools[pool].Actions[action]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Config) validateAction(field string, a Action) error {
	largest := c.withDefaults().MaxBytes / entryShare
	switch {
	case a.TTL < 0 || a.TTL > maxTTL:
		return &FieldError{field + ".cache.ttl", a.TTL, "use a duration such as 10m, 8760h at most"}
	case a.TTL == 0 && (a.Stale != 0 || a.MaxEntry != 0 || a.Shared):
		return &FieldError{field + ".cache.ttl", "(none)", "say how long an answer is good, as in {ttl: 10m}"}
	case a.Stale < 0 || a.Stale > maxTTL:
		return &FieldError{field + ".cache.stale", a.Stale, "use a duration such as 1h, 8760h at most"}
	case a.MaxEntry < 0 || a.MaxEntry > largest:
		return &FieldError{field + ".cache.max_entry", a.MaxEntry, fmt.Sprintf("use at most %d bytes, a %dth of cache.max_bytes, or a larger cache.max_bytes", largest, entryShare)}
	case a.MaxEntry > maxMaxEntry:
		return &FieldError{field + ".cache.max_entry", a.MaxEntry, "use 1GiB at most"}
	case len(a.Then) > maxFollows:
		return &FieldError{field + ".then", len(a.Then), fmt.Sprintf("name at most %d requests", maxFollows)}
	}
	for i, f := range a.Then {
		where := fmt.Sprintf("%s.then[%d]", field, i)
		if c.Pools[f.Pool].Actions[f.Action].TTL == 0 {
			return &FieldError{where + ".action", f.Pool + " " + f.Action, "answers of this action are not cached, so that asking in advance is of no use; give it `cache: {ttl: …}`"}
		}
		if err := checkTemplate(f.Body); err != nil {
			return &FieldError{where + ".body", fmt.Sprint(f.Body), err.Error()}
		}
	}
	return nil
}

func (c *Config) withDefaults() Config {
	d := *c
	if d.MaxBytes == 0 {
		d.MaxBytes = defaultMaxBytes
	}
	if d.Prefetch.Concurrency == 0 {
		d.Prefetch.Concurrency = defaultConcurrency
	}
	return d
}

// Bound is how many bytes the cache takes at most; 0: it is not used.
func (c *Config) Bound() int64 {
	if !c.enabled() {
		return 0
	}
	return c.withDefaults().MaxBytes
}

// enabled reports whether there is anything to do.
func (c *Config) enabled() bool {
	for _, p := range c.Pools {
		for _, a := range p.Actions {
			if a.TTL > 0 {
				return true
			}
		}
	}
	return false
}
