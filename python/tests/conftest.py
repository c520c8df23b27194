"""Every test leaves nothing behind: no descriptor, no thread, no child process."""

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients import in_asyncio, in_threads
from memfd import mappings
from server import Server

REPOSITORY = Path(__file__).parents[2]


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[fd.name] = str(fd.readlink())
    return found


def _children() -> set[str]:
    children: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            children.update((task / "children").read_text().split())
    return children


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    if mappings():  # of arenas, by what only the collector frees: the server charges this process for them as long
        gc.collect()
    before = _descriptors(), set(threading.enumerate()), _children()
    yield
    descriptors, threads, children = before
    if set(_descriptors()) != set(descriptors):
        gc.collect()
    assert {fd: to for fd, to in _descriptors().items() if fd not in descriptors} == {}
    assert set(threading.enumerate()) - threads == set()
    assert _children() - children == set()


def shared_file(path: str) -> Path:
    """Return a file that the implementations share; skip the test outside of the repository, where there is none."""
    if not (REPOSITORY / "go.mod").exists():
        pytest.skip("not in Ringmaster's repository")
    return REPOSITORY / path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server that does what a test wants."""
    with Server(tmp_path / "s.sock") as s:
        yield s


@pytest.fixture(params=["threads", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Give a test that is written for asyncio a client of either kind."""
    return in_threads if request.param == "threads" else in_asyncio


@pytest.fixture(scope="session")
def arenas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the socket of a real server with arenas and a pool of every kind of worker."""
    from serving import serve, worker  # which imports this file

    pools = {
        "w": worker("arenas.py"),
        "many": worker("arenas.py", concurrency=4, workers=2),
        "batch": worker("arenas.py", actions={"rows": {"batch": {"max": 4, "delay": "2ms"}}}),
        "old": worker("inline.py"),
    }
    with serve(tmp_path_factory.mktemp("arenas"), pools, arenas={"client": "64MiB", "total": "256MiB"}) as path:
        yield path
