"""Where a client connects to, a Unix socket or a port of this machine, and the connecting."""

import os
import socket
import struct
import time
from pathlib import Path

from ringmaster._errors import Error, InvalidArgument, PermissionDenied, Unavailable

MAX_PATH = 107  # bytes; Linux's limit for a socket's path

_NAME = "ringmaster.sock"
_TCP = "tcp://"


def resolve(address: str | os.PathLike[str] | None) -> str:
    """Return the socket's path, or tcp://IP:PORT. The first of these that is set decides; InvalidArgument if it is bad.

    address                                  unix:///path or a plain path; tcp://127.0.0.1:8080
    $RINGMASTER_SOCKET                       likewise
    $RUNTIME_DIRECTORY/ringmaster.sock       the first directory, under systemd
    $XDG_RUNTIME_DIR/ringmaster/ringmaster.sock
    /run/ringmaster/ringmaster.sock
    """
    given = os.fspath(address or "") or os.environ.get("RINGMASTER_SOCKET", "")
    if given:
        return _parse(given)
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return str(Path(runtime, _NAME))
    return str(Path(os.environ.get("XDG_RUNTIME_DIR") or "/run", "ringmaster", _NAME))


def token_to_send(token: str | None) -> str:
    """Return the token that a client sends, "" for none: $RINGMASTER_TOKEN if none is given."""
    return os.environ.get("RINGMASTER_TOKEN", "") if token is None else token


def _parse(address: str) -> str:
    if by_tcp(address):
        return _parse_tcp(address)
    path = address.removeprefix("unix://")
    if path != address and not path.startswith("/"):
        raise InvalidArgument(f"address {address!r}: what follows unix:// must be absolute, as in unix:///run/x.sock")
    if "://" in path:
        raise InvalidArgument(f"address {address!r}: only Unix sockets are served; use unix:///path or a plain path")
    if path.startswith("@") or "\0" in path:
        raise InvalidArgument(f"address {address!r}: abstract sockets are not served; use a path")
    if not 0 < len(os.fsencode(path)) <= MAX_PATH:
        raise InvalidArgument(f"address {address!r}: a socket's path has 1 to {MAX_PATH} bytes")
    return path


def by_tcp(address: str) -> bool:
    """Say whether an address is a port."""
    return address.startswith(_TCP)


def _parse_tcp(address: str) -> str:
    """Check that it is a port of this machine's own: without TLS no other may see a token."""
    import ipaddress  # workers have no use for it

    host, _, port = address.removeprefix(_TCP).rpartition(":")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        ip = None
    good = port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16
    if ip is None or not good or (ip.version == 6) != (name != host):
        raise InvalidArgument(f"address {address!r}: use one such as tcp://127.0.0.1:8080 or tcp://[::1]:8080")
    if not ip.is_loopback:
        raise InvalidArgument(
            f"address {address!r}: {ip} is not this machine's own interface, and without TLS no other can be used"
        )
    return f"{_TCP}[{ip}]:{int(port)}" if ip.version == 6 else f"{_TCP}{ip}:{int(port)}"


def dial(path: str, deadline: float) -> socket.socket:
    """Connect, by deadline on time.monotonic's clock, also to a server that is slow to accept.

    path is what resolve returned. Unavailable/no_server, PermissionDenied/peer.
    """
    family: socket.AddressFamily = socket.AF_UNIX
    where: str | tuple[str, int] = path
    if by_tcp(path):
        host, _, port = path.removeprefix(_TCP).rpartition(":")
        family, where = (socket.AF_INET6 if "[" in host else socket.AF_INET), (host.strip("[]"), int(port))
    s = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Unlike with a non-blocking socket, the kernel waits while the server's backlog is full.
        _set_send_timeout(s, max(1e-3, deadline - time.monotonic()))
        s.connect(where)
        _set_send_timeout(s, 0)
        if family != socket.AF_UNIX:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as e:
        s.close()
        raise _unreachable(path, e) from e
    return s


def _set_send_timeout(s: socket.socket, seconds: float) -> None:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))


def _unreachable(path: str, e: OSError) -> Error:
    match e:
        case FileNotFoundError():
            what = f"there is no socket at {path}"
        case ConnectionRefusedError() if by_tcp(path):
            what = f"nobody listens at {path}"
        case ConnectionRefusedError():
            what = f"nobody serves the socket at {path}"
        case BlockingIOError():
            what = f"the server at {path} does not accept connections"
        case PermissionError():
            what = f"no permission to use the socket at {path}; join its group, or run as its owner"
            return PermissionDenied(what, reason="peer")
        case _:
            what = f"cannot connect to {path}: {e}"
    return Unavailable(f"{what}; is `ringmaster serve` running?", reason="no_server")
