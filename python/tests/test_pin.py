"""Arenas and CUDA's page locks, with something in CUDA's place that keeps account."""

import logging
import os

import pytest

from memfd import arena, mappings
from ringmaster._pin import Cuda, Pinner, new_pinner
from ringmaster._ring import Region

SIZE = 1 << 16


class Account:
    """What is registered: address → size."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.registered: dict[int, int] = {}
        self.calls = 0

    def cuda(self) -> Cuda:
        return Cuda(self.register, self.unregister)

    def register(self, address: int, size: int, flags: int) -> int:
        self.calls += 1
        if self.error == 0:
            assert address not in self.registered
            self.registered[address] = size
        return self.error

    def unregister(self, address: int) -> int:
        assert any(r.start == address for r in mappings())  # it is still there
        del self.registered[address]
        return 0


def pinned(pinner: Pinner) -> Region:
    fd = arena(SIZE)
    region = Region(fd, SIZE, pinner.unpin)
    os.close(fd)
    pinner.pin(region.address, region.size)
    return region


def test_a_region_is_registered_once_and_unregistered_before_it_is_unmapped() -> None:
    account = Account()
    pinner = Pinner(account.cuda)
    a, b = pinned(pinner), pinned(pinner)
    assert account.registered == {a.address: SIZE, b.address: SIZE}
    block = a.block(0, 64)
    del a
    assert len(account.registered) == 2
    del block
    assert account.registered == {b.address: SIZE}
    del b
    assert account.registered == {}


def test_what_fails_is_said_once_and_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    account = Account(error=801)
    pinner = Pinner(account.cuda)
    regions = [pinned(pinner) for _ in range(3)]
    del regions
    assert account.calls == 1
    assert [(r.levelno, "801" in r.getMessage()) for r in caplog.records] == [(logging.WARNING, True)]


def test_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RINGMASTER_PIN", raising=False)
    assert new_pinner(None) is None
    assert new_pinner(True) is not None
    for value, wanted in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("RINGMASTER_PIN", value)
        assert (new_pinner(None) is not None) == wanted
        assert new_pinner(False) is None
