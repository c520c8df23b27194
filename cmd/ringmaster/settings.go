package main

import (
	"log/slog"
	"slices"
	"time"

	"github.com/ringmasterd/ringmaster/chain/auth"
	"github.com/ringmasterd/ringmaster/internal/address"
	"github.com/ringmasterd/ringmaster/internal/config"
	"github.com/ringmasterd/ringmaster/supervisor"
)

// settings are what a server runs with: its configuration file, and what flags and environment variables put before it.
type settings struct {
	file      *config.File
	socket    string
	level     slog.Level
	logFormat string
}

// settings reads the configuration and checks it, as far as that is possible without starting anything.
func (a *app) settings(f serveFlags) (*settings, error) {
	file, err := loadConfig(f.config)
	if err != nil {
		return nil, err
	}
	if err := checkBuiltins(file); err != nil {
		return nil, err
	}
	if err := auth.Check(file.Auth); err != nil {
		return nil, file.Locate(err)
	}
	unusable := func(err error) error { return &usageError{message: err.Error(), command: "ringmaster serve"} }
	s := &settings{file: file, logFormat: firstSet(f.logFormat, "RINGMASTER_LOG_FORMAT", file.Log.Format, "text")}
	if s.socket, err = address.Resolve(a.socket, file.Socket); err != nil {
		return nil, unusable(err)
	}
	if s.level, err = logLevel(firstSet(f.logLevel, "RINGMASTER_LOG_LEVEL", file.Log.Level, "info")); err != nil {
		return nil, unusable(err)
	}
	return s, nil
}

// drainTimeout is how long requests may take once the server has been told to end.
func (s *settings) drainTimeout() time.Duration {
	if s.file.Supervisor.DrainTimeout == 0 {
		return supervisor.DefaultDrainTimeout
	}
	return s.file.Supervisor.DrainTimeout
}

// needsRestart lists the keys that differ between what a server runs with and what its file says now, and that a running server cannot change.
func needsRestart(running, now *settings) []string {
	keys := []string{}
	for key, differs := range map[string]bool{
		"socket":         running.socket != now.socket,
		"socket_group":   running.file.SocketGroup != now.file.SocketGroup,
		"socket_mode":    running.file.SocketMode != now.file.SocketMode,
		"listen":         running.file.Listen != now.file.Listen,
		"max_message":    running.file.Supervisor.MaxMessage != now.file.Supervisor.MaxMessage,
		"memory":         running.file.Gateway.Memory != now.file.Gateway.Memory,
		"clients":        running.file.Gateway.Clients != now.file.Gateway.Clients,
		"arenas":         running.file.Gateway.Arenas != now.file.Gateway.Arenas,
		"sessions.store": running.file.Sessions.Store != now.file.Sessions.Store,
		"sessions.path":  running.file.Sessions.Path != now.file.Sessions.Path,
		"sessions.url":   running.file.Sessions.URL != now.file.Sessions.URL,
		"drain_timeout":  running.drainTimeout() != now.drainTimeout(),
		"listen_origins": !slices.Equal(running.file.Gateway.Origins, now.file.Gateway.Origins),
		"log.format":     running.logFormat != now.logFormat,
	} {
		if differs {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
