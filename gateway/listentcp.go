package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// ListenTCP listens on a port of this machine's own interface, such as 127.0.0.1:8080; port 0 takes a free one. Nobody knows who connects there, so [Config] must have a [Gate], and each request a token.
func ListenTCP(address string) (*Listener, error) {
	at, err := ParseTCP(address)
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

// ParseTCP reads an address for [ListenTCP], and refuses those that other machines could reach: there is no TLS.
func ParseTCP(address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address with a port; use one such as 127.0.0.1:8080", address)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	switch {
	case err != nil:
		return at, fmt.Errorf("%q is no IP address with a port; use one such as 127.0.0.1:8080 or [::1]:8080", address)
	case !at.Addr().IsLoopback():
		return at, fmt.Errorf("%s is not this machine's own interface, and without TLS other machines must not reach it; use 127.0.0.1:%d, and a proxy with TLS before it", at.Addr(), at.Port())
	}
	return at, nil
}
