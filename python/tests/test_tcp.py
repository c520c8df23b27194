"""Clients by TCP, tokens, and sessions: with a real server, and with one that does what a test wants."""

import asyncio
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ringmaster as rm
from clients import Both, happened
from server import PATIENCE, Server
from serving import BINARY, serve, worker


class Guarded(NamedTuple):
    """A server with `listen`, and the token of one that may ask its pools."""

    path: Path
    port: str
    token: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    assert BINARY.exists(), "there is no bin/ringmaster; make build"
    directory = tmp_path_factory.mktemp("guarded")
    made = json.loads(subprocess.check_output([BINARY, "auth", "token", "robot", "--json"]))
    auth = {
        "roles": {"app": {"allow": [{"pools": ["echo", "w"], "actions": ["*"]}]}},
        "tokens": {"robot": {"hash": made["hash"], "roles": ["app"]}},
    }
    pools = {"echo": {"builtin": "echo"}, "other": {"builtin": "echo"}, "w": worker("arenas.py")}
    with serve(directory, pools, listen="127.0.0.1:0", auth=auth, sessions={}) as path:
        found = re.search(rb"listen=(127\.0\.0\.1:\d+)", (directory / "log").read_bytes())
        assert found is not None
        yield Guarded(path, "tcp://" + found[1].decode(), made["token"])


def test_a_token_from_the_environment(run: Any, guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(c: Both) -> None:
        assert (await c.call("ringmaster", "whoami")).body["identity"] == "token robot"

    async def refused(c: Both) -> None:
        with pytest.raises(rm.PermissionDenied):
            await c.call("ringmaster", "whoami")

    monkeypatch.setenv("RINGMASTER_TOKEN", guarded.token)
    run(test, guarded.port)
    run(refused, guarded.port, token="")


def test_a_token_by_tcp(run: Any, guarded: Guarded) -> None:
    async def test(c: Both) -> None:
        headers = {"k": "v"}
        result = await c.call("echo", "echo", bytes(1 << 20), headers=headers)  # a large one at once
        assert (len(result.body), result.headers, headers) == (1 << 20, {"k": "v"}, {"k": "v"})
        assert (await c.call("ringmaster", "whoami")).body["identity"] == "token robot"
        image = np.arange(1 << 18, dtype="float32")
        assert (await c.call("w", "facts", tensors={"x": image})).body["x"]["sum"] == image.sum(dtype="float64")
        assert [chunk["text"] async for chunk in c.stream("echo", "count", {"n": 3, "text": "a"}) if chunk] == ["a"] * 3
        assert (await c.empty((4, 4))).shape == (4, 4)
        with pytest.raises(rm.PermissionDenied) as caught:
            await c.call("other", "echo")
        assert caught.value.reason == "denied"

    run(test, guarded.port, token=guarded.token)


@pytest.mark.parametrize("token", [None, "rm_nonsense", "none"])
def test_no_good_token_by_tcp(run: Any, guarded: Guarded, token: str | None) -> None:
    async def test(c: Both) -> None:
        for _ in range(2):
            with pytest.raises(rm.PermissionDenied) as caught:
                await c.call("echo", "echo", 1)
            assert caught.value.reason == "unauthenticated"
            assert guarded.token not in str(caught.value)
        own = {"authorization": "Bearer " + guarded.token}  # goes before the client's
        assert (await c.call("echo", "echo", 1, headers=own)).body == 1

    run(test, guarded.port, token=token)


def test_a_token_by_the_socket(run: Any, guarded: Guarded) -> None:
    async def test(c: Both) -> None:
        assert (await c.call("ringmaster", "whoami")).body["identity"] == "token robot"
        x = np.ones(1 << 16)
        result = await c.call("w", "double", tensors={"x": x}, outputs={"y": (x.shape, x.dtype)})
        assert result.body["arena"]  # with rings and arenas, as without a token
        assert result.tensors["y"].sum() == 2 * x.sum()

    run(test, guarded.path, token=guarded.token)


def test_where_the_environment_says(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGMASTER_SOCKET", guarded.port)
    with rm.connect(token=guarded.token) as c:
        assert c.call("echo", "echo", 1).body == 1


def test_sessions(run: Any, guarded: Guarded, request: pytest.FixtureRequest) -> None:
    name = request.node.name

    async def test(c: Both) -> None:
        headers = {"k": "v"}
        for version in ("1", "2"):
            result = await c.call("echo", "echo", 1, session=name, headers=headers)
            assert result.headers["session-version"] == version
        assert headers == {"k": "v"}
        chunks = [r async for r in c.stream("echo", "count", {"n": 2}, raw=True, session=name)]
        assert chunks[0].headers["session-version"] == "3"
        assert (await c.call("ringmaster", "session_list")).body
        assert "session-version" not in (await c.call("echo", "echo", 1)).headers
        with pytest.raises(rm.InvalidArgument):
            await c.call("echo", "echo", 1, session="")

    run(test, guarded.path)


def test_the_token_is_shown_first(run: Any) -> None:
    async def test(c: Both) -> None:
        (introduction,) = await happened(server, "request")
        assert (introduction.pool, introduction.action) == ("ringmaster", "whoami")
        assert introduction.headers == {"authorization": "Bearer rm_1"}
        result = await c.call("p", "echo", bytes(1 << 20), session="s")
        assert result.headers["authorization"] == "Bearer rm_1"
        assert result.headers["session"] == "s"
        server.connections[-1].hang_up()
        await happened(server, "gone")
        with pytest.raises(rm.Unavailable):
            await c.call("p", "drop")
        assert (await c.call("p", "echo", 1)).body == 1  # on a new connection, which begins likewise
        assert server.connections[-1].credit[1] == 1

    with Server(None) as server:
        run(test, server.path, token="rm_1")


def test_a_server_that_goes_while_it_looks_at_the_token(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from server import Connection

    async def test(_c: Both) -> None:
        raise AssertionError("it has connected")

    for action, error in (("do_drop", rm.Unavailable), ("do_hang", rm.DeadlineExceeded)):
        monkeypatch.setattr(Connection, "do_whoami", getattr(Connection, action))
        timeout = PATIENCE if action == "do_drop" else 0.1
        with Server(None) as server, pytest.raises(error):
            run(test, server.path, token="rm_1", timeout=timeout)


def test_nobody_listens(run: Any) -> None:
    async def test(_c: Both) -> None:
        raise AssertionError("it has connected")

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # which is not to listen
        port = f"tcp://127.0.0.1:{s.getsockname()[1]}"
        with pytest.raises(rm.Unavailable, match=f"nobody listens at {port}; is `ringmaster serve` running") as caught:
            run(test, port, token="rm_1")
        assert caught.value.reason == "no_server"


def test_a_cancelled_connect_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from server import Connection

    monkeypatch.setattr(Connection, "do_whoami", Connection.do_hang)

    async def main() -> None:
        connecting = asyncio.ensure_future(_connect(server.path))
        await happened(server, "hanging")
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await happened(server, "gone")

    async def _connect(path: str) -> None:
        async with rm.aio.connect(path, token="rm_1"):
            pass

    with Server(None) as server:
        asyncio.run(main())
