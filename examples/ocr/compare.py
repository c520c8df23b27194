"""Frames a second, and processor time for each, of the OCR pool and of the same model behind plain HTTP, in turns.

    python -m examples.ocr.compare [--frames N] [--rounds N] [--ringmaster bin/ringmaster]

It starts both servers itself. Each has one worker process of one thread; the client asks for one frame at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import ringmaster as rm

from .pictures import SHAPE, draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINES = ["The quick brown fox", "jumps over 13 lazy dogs"]
CONFIG = 'pools: {{ocr: {{command: ["{python}", -m, examples.ocr], start_timeout: 3m}}}}\n'


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children = (int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split())
    return [pid, *(d for child in children for d in tree(child))]


def cpu(pids: list[int]) -> float:
    """Processor time that processes have taken, in seconds."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(*command: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    """A process, which is told to end afterwards."""
    process = subprocess.Popen(command, text=True, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def by_ringmaster(binary: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """The pool: the server's pid, and what sends one frame.

    The frame is drawn into the arena once, as a camera would write it there.
    """
    with tempfile.TemporaryDirectory() as directory:
        config, socket = Path(directory, "ringmaster.yaml"), f"{directory}/rm.sock"
        config.write_text(CONFIG.format(python=sys.executable))
        with started(binary, "serve", "--config", str(config), "--socket", socket, stderr=subprocess.DEVNULL) as server:
            while subprocess.run([binary, "health", "--socket", socket], capture_output=True, check=False).returncode:
                if server.poll() is not None:
                    raise SystemExit(f"{binary} serve ended with status {server.returncode}")
                time.sleep(0.1)
            with rm.connect(socket) as client:
                frame = draw(LINES, into=client.empty(SHAPE, np.uint8))

                def send() -> None:
                    check(client.call("ocr", "read", tensors={"image": frame}).body)

                yield server.pid, send


@contextlib.contextmanager
def by_http() -> Iterator[tuple[int, Callable[[], None]]]:
    """Plain HTTP: likewise. The connection is kept."""
    command = (sys.executable, "-m", "examples.ocr.plain_http", "0")
    with started(*command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().split()[1])
        connection = http.client.HTTPConnection("127.0.0.1", port)
        frame: NDArray[np.uint8] = draw(LINES)
        headers = {"X-Shape": ",".join(map(str, SHAPE))}

        def send() -> None:
            connection.request("POST", "/read", frame.data.cast("B"), headers)
            check(json.load(connection.getresponse()))

        yield server.pid, send
        connection.close()


def check(answer: dict[str, list[dict[str, str]]]) -> None:
    """The text is what was drawn."""
    if (read := [line["text"] for line in answer["lines"]]) != LINES:
        raise SystemExit(f"it read {read}")


def main() -> None:
    """Measure in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=10, help="in each round (10)")
    parser.add_argument("--rounds", type=int, default=5, help="of each server, in turns (5)")
    parser.add_argument("--ringmaster", default="bin/ringmaster", help="the program (bin/ringmaster)")
    args = parser.parse_args()
    with by_ringmaster(args.ringmaster) as ours, by_http() as plain:
        rates: dict[str, list[tuple[float, float]]] = {"ringmaster, arena": [], "plain HTTP": []}
        for _, send in (ours, plain):
            send()  # the networks warm up
        for round_ in range(args.rounds):
            for name, (pid, send) in zip(rates, (ours, plain), strict=True):
                pids = [os.getpid(), *tree(pid)]
                begin, used = time.monotonic(), cpu(pids)
                for _ in range(args.frames):
                    send()
                took, used = time.monotonic() - begin, cpu(pids) - used
                rates[name].append((args.frames / took, used / args.frames))
                print(f"round {round_ + 1}: {name}: {args.frames / took:.2f} frames/s", file=sys.stderr)
    print(f"{'':20}{'frames/s':>10}{'CPU a frame':>14}")
    for name, samples in rates.items():
        rate, seconds = (statistics.median(column) for column in zip(*samples, strict=True))
        print(f"{name:20}{rate:10.2f}{1000 * seconds:11.0f} ms")


if __name__ == "__main__":
    main()
