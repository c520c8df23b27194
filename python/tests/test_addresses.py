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


@pytest.mark.parametrize("address", ["unix://a", "http://x", "unix:///a://b", "@abstract", "/" + "x" * 107, "unix://"])
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(rm.InvalidArgument):
        rm.connect(address)
