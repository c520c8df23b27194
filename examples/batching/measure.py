"""How many requests a second the same worker answers with and without batches; see README.md."""

import argparse
import statistics
import threading
import time

import numpy as np

import ringmaster as rm

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64], help="requests under way at a time")
parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()


def measure(client: rm.Client, pool: str, callers: int) -> tuple[float, float]:
    """Return requests per second, and the median time of one in milliseconds."""
    end = time.monotonic() + args.seconds
    took: list[float] = []

    def ask(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal(2048, dtype="float32")
        while (begin := time.monotonic()) < end:
            client.call(pool, "embed", tensors={"x": x})
            took.append(time.monotonic() - begin)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(callers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return len(took) / args.seconds, statistics.median(took) * 1e3


with rm.connect() as c:
    print(f"{'callers':>7} {'alone req/s':>12} {'ms':>7} {'batched req/s':>14} {'ms':>7} {'ratio':>6}")
    for callers in args.callers:
        rounds = [(measure(c, "alone", callers), measure(c, "batched", callers)) for _ in range(args.rounds)]
        alone, alone_ms, batched, batched_ms = (
            statistics.median(r[pool][i] for r in rounds) for pool in (0, 1) for i in (0, 1)
        )
        print(
            f"{callers:7} {alone:12.0f} {alone_ms:7.1f} {batched:14.0f} {batched_ms:7.1f} {batched / alone:6.1f}",
            flush=True,
        )
