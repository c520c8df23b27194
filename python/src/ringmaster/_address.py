"""Which Unix socket a client connects to, and the connecting."""

import os
import socket
import struct
import time
from pathlib import Path

from ringmaster._errors import Error, InvalidArgument, PermissionDenied, Unavailable

MAX_PATH = 107  # bytes; Linux's limit for a socket's path

_NAME = "ringmaster.sock"


def resolve(address: str | os.PathLike[str] | None) -> str:
    """Return the socket's path. The first of these that is set decides; InvalidArgument if it is no such address.

    address                                  unix:///path or a plain path
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


def _parse(address: str) -> str:
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


def dial(path: str, deadline: float) -> socket.socket:
    """Connect, by deadline on time.monotonic's clock, also to a server that is slow to accept.

    Unavailable/no_server, PermissionDenied/peer.
    """
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Unlike with a non-blocking socket, the kernel waits while the server's backlog is full.
        _set_send_timeout(s, max(1e-3, deadline - time.monotonic()))
        s.connect(path)
        _set_send_timeout(s, 0)
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
