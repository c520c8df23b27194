"""Regions and blocks: memory of another process's making, as long as somebody looks at it."""

import gc
import mmap
import os
import random
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from memfd import SEALS, arena, mapped, mappings
from ringmaster._ring import Block, ProtocolError, Region
from ringmaster._space import Space

SIZE = 1 << 16


def region(size: int = SIZE, done=None) -> Region:
    fd = arena(size)
    try:
        return Region(fd, size, done)
    finally:
        os.close(fd)


def is_mapped(address: int) -> bool:
    return any(address in r for r in mappings())


def test_it_is_the_same_memory() -> None:
    with mapped(SIZE) as (fd, memory):
        r = Region(fd, SIZE)
        os.close(fd)
        a = np.ndarray(SIZE // 4, "int32", r)
        a[5] = 77
        assert memory[20] == 77
        memory[24] = 3
        assert a[6] == 3
        assert (r.size, memoryview(r).nbytes, memoryview(r).readonly) == (SIZE, SIZE, False)
        assert a.__array_interface__["data"][0] == r.address


def test_what_is_refused() -> None:
    fd = arena(SIZE)
    for size in (0, SIZE - 1, SIZE + 1, 1 << 63):
        with pytest.raises(ProtocolError, match="size"):
            Region(fd, size)
    os.close(fd)
    for seals in (0, SEALS & ~1, SEALS & ~2, SEALS & ~4):
        fd = arena(SIZE, seals)
        with pytest.raises(ProtocolError, match="sealed"):
            Region(fd, SIZE)
        os.close(fd)
    with pytest.raises(OSError):
        Region(fd, SIZE)
    read, write = os.pipe()
    with pytest.raises(ProtocolError, match="memfd"):
        Region(read, SIZE)
    os.close(read)
    os.close(write)
    with pytest.raises(TypeError, match="done"):
        Region(0, SIZE, 5)  # type: ignore[arg-type]


def test_views_keep_the_mapping() -> None:
    unmapped = list[tuple[int, int]]()
    r = region(done=lambda address, size: unmapped.append((address, size)))
    address = r.address
    a = np.ndarray((16, 16), "float64", r)
    view = a[3:, ::2].T
    other = memoryview(r)[100:200]
    del r, a
    gc.collect()
    assert unmapped == []
    view[:] = 1.5  # no crash
    del view
    assert is_mapped(address)
    assert other[0] == 0
    del other
    assert unmapped == [(address, SIZE)]
    assert not is_mapped(address)


def test_a_block_ends_with_its_last_array() -> None:
    done = list[int]()
    r = region()
    block = r.block(128, 256, lambda: done.append(1))
    a = np.ndarray(64, "float32", block)
    assert a.__array_interface__["data"][0] == r.address + 128
    b = a[10:].reshape(2, 27)
    c = np.asarray(memoryview(b[0]))
    address = r.address
    del r, block, a, b
    assert done == []
    c[0] = 1
    del c
    assert done == [1]
    assert not is_mapped(address)


def test_blocks_are_inside() -> None:
    r = region()
    r.block(0, SIZE)
    r.block(SIZE, 0)
    for offset, length in ((0, SIZE + 1), (SIZE, 1), (SIZE + 1, 0), (64, (1 << 64) - 64)):
        with pytest.raises(ValueError, match="inside"):
            r.block(offset, length)
    with pytest.raises(TypeError):
        Block()  # type: ignore[call-arg]


def test_what_done_raises_is_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable = list[object]()
    monkeypatch.setattr(sys, "unraisablehook", lambda what: unraisable.append(type(what.exc_value)))

    def fail() -> None:
        raise KeyError

    block = region().block(0, 64, fail)
    try:
        try:
            raise ValueError("the one that is under way")
        finally:
            del block
    except ValueError as e:
        assert "under way" in str(e)
    assert unraisable == [KeyError]


def test_a_fork_sees_the_same_memory() -> None:
    r = region()
    a = np.ndarray(8, "int64", r)
    child = os.fork()
    if child == 0:
        a[0] = 42
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert a[0] == 42


def test_a_forks_child_undoes_nothing() -> None:
    """What was done to the memory, such as its registration with CUDA, was done in this process."""
    done = list[int]()
    r = region(done=lambda address, size: done.append(address))
    address = r.address
    child = os.fork()
    if child == 0:
        del r
        os._exit(0 if not done and not is_mapped(address) else 1)
    assert os.waitpid(child, 0)[1] == 0
    del r
    assert done == [address]


def test_threads_make_and_drop_blocks() -> None:
    done = list[int]()
    r = region()

    def work() -> None:
        for i in range(500):
            a = np.ndarray(16, "uint8", r.block(i * 64, 64, lambda: done.append(1)))
            a[:] = 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(done) == 2000


def test_memory_is_given_back() -> None:
    """Nothing of a region stays, neither mapping nor descriptor."""

    def resources() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(mappings())

    before = resources()
    for _ in range(200):
        np.ndarray(100, "uint8", region(1 << 20))[:] = 1
    assert resources() == before


def test_dlpack_is_no_copy() -> None:
    r = region()
    a = np.ndarray((4, 4), "float32", r.block(0, 64))
    b = np.from_dlpack(a)
    a[1, 2] = 5
    assert b[1, 2] == 5
    assert np.shares_memory(a, b)


@pytest.mark.parametrize("seed", range(5))
def test_space_against_a_model(seed: int) -> None:
    rng = random.Random(seed)
    size = 64 * 40
    space, taken = Space(size), dict[int, int]()
    for _ in range(3000):
        if taken and rng.random() < 0.5:
            start = rng.choice(list(taken))
            space.give(start, taken.pop(start))
        else:
            n = 64 * rng.randrange(1, 12)
            used = {u for start, length in taken.items() for u in range(start // 64, (start + length) // 64)}
            runs = [all(i + k not in used for k in range(n // 64)) for i in range(size // 64 - n // 64 + 1)]
            start = space.take(n)
            assert (start is not None) == any(runs)
            if start is not None:
                assert runs[start // 64]
                assert start == 64 * runs.index(True)
                taken[start] = n
        assert space.free == size - sum(taken.values())
    for start, n in taken.items():
        space.give(start, n)
    assert space.take(size) == 0


def test_populated() -> None:
    """The pages are there when a region is made, so that who uses it does not fault them in one by one."""
    r = region(8 << 20)
    smaps = Path("/proc/self/smaps").read_text().split("memfd:ringmaster-arena", 1)[1]
    rss = next(line for line in smaps.splitlines() if line.startswith("Rss:"))
    assert int(rss.split()[1]) == (8 << 20) // 1024
    assert r.size % mmap.PAGESIZE == 0
