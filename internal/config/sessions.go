package config

import (
	"errors"

	"github.com/ringmasterd/ringmaster/chain/session"
)

var (
	sessionsFields = fields[session.Config]{
		"store": func(d *decoder, v value, c *session.Config) {
			d.oneOf(v, &c.Store, session.Memory, session.Bbolt, session.Redis)
		},
		"path": func(d *decoder, v value, c *session.Config) { d.text(v, &c.Path, "a file's path") },
		"url": func(d *decoder, v value, c *session.Config) {
			d.text(v, &c.URL, "a URL, as in redis://localhost:6379/0")
		},
		"ttl":          func(d *decoder, v value, c *session.Config) { d.duration(v, &c.TTL, 1, "24h") },
		"max_bytes":    func(d *decoder, v value, c *session.Config) { d.positiveSize(v, &c.MaxBytes) },
		"max_sessions": func(d *decoder, v value, c *session.Config) { d.integer(v, &c.MaxSessions, 1) },
		"max_total":    func(d *decoder, v value, c *session.Config) { d.positiveSize(v, &c.MaxTotal) },
		"on_conflict": func(d *decoder, v value, c *session.Config) {
			var s string
			if d.oneOf(v, &s, string(session.Queue), string(session.Abort)) {
				c.OnConflict = session.Conflict(s)
			}
		},
		"on_store_failure": func(d *decoder, v value, c *session.Config) {
			var s string
			if d.oneOf(v, &s, string(session.Fail), string(session.Stateless)) {
				c.OnStoreFailure = session.Failure(s)
			}
		},
	}
	sessionFields = fields[session.PoolConfig]{
		"conversation": func(d *decoder, v value, p *session.PoolConfig) {
			var s string
			if d.oneOf(v, &s, "true", "false") {
				p.Conversation = s == "true"
			}
		},
		"actions": func(d *decoder, v value, p *session.PoolConfig) {
			if d.texts(v, &p.Actions, "a list of actions, as in [chat]") && len(p.Actions) == 0 {
				d.fail(v, "[]", "the list is empty; remove the key for [chat]")
			}
		},
		"messages": func(d *decoder, v value, p *session.PoolConfig) {
			d.text(v, &p.Messages, "the name of a member of the body")
		},
	}
)

func (d *decoder) sessions(v value, f *File) {
	object(d, v, sessionsFields, &f.Sessions, "keys such as store; {} for the defaults")
	if f.Sessions.Store == "" {
		f.Sessions.Store = session.Memory
	}
}

func (d *decoder) positiveSize(v value, into *int64) {
	var n uint64
	if d.size(v, &n) && d.positive(v, n) {
		*into = int64(n)
	}
}

// poolSession notes what a pool has of sessions, unless that is nothing.
func (f *File) poolSession(name string, p session.PoolConfig) {
	if !p.Conversation && p.Actions == nil && p.Messages == "" {
		return
	}
	if f.Sessions.Pools == nil {
		f.Sessions.Pools = map[string]session.PoolConfig{}
	}
	f.Sessions.Pools[name] = p
}

// sessionMistake returns a [*session.FieldError] and the key that it is about; nil: it is not one.
func sessionMistake(err error) (string, *session.FieldError) {
	var field *session.FieldError
	switch {
	case !errors.As(err, &field):
		return "", nil
	case field.Pool != "":
		return "pools." + field.Pool + "." + field.Field, field
	}
	return field.Field, field
}
