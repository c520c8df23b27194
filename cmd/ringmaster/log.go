package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
)

// newLogger makes the server's logger; level and format are words as in ringmaster.yaml.
func newLogger(out io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	switch level {
	case "debug":
		l = slog.LevelDebug
	case "info":
		l = slog.LevelInfo
	case "warn":
		l = slog.LevelWarn
	case "error":
		l = slog.LevelError
	default:
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(out, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, opts)), nil
	}
	return nil, fmt.Errorf("log format %q: use text or json", format)
}

// firstSet returns the first value that is set: flag, then environment, then file, then default.
func firstSet(flag, env, file, otherwise string) string {
	for _, s := range []string{flag, os.Getenv(env), file} {
		if s != "" {
			return s
		}
	}
	return otherwise
}
