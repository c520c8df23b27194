package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/ringmasterd/ringmaster/gateway"
)

// listen takes over the socket that systemd made for us (ringmaster.socket), or else binds our own.
//
// Preconditions: this process has no child yet, since until now an inherited socket was not close-on-exec.
func listen(s *settings, log *slog.Logger) (*gateway.Listener, error) {
	files := activation.Files(true)
	switch len(files) {
	case 0:
		if s.file.SocketMode == 0 {
			return gateway.Listen(s.socket, s.file.SocketGroup)
		}
		return gateway.ListenMode(s.socket, s.file.SocketGroup, s.file.SocketMode)
	case 1:
	default:
		return nil, tooMany(files)
	}
	ln, err := gateway.Inherit(files[0])
	if err != nil {
		return nil, err
	}
	log.Info("took over the socket that systemd made", "socket", ln.Path())
	if ln.Path() != s.socket {
		log.Warn("the configuration names another socket than systemd's; it is not served", "socket", s.socket, "served", ln.Path())
	}
	if s.file.SocketGroup != "" {
		log.Warn("socket_group has no effect on a socket that systemd made; use SocketGroup= in ringmaster.socket", "socket_group", s.file.SocketGroup)
	}
	if s.file.SocketMode != 0 {
		log.Warn("socket_mode has no effect on a socket that systemd made; use SocketMode= in ringmaster.socket", "socket_mode", s.file.SocketMode)
	}
	return ln, nil
}

// listenTCP listens on the port that the file names, if it names one.
func listenTCP(s *settings) ([]*gateway.Listener, error) {
	if s.file.Listen == "" {
		return nil, nil
	}
	ln, err := gateway.ListenTCP(s.file.Listen)
	if err != nil {
		return nil, err
	}
	return []*gateway.Listener{ln}, nil
}

// tooMany closes what it cannot use.
func tooMany(files []*os.File) error {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name()
		f.Close()
	}
	return fmt.Errorf("systemd handed over %d sockets (%s), and a server has one; leave one ListenStream= in ringmaster.socket", len(files), strings.Join(names, ", "))
}
