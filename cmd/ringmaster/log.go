package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
)

// logLevel reads a level's name, as in ringmaster.yaml.
func logLevel(name string) (slog.Level, error) {
	switch name {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q: use debug, info, warn or error", name)
}

// newLogger makes the server's logger; format is a word as in ringmaster.yaml. The level may change while it is used.
func newLogger(out io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
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
