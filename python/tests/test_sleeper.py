"""Where threads sleep until others wake them."""

import os
import signal
import threading
import time

import pytest

from ringmaster._ring import Sleeper
from server import PATIENCE


def test_a_wake_is_kept_once() -> None:
    s = Sleeper()
    assert not s.sleep(0, None)
    s.wake()
    s.wake()
    assert s.sleep(None, None)
    assert not s.sleep(0.001, None)


def test_two_wake_each_other() -> None:
    a, b = Sleeper(), Sleeper()
    rounds = 300

    def play(mine: Sleeper, other: Sleeper, first: bool) -> None:
        if not first:
            assert mine.sleep(PATIENCE, None)
        for _ in range(rounds):
            assert mine.sleep(PATIENCE, other)
        other.wake()

    threads = [threading.Thread(target=play, args=x) for x in ((a, b, True), (b, a, False))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(2 * PATIENCE)
        assert not t.is_alive()


def test_a_signal_ends_it_if_its_handler_raises() -> None:
    s, handled, main = Sleeper(), threading.Event(), threading.main_thread().ident
    assert main is not None

    def raises(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    try:

        def interrupt() -> None:
            while not handled.wait(0.01):  # until it sleeps, or is about to
                signal.pthread_kill(main, signal.SIGUSR1)
            s.wake()

        t = threading.Thread(target=interrupt)
        t.start()
        assert s.sleep(PATIENCE, None)
        t.join()
        signal.signal(signal.SIGUSR1, raises)
        t = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        with pytest.raises(InterruptedError):
            t.start()
            s.sleep(PATIENCE, None)
        t.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_it_takes() -> None:
    s = Sleeper()
    with pytest.raises(TypeError):
        s.sleep(0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        s.sleep("soon", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        s.sleep(0, threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Sleeper(1)  # type: ignore[call-arg]
    begin = time.monotonic()
    assert not s.sleep(-1, None)
    assert time.monotonic() - begin < PATIENCE
