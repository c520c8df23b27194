"""A client process: client.py SPEC, as bench/peers/client.go has it.

It warms up, says "ready", waits for a line, measures in one thread for each request outstanding, and prints one line of
JSON.
"""

import base64
import http.client
import json
import math
import multiprocessing
import os
import sys
import threading
import time

import work

PERCENTILES = (50, 75, 90, 95, 99, 99.5, 99.9, 99.99)


def ringmaster(socket):
    import numpy as np

    import ringmaster as rm

    client = rm.connect(socket)

    def call(payload):
        return client.call("work", "work", tensors={"x": np.frombuffer(payload, dtype=np.uint8)}).tensors["x"].tobytes()

    return call, client.close


def mp_pool(_):
    pool = multiprocessing.get_context("spawn").Pool(1)

    def call(payload):
        return pool.apply(work.handle, (bytes(payload),))

    def close():
        pool.terminate()
        pool.join()

    return call, close


def over_http(path, content_type, encode=bytes, decode=bytes):
    """Make a caller with a connection for each thread, kept open."""

    def connect(port):
        local = threading.local()
        opened = []

        def call(payload):
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
                opened.append(local.connection)
            local.connection.request("POST", path, encode(payload), {"Content-Type": content_type})
            response = local.connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"status {response.status}: {body[:200]!r}")
            return decode(body)

        def close():
            for connection in opened:
                connection.close()

        return call, close

    return connect


def triton(port):
    """Triton's binary protocol, through its own client; one for each thread, as it asks for."""
    import numpy as np
    import tritonclient.http as http_client

    local = threading.local()
    opened = []

    def call(payload):
        if not hasattr(local, "client"):
            local.client = http_client.InferenceServerClient(
                f"127.0.0.1:{port}", network_timeout=60, connection_timeout=60
            )
            opened.append(local.client)
        x = http_client.InferInput("x", [len(payload)], "UINT8")
        x.set_data_from_numpy(np.frombuffer(payload, dtype=np.uint8))
        return local.client.infer("work", [x]).as_numpy("y").tobytes()

    return call, lambda: None  # each closes with its thread: they belong to gevent


CALLERS = {
    "ringmaster": ringmaster,
    "mp-pool": mp_pool,
    "mosec": over_http("/inference", "application/octet-stream"),
    "litserve": over_http(
        "/predict",
        "application/json",
        lambda payload: json.dumps({"x": base64.b64encode(payload).decode()}).encode(),
        lambda body: base64.b64decode(json.loads(body)["y"]),
    ),
    "ray-serve": over_http("/", "application/octet-stream"),
    "triton": triton,
}


class Requester(threading.Thread):
    """One request after the other, each unlike every other."""

    def __init__(self, number, call, size):
        super().__init__(daemon=True)
        self.call = call
        self.payload = bytearray(os.urandom(size))
        self.serial = number << 32
        self.latencies = []
        self.compared = 0
        self.error = None

    def once(self, whole):
        self.serial += 1
        self.payload[:8] = self.serial.to_bytes(8, "little")
        self.payload[-8:] = (self.serial ^ (2**64 - 1)).to_bytes(8, "little")
        begin = time.perf_counter_ns()
        answer = self.call(self.payload)
        took = time.perf_counter_ns() - begin
        if not work.right(self.payload, answer, whole):
            raise RuntimeError("the answer is wrong")
        return took

    def run(self):
        try:
            while self.compared < 2 or time.perf_counter() < self.warm:
                self.once(whole=True)
                self.compared += 1
            self.warmed.wait()
            self.begin.wait()
            while True:
                self.latencies.append(self.once(whole=False))
                if time.perf_counter() >= self.end:
                    break
        except BaseException as e:
            self.error = e
            self.warmed.abort()
            self.begin.set()


def first_error(requesters):
    errors = [r.error for r in requesters if r.error]
    return next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])


def measure(spec, call):
    outstanding = spec["cell"]["outstanding"]
    requesters = [Requester(i, call, spec["cell"]["size"]) for i in range(outstanding)]
    warmed, begin = threading.Barrier(outstanding + 1), threading.Event()
    warm = time.perf_counter() + spec["warm_up"]
    for r in requesters:
        r.warm, r.warmed, r.begin, r.end = warm, warmed, begin, math.inf
        r.start()
    try:
        warmed.wait()
    except threading.BrokenBarrierError:
        raise first_error(requesters) from None
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for r in requesters:
        r.end = start + spec["measure"]
    begin.set()
    for r in requesters:
        r.join()
        if r.error:
            raise r.error
    seconds = time.perf_counter() - start
    latencies = sorted(x / 1e3 for r in requesters for x in r.latencies)

    def quantile(q):
        return latencies[min(len(latencies) - 1, math.ceil(q / 100 * len(latencies)) - 1)]

    return {
        "requests": len(latencies),
        "compared": sum(r.compared for r in requesters),
        "seconds": seconds,
        "p50_us": quantile(50),
        "p99_us": quantile(99),
        "p999_us": quantile(99.9),
        "curve": [[q, quantile(q)] for q in PERCENTILES],
    }


def main():
    spec = json.loads(sys.argv[1])
    call, close = CALLERS[spec["transport"]](spec["socket"])
    try:
        print(json.dumps(measure(spec, call)), flush=True)
        sys.stdin.read()
    finally:
        close()


if __name__ == "__main__":
    main()
