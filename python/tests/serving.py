"""The real server, with real workers: bin/ringmaster, which `make build` makes."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ringmaster as rm
from conftest import REPOSITORY
from supervisor import WORKERS

PATIENCE = 30.0  # seconds after which a test has failed

BINARY = REPOSITORY / "bin" / "ringmaster"


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.001)  # another look, so that who brings it about may run


def worker(program: str, **more: Any) -> dict[str, Any]:
    """Return the pool of a test's worker program."""
    return {"command": [sys.executable, str(WORKERS / program)], "workers": 1, "devices": "none", **more}


@contextmanager
def serve(directory: Path, pools: dict[str, Any], **config: Any) -> Iterator[Path]:
    """Run a server with these pools until the end; yield its socket when all are ready. The log is beside it."""
    assert BINARY.exists(), "there is no bin/ringmaster; make build"
    file, path = directory / "ringmaster.yaml", directory / "ringmaster.sock"
    file.write_text(json.dumps({"pools": pools, **config}))  # JSON is YAML
    with (directory / "log").open("w+b") as log:
        server = subprocess.Popen(
            [BINARY, "serve", "--config", file, "--socket", path],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: server.poll() is not None or _ready(path))
            assert server.poll() is None, os.pread(log.fileno(), 1 << 20, 0).decode()
            yield path
        finally:
            server.terminate()
            try:
                assert server.wait(PATIENCE) == 0
            finally:
                server.kill()
                server.wait()


def _ready(path: Path) -> bool:
    with contextlib.suppress(rm.Error), rm.connect(path, ring=0) as c:
        return all(w["state"] == "ready" for p in c.status()["pools"] for w in p["workers"])
    return False


def arenas_of(path: Path) -> dict[str, int]:
    """Return what the server has lent."""
    with rm.connect(path, ring=0) as c:
        status = c.status()
    arenas: dict[str, int] = status["arenas"]
    return arenas
