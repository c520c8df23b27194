// Package config reads ringmaster.yaml.
//
// Every mistake in the file is reported at once, each as file:line:column, key, value and what would be right. Values may use ${VAR} and ${VAR:-default}; keys may not.
// The syntax is that of docs/ringmaster.schema.json; a test keeps the two alike.
//
// Read in this order: config.go (the file's keys), auth.go (those of `auth`), decode.go (walking YAML), value.go (durations, sizes), expand.go (${VAR}), suggest.go (did you mean), error.go.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/chain/cache"
	"github.com/ringmasterd/ringmaster/chain/pipeline"
	"github.com/ringmasterd/ringmaster/chain/resilience"
	"github.com/ringmasterd/ringmaster/chain/session"
	"github.com/ringmasterd/ringmaster/chain/trace"
	"github.com/ringmasterd/ringmaster/gateway"
	"github.com/ringmasterd/ringmaster/internal/address"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// maxFile is the largest configuration file, in bytes; a larger one is some other file.
const maxFile = 4 << 20

// File is a configuration file's content. Fields that the file does not set are zero.
type File struct {
	Path        string
	Supervisor  supervisor.Config
	Gateway     gateway.Config
	Auth        auth.Config
	Resilience  resilience.Config
	Pipelines   pipeline.Config
	Sessions    session.Config
	Socket      string      // address to listen on
	SocketGroup string      // name or number
	SocketMode  os.FileMode // 0: the usual one
	Listen      string      // address of a port; "": none
	Log         Log
	Cache       cache.Config
	Tracing     trace.Config

	at map[string]position // of every key that the file has

	elsewhere *File // tokens_file: the keys that are there
}

// pool is what the file says of a pool: to the supervisor, and to the links of the call chain.
type pool struct {
	supervisor.PoolConfig
	version    string
	cached     map[string]cache.Action
	resilience resilience.Pool
	session    session.PoolConfig
}

// action is what it says of one of a pool's actions.
type action struct {
	supervisor.ActionConfig
	cache cache.Action
}

// Log says how to log.
type Log struct {
	Level    string // debug, info, warn, error
	Format   string // text, json
	Requests bool   // each request, at level info
}

// The keys of the file, by the object they are in.
var (
	fileFields = fields[File]{
		"pools":          (*decoder).pools,
		"pipelines":      (*decoder).pipelines,
		"socket":         (*decoder).socket,
		"socket_group":   func(d *decoder, v value, f *File) { d.text(v, &f.SocketGroup, "a group's name or number") },
		"socket_mode":    (*decoder).socketMode,
		"listen":         (*decoder).listen,
		"listen_origins": (*decoder).origins,
		"auth": func(d *decoder, v value, f *File) {
			f.Auth.Given = true
			object(d, v, authFields, &f.Auth, "keys such as roles and users")
		},
		"max_message": func(d *decoder, v value, f *File) {
			var n uint64
			if d.size(v, &n) {
				f.Supervisor.MaxMessage = int(min(n, 1<<62))
			}
		},
		"memory": func(d *decoder, v value, f *File) {
			var n uint64
			if d.size(v, &n) && d.positive(v, n) {
				f.Gateway.Memory = int64(n)
			}
		},
		"clients": func(d *decoder, v value, f *File) {
			object(d, v, clientFields, &f.Gateway.Clients, "connections and in_flight")
		},
		"arenas": func(d *decoder, v value, f *File) {
			object(d, v, arenaFields, &f.Gateway.Arenas, "client and total, as in {client: 256MiB, total: 1GiB}")
		},
		"drain_timeout": func(d *decoder, v value, f *File) { d.duration(v, &f.Supervisor.DrainTimeout, 1, "30s") },
		"sessions":      (*decoder).sessions,
		"log":           func(d *decoder, v value, f *File) { object(d, v, logFields, &f.Log, "level and format") },
		"cache":         func(d *decoder, v value, f *File) { object(d, v, cacheFields, &f.Cache, "max_bytes") },
		"prefetch": func(d *decoder, v value, f *File) {
			object(d, v, prefetchFields, &f.Cache.Prefetch, "learn and concurrency")
		},
		"tracing": func(d *decoder, v value, f *File) {
			object(d, v, tracingFields, &f.Tracing, "otlp, file, sample and recent")
		},
	}
	clientFields = fields[gateway.Limits]{
		"connections": func(d *decoder, v value, l *gateway.Limits) { d.integer(v, &l.Connections, 1) },
		"in_flight":   func(d *decoder, v value, l *gateway.Limits) { d.integer(v, &l.InFlight, 1) },
	}
	arenaFields = fields[gateway.Arenas]{
		"client": func(d *decoder, v value, a *gateway.Arenas) {
			var n uint64
			if d.size(v, &n) {
				a.Client, a.Off = int64(n), n == 0
			}
		},
		"total": func(d *decoder, v value, a *gateway.Arenas) {
			var n uint64
			if d.size(v, &n) && d.positive(v, n) {
				a.Total = int64(n)
			}
		},
	}
	logFields = fields[Log]{
		"level":  func(d *decoder, v value, l *Log) { d.oneOf(v, &l.Level, "debug", "info", "warn", "error") },
		"format": func(d *decoder, v value, l *Log) { d.oneOf(v, &l.Format, "text", "json") },
		"requests": func(d *decoder, v value, l *Log) {
			var s string
			if d.oneOf(v, &s, "true", "false") {
				l.Requests = s == "true"
			}
		},
	}
	tracingFields = fields[trace.Config]{
		"otlp": func(d *decoder, v value, c *trace.Config) {
			d.text(v, &c.OTLP, "a collector's URL, as in http://127.0.0.1:4318")
		},
		"file": func(d *decoder, v value, c *trace.Config) { d.text(v, &c.File, "an absolute path") },
		"sample": func(d *decoder, v value, c *trace.Config) {
			if d.part(v, &c.Sample) && c.Sample == 0 {
				c.Sample = -1 // none; the zero value is the default
			}
		},
		"recent": func(d *decoder, v value, c *trace.Config) {
			if d.integer(v, &c.Recent, 0) && c.Recent == 0 {
				c.Recent = -1 // likewise
			}
		},
	}
	poolFields = fields[pool]{
		"command": func(d *decoder, v value, p *pool) {
			d.texts(v, &p.Command, "a list, as in [python, -m, my_worker]")
		},
		"builtin": func(d *decoder, v value, p *pool) {
			d.text(v, &p.Builtin, "a builtin's name, as in echo")
		},
		"dir":         func(d *decoder, v value, p *pool) { d.text(v, &p.Dir, "a directory") },
		"env":         func(d *decoder, v value, p *pool) { d.env(v, &p.Env) },
		"workers":     func(d *decoder, v value, p *pool) { d.integer(v, &p.Workers, 1) },
		"concurrency": func(d *decoder, v value, p *pool) { d.integer(v, &p.Concurrency, 1) },
		"devices":     (*decoder).devices,
		"balance":     (*decoder).balance,
		"affinity_wait": func(d *decoder, v value, p *pool) {
			if d.duration(v, &p.AffinityWait, 0, "500ms"); p.AffinityWait == 0 {
				p.AffinityWait = -1 // not at all; the zero value is the default
			}
		},
		"session": func(d *decoder, v value, p *pool) {
			object(d, v, sessionFields, &p.session, "keys such as conversation")
		},
		"weights": func(d *decoder, v value, p *pool) {
			d.integers(v, &p.Weights, 1, "a list of weights, as in [1, 3]")
		},
		"queue": func(d *decoder, v value, p *pool) {
			if d.integer(v, &p.Queue, 0) && p.Queue == 0 {
				p.Queue = -1 // none; the zero value is the default
			}
		},
		"timeout":       func(d *decoder, v value, p *pool) { d.duration(v, &p.Timeout, 1, "60s") },
		"start_timeout": func(d *decoder, v value, p *pool) { d.duration(v, &p.StartTimeout, 1, "5m") },
		"hang_timeout":  func(d *decoder, v value, p *pool) { d.duration(v, &p.HangTimeout, 0, "30s") },
		"grace":         func(d *decoder, v value, p *pool) { d.duration(v, &p.Grace, 1, "5s") },
		"replace": func(d *decoder, v value, p *pool) {
			var s string
			if d.oneOf(v, &s, string(supervisor.ReplaceAuto), string(supervisor.StartFirst), string(supervisor.StopFirst)) {
				p.Replace = supervisor.Replace(s)
			}
		},
		"limits": func(d *decoder, v value, p *pool) {
			object(d, v, limitFields, &p.Limits, "rss, vram, requests, lifetime, idle")
		},
		"rlimits": func(d *decoder, v value, p *pool) {
			p.Rlimits = map[string]uint64{}
			object(d, v, rlimitFields, &p.Rlimits, "limits such as nofile")
		},
		"env_pass": func(d *decoder, v value, p *pool) {
			if d.texts(v, &p.EnvPass, "a list of names, as in [MODEL_DIR, AWS_*]") && len(p.EnvPass) == 0 {
				d.fail(v, "[]", "the list is empty; remove the key")
			}
		},
		"resilience": func(d *decoder, v value, p *pool) {
			object(d, v, resilienceFields, &p.resilience, "retry, breaker, hedge and fallback")
		},
		"user":  func(d *decoder, v value, p *pool) { d.text(v, &p.User, "a user's name or number") },
		"group": func(d *decoder, v value, p *pool) { d.text(v, &p.Group, "a group's name or number") },
		"cpus":  (*decoder).cpus,
		"actions": func(d *decoder, v value, p *pool) {
			entries, ok := d.entries(v, "actions by name, as in {embed: {batch: {max: 32, delay: 2ms}}}")
			if !ok {
				return
			}
			p.Actions, p.cached = map[string]supervisor.ActionConfig{}, map[string]cache.Action{}
			for _, e := range entries {
				var a action
				object(d, e.value, actionFields, &a, "keys such as batch and cache")
				if a.ActionConfig != (supervisor.ActionConfig{}) { // else it is not the supervisor's affair
					p.Actions[e.name] = a.ActionConfig
				}
				p.cached[e.name] = a.cache
			}
			if len(p.Actions) == 0 {
				p.Actions = nil
			}
		},
		"version": func(d *decoder, v value, p *pool) {
			d.text(v, &p.version, "a text that says which model the workers have, as in 2026-05")
		},
	}
	actionFields = fields[action]{
		"cache": func(d *decoder, v value, a *action) {
			object(d, v, cachedFields, &a.cache, "ttl, stale, max_entry, shared")
			if a.cache.TTL == 0 && len(d.errs) == 0 {
				d.fail(v, "(none)", "say how long an answer is good, as in {ttl: 10m}")
			}
		},
		"then": (*decoder).then,
		"batch": func(d *decoder, v value, a *action) {
			object(d, v, batchFields, &a.Batch, "max and delay, as in {max: 32, delay: 2ms}")
			if _, given := d.file.at[v.key+".max"]; !given && len(d.errs) == 0 {
				d.fail(v, "(none)", "say how many requests may be one call, as in {max: 32}")
			}
		},
	}
	batchFields = fields[supervisor.Batch]{
		"max":   func(d *decoder, v value, b *supervisor.Batch) { d.integer(v, &b.Max, 2) },
		"delay": func(d *decoder, v value, b *supervisor.Batch) { d.duration(v, &b.Delay, 0, "2ms") },
	}
	limitFields = fields[supervisor.Limits]{
		"rss":      func(d *decoder, v value, l *supervisor.Limits) { d.size(v, &l.RSS) },
		"vram":     func(d *decoder, v value, l *supervisor.Limits) { d.size(v, &l.VRAM) },
		"requests": func(d *decoder, v value, l *supervisor.Limits) { d.count(v, &l.Requests) },
		"lifetime": func(d *decoder, v value, l *supervisor.Limits) { d.duration(v, &l.Lifetime, 0, "24h") },
		"idle":     func(d *decoder, v value, l *supervisor.Limits) { d.duration(v, &l.Idle, 0, "10m") },
	}
	rlimitFields = fields[map[string]uint64]{
		"as": rlimit((*decoder).size), "core": rlimit((*decoder).size), "data": rlimit((*decoder).size), "fsize": rlimit((*decoder).size),
		"memlock": rlimit((*decoder).size), "stack": rlimit((*decoder).size), "nofile": rlimit((*decoder).count), "nproc": rlimit((*decoder).count),
	}
)

// Load reads a configuration file. The error is an [Errors] if the file could be read.
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data, os.LookupEnv)
}

// Parse reads the content of a configuration file. Errors name the file as path; variables come from lookup.
func Parse(path string, data []byte, lookup func(string) (string, bool)) (*File, error) {
	f := &File{Path: path, at: map[string]position{}}
	d := &decoder{file: f, lookup: lookup}
	root, err := parseYAML(path, data)
	if err != nil {
		return nil, Errors{err}
	}
	if root == nil {
		return nil, Errors{f.error(position{1, 1}, "pools", "(none)", "the file is empty; a configuration begins with `pools:`")}
	}
	object(d, value{node: root}, fileFields, f, "keys such as pools")
	if len(d.errs) > 0 {
		return nil, d.errs
	}
	if err := f.Supervisor.Validate(); err != nil {
		return nil, f.Locate(err)
	}
	if err := f.Resilience.Validate(f.PoolNames()); err != nil {
		return nil, f.Locate(err)
	}
	if err := f.Pipelines.Validate(f.PoolNames()); err != nil {
		return nil, f.Locate(err)
	}
	f.Gateway.MaxMessage = f.Supervisor.MaxMessage
	if err := f.Gateway.Validate(); err != nil {
		return nil, f.Locate(err)
	}
	if err := f.Sessions.Validate(); err != nil {
		return nil, f.Locate(err)
	}
	if err := f.Auth.Validate(); err != nil {
		return nil, f.Locate(err)
	}
	if err := f.Cache.Validate(); err != nil {
		return nil, f.Locate(err)
	}
	if f.Listen != "" && len(f.Auth.Tokens) == 0 {
		return nil, Errors{f.error(f.find("listen"), "listen", f.Listen, "there is no token, and each request by TCP needs one; `ringmaster auth token NAME` makes one for `auth.tokens`")}
	}
	f.Tracing.Requests = f.Log.Requests
	if err := f.Tracing.Validate(); err != nil {
		return nil, f.Locate(err)
	}
	return f, nil
}

// Locate adds to the FieldError of a package that is configured here where in the file the field is. Other errors it returns as they are.
func (f *File) Locate(err error) error {
	var access *auth.FieldError
	if errors.As(err, &access) {
		if key, ok := strings.CutPrefix(access.Field, "auth.tokens."); ok && f.elsewhere != nil {
			name, _, _ := strings.Cut(key, ".")
			if _, there := f.elsewhere.at["auth.tokens."+name]; there {
				return Errors{f.elsewhere.error(f.elsewhere.find(access.Field), access.Field, fmt.Sprint(access.Value), access.Want)}
			}
		}
		return Errors{f.error(f.find(access.Field), access.Field, fmt.Sprint(access.Value), access.Want)}
	}
	var front *gateway.FieldError
	if errors.As(err, &front) {
		return Errors{f.error(f.find(front.Field), front.Field, fmt.Sprint(front.Value), front.Want)}
	}
	if key, value, want := chainMistake(err); key != "" {
		return Errors{f.error(f.find(key), key, value, want)}
	}
	var cached *cache.FieldError
	if errors.As(err, &cached) {
		return Errors{f.error(f.find(cached.Field), cached.Field, fmt.Sprint(cached.Value), cached.Want)}
	}
	var traced *trace.FieldError
	if errors.As(err, &traced) {
		return Errors{f.error(f.find(traced.Field), traced.Field, fmt.Sprint(traced.Value), traced.Want)}
	}
	if key, e := sessionMistake(err); e != nil {
		return Errors{f.error(f.find(key), key, fmt.Sprint(e.Value), e.Want)}
	}
	var field *supervisor.FieldError
	if !errors.As(err, &field) {
		return err
	}
	key := field.Field
	if field.Pool != "" {
		key = "pools." + field.Pool + "." + field.Field
	}
	where := key
	if name := strings.Trim(fmt.Sprint(field.Value), `"`); field.Pool == "" && field.Field == "pools" {
		where = "pools." + name // the pool's own name is what is wrong
	}
	return Errors{f.error(f.find(where), key, fmt.Sprint(field.Value), field.Want)}
}

// find returns the position of a key, or of the innermost object that would have it.
func (f *File) find(key string) position {
	for {
		if p, ok := f.at[key]; ok {
			return p
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			return position{1, 1}
		}
		key = key[:i]
	}
}

func (f *File) error(at position, key, value, want string) *Error {
	return &Error{File: f.Path, Line: at.line, Column: at.column, Key: key, Value: value, Want: want}
}

func (d *decoder) pools(v value, f *File) {
	entries, ok := d.entries(v, "pools by name, as in `echo: {builtin: echo}`")
	if !ok {
		return
	}
	for _, e := range entries {
		p := pool{PoolConfig: supervisor.PoolConfig{Name: e.name}}
		object(d, e.value, poolFields, &p, "keys such as command")
		f.Supervisor.Pools = append(f.Supervisor.Pools, p.PoolConfig)
		f.poolResilience(e.name, &p)
		p.gatherCache(&f.Cache)
		f.poolSession(e.name, p.session)
	}
}

// PoolNames are the names of the pools, in the file's order.
func (f *File) PoolNames() []string {
	names := make([]string, len(f.Supervisor.Pools))
	for i := range f.Supervisor.Pools {
		names[i] = f.Supervisor.Pools[i].Name
	}
	return names
}

func (d *decoder) socket(v value, f *File) {
	if !d.text(v, &f.Socket, "a path or unix:///path") {
		return
	}
	if _, err := address.Parse(f.Socket); err != nil {
		_, reason, _ := strings.Cut(err.Error(), ": ")
		d.fail(v, f.Socket, "%s", reason)
	}
}

func (d *decoder) devices(v value, p *pool) {
	const want = "use auto, none, or a list of device numbers as in [0, 1]"
	if v.resolve().Kind == yaml.SequenceNode {
		if d.integers(v, &p.Devices.List, 0, want) && len(p.Devices.List) == 0 {
			d.fail(v, "[]", "the list is empty; %s", want)
		}
		return
	}
	var s string
	if d.oneOf(v, &s, "auto", "none", "[0, 1]") {
		p.Devices.None = s == "none"
	}
}

func (d *decoder) balance(v value, p *pool) {
	var s string
	if d.oneOf(v, &s, string(supervisor.LeastConnection), string(supervisor.RoundRobin), string(supervisor.Weighted), string(supervisor.Hash)) {
		p.Balance = supervisor.Balance(s)
	}
}

func (d *decoder) env(v value, into *map[string]string) {
	entries, ok := d.entries(v, "variables, as in {NAME: value}")
	if !ok {
		return
	}
	env := map[string]string{}
	for _, e := range entries {
		if !envName.MatchString(e.name) {
			d.fail(e.value, e.name, "a variable's name consists of letters, digits and '_'")
			continue
		}
		var s string
		if d.text(e.value, &s, "a string; \"\" for an empty one") {
			env[e.name] = s
		}
	}
	*into = env
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

// parseYAML returns the file's one document, nil if there is none.
func parseYAML(path string, data []byte) (*yaml.Node, *Error) {
	if len(data) > maxFile {
		return nil, &Error{File: path, Line: 1, Column: 1, Want: fmt.Sprintf("the file is larger than %d bytes; this is not a configuration", maxFile)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if err == nil {
		if err = dec.Decode(&second); err == nil {
			return nil, &Error{File: path, Line: second.Line, Column: max(1, second.Column), Want: "a second document begins here; a configuration is one document"}
		}
	}
	switch {
	case !errors.Is(err, io.EOF):
		e := &Error{File: path, Line: 1, Column: 1, Want: "this is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			e.Line, _ = strconv.Atoi(m[1])
			e.Want = "this is not YAML: " + m[2]
		}
		return nil, e
	case len(doc.Content) == 0:
		return nil, nil
	}
	if root := doc.Content[0]; root.Kind != yaml.ScalarNode || root.ShortTag() != "!!null" {
		return root, nil
	}
	return nil, nil
}
