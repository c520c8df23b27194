// Package address decides where a server listens and a client connects to, so that both come to the same answer.
package address

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

const name = "ringmaster.sock"

// MaxPath is the longest path, in bytes, that a Unix socket can have on Linux.
const MaxPath = 107

// Resolve returns the path of the socket. The first of these that is set decides:
//
//	flag                                     what the user asked for: --socket, or an option of the client
//	$RINGMASTER_SOCKET
//	file                                     what the configuration file says; clients have none
//	$RUNTIME_DIRECTORY/ringmaster.sock       the first directory, under systemd
//	$XDG_RUNTIME_DIR/ringmaster/ringmaster.sock
//	/run/ringmaster/ringmaster.sock
func Resolve(flag, file string) (string, error) {
	switch env := os.Getenv("RINGMASTER_SOCKET"); {
	case flag != "":
		return Parse(flag)
	case env != "":
		path, err := Parse(env)
		if err != nil {
			return "", fmt.Errorf("$RINGMASTER_SOCKET: %w", err)
		}
		return path, nil
	case file != "":
		return Parse(file)
	}
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		return filepath.Join(dir, name), nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "ringmaster", name), nil
	}
	return filepath.Join("/run/ringmaster", name), nil
}

// ForClient returns the network and the address to connect to: as Resolve, or what tcp://HOST:PORT names in the flag or in $RINGMASTER_SOCKET.
func ForClient(flag string) (network, addr string, err error) {
	for _, s := range []string{flag, os.Getenv("RINGMASTER_SOCKET")} {
		if rest, tcp := strings.CutPrefix(s, "tcp://"); tcp {
			at, err := ParseTCP(rest)
			return "tcp", at.String(), err
		}
		if s != "" {
			break
		}
	}
	addr, err = Resolve(flag, "")
	return "unix", addr, err
}

// ParseTCP reads the address of a port of this machine's own interface. Others are refused: there is no TLS.
func ParseTCP(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address with a port; use one such as 127.0.0.1:8080", addr)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	switch {
	case err != nil:
		return at, fmt.Errorf("%q is no IP address with a port; use one such as 127.0.0.1:8080 or [::1]:8080", addr)
	case !at.Addr().IsLoopback():
		return at, fmt.Errorf("%s is not this machine's own interface, and without TLS no other can be used; use 127.0.0.1:%d, and for other machines a proxy with TLS before it", at.Addr(), at.Port())
	}
	return at, nil
}

// Parse reads an address, unix:///path or a plain path, and returns the path.
func Parse(addr string) (string, error) {
	path, isURL := strings.CutPrefix(addr, "unix://")
	switch {
	case isURL && !strings.HasPrefix(path, "/"):
		return "", fmt.Errorf("address %q: the path after unix:// must be absolute, as in unix:///run/ringmaster/ringmaster.sock", addr)
	case strings.Contains(path, "://"):
		return "", fmt.Errorf("address %q: only Unix sockets are served; use unix:///path or a plain path", addr)
	case path == "":
		return "", fmt.Errorf("address %q: the path is empty", addr)
	case path[0] == '@' || strings.ContainsRune(path, 0):
		return "", fmt.Errorf("address %q: abstract sockets have no file permissions and are not served; use a path", addr)
	case len(path) > MaxPath:
		return "", fmt.Errorf("address %q: the path is %d bytes, a Unix socket's is at most %d; use a shorter one", addr, len(path), MaxPath)
	}
	return path, nil
}
