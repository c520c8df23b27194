package trace

import (
	"fmt"
	"net/url"
	"path/filepath"
)

// Config says what becomes of the traces of requests. The zero values of its fields are the defaults named beside them.
type Config struct {
	OTLP     string  // the URL of an OpenTelemetry collector that takes OTLP by HTTP; "": none
	File     string  // where spans are written, as lines of OTLP's JSON; "": nowhere
	Sample   float64 // the part of the requests without a traceparent whose spans are exported; 0: a tenth, -1: none
	Recent   int     // requests that are remembered; 0: 1000, -1: none
	Requests bool    // requests are logged, at level info (else at debug)
}

const (
	defaultSample = 0.1
	defaultRecent = 1000
	maxRecent     = 1 << 20
)

// FieldError says which field of a [Config] is wrong.
type FieldError struct {
	Field string // as in the configuration file, such as tracing.otlp
	Value any
	Want  string // what would be right
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Field, e.Value, e.Want) }

// Validate reports the first field that is wrong, as a [*FieldError].
func (c Config) Validate() error {
	if c.OTLP != "" {
		if u, err := url.Parse(c.OTLP); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return &FieldError{"tracing.otlp", c.OTLP, "use the URL of a collector's HTTP port, as in http://127.0.0.1:4318"}
		}
	}
	switch {
	case c.File != "" && !filepath.IsAbs(c.File):
		return &FieldError{"tracing.file", c.File, "use an absolute path, as in /var/log/ringmaster/traces.jsonl"}
	case c.Sample != -1 && (c.Sample < 0 || c.Sample > 1 || c.Sample != c.Sample):
		return &FieldError{"tracing.sample", c.Sample, "use a part of all requests, from 0 (none) to 1 (all)"}
	case c.Recent < -1 || c.Recent > maxRecent:
		return &FieldError{"tracing.recent", c.Recent, fmt.Sprintf("use a number of requests, from 0 (none) to %d", maxRecent)}
	}
	return nil
}

func (c Config) withDefaults() Config {
	switch c.Sample {
	case 0:
		c.Sample = defaultSample
	case -1:
		c.Sample = 0
	}
	switch c.Recent {
	case 0:
		c.Recent = defaultRecent
	case -1:
		c.Recent = 0
	}
	return c
}
