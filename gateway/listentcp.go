package gateway

import (
	"context"
	"fmt"
	"net"

	"github.com/ringmasterd/ringmaster/internal/address"
)

// ListenTCP listens on a port of this machine's own interface, such as 127.0.0.1:8080; port 0 takes a free one. Nobody knows who connects there, so [Config] must have a [Gate], and each request a token.
func ListenTCP(addr string) (*Listener, error) {
	at, err := address.ParseTCP(addr)
	if err != nil {
		return nil, err
	}
	var cfg net.ListenConfig
	inner, err := cfg.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", at, err)
	}
	return &Listener{Listener: inner, path: inner.Addr().String(), remote: true}, nil
}
