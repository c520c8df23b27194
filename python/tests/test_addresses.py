"""Where clients look for the server."""

from pathlib import Path
from typing import Any

import pytest

import ringmaster as rm
from ringmaster import _address


@pytest.mark.parametrize(
    ("argument", "environment", "path"),
    [
        ("/a", {"RINGMASTER_SOCKET": "/b"}, "/a"),
        ("unix:///a/b", {}, "/a/b"),
        (Path("/a"), {}, "/a"),
        ("relative", {}, "relative"),
        (None, {"RINGMASTER_SOCKET": "unix:///b", "RUNTIME_DIRECTORY": "/r"}, "/b"),
        ("tcp://127.0.0.1:8080", {"RINGMASTER_SOCKET": "/b"}, "tcp://127.0.0.1:8080"),
        ("tcp://localhost:80", {}, "tcp://127.0.0.1:80"),
        ("tcp://[::1]:80", {}, "tcp://[::1]:80"),
        ("/a", {"RINGMASTER_SOCKET": "tcp://127.0.0.1:80"}, "/a"),
        (None, {"RINGMASTER_SOCKET": "tcp://127.8.9.1:65535"}, "tcp://127.8.9.1:65535"),
        (None, {"RUNTIME_DIRECTORY": "/r:/s", "XDG_RUNTIME_DIR": "/x"}, "/r/ringmaster.sock"),
        (None, {"XDG_RUNTIME_DIR": "/x"}, "/x/ringmaster/ringmaster.sock"),
        (None, {}, "/run/ringmaster/ringmaster.sock"),
    ],
)
def test_addresses(argument: Any, environment: dict[str, str], path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RINGMASTER_SOCKET", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _address.resolve(argument) == path


PORTS = ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٨"]
HOSTS = ["10.0.0.1:80", "0.0.0.0:80", "[::]:80", "::1:80", "[127.0.0.1]:80", "example.org:80", ":80", "[::1:80"]


@pytest.mark.parametrize(
    "address",
    ["unix://a", "http://x", "unix:///a://b", "@abstract", "/" + "x" * 107, "unix://"]
    + ["tcp://" + a for a in PORTS + HOSTS],
)
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(rm.InvalidArgument):
        rm.connect(address)
