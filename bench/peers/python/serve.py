"""A peer's server: serve.py PEER PORT DIRECTORY.

It says "ready" when a request has been answered, and ends with its standard input. There is one worker process; each
peer is set up as its own documentation does it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import work
from client import CALLERS

HERE = Path(__file__).resolve().parent
PATIENCE = 60  # seconds for a server to start
FAREWELL = 15  # seconds for it to end


def mosec(port, directory):
    options = ["--address", "127.0.0.1", "--port", port, "--path", str(directory / "mosec")]
    limits = ["--max-body-size", str(64 << 20), "--timeout", "60000"]
    return program("mosec_server.py", *options, *limits)


def litserve(port, _directory):
    return program("litserve_server.py", port)


def program(name, *args):
    """Start a server that is a program of its own, and return what ends it with all that it started."""
    child = subprocess.Popen([sys.executable, str(HERE / name), *args], start_new_session=True)

    def stop():
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    return stop


def ray_serve(port, directory):
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        object_store_memory=256 << 20,
        _temp_dir=str(directory),
        runtime_env={"env_vars": {"PYTHONPATH": str(HERE)}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})

    @serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
    class Work:
        async def __call__(self, request: Request):
            return Response(work.handle(await request.body()), media_type="application/octet-stream")

    serve.run(Work.bind(), route_prefix="/")

    def stop():
        serve.shutdown()
        ray.shutdown()

    return stop


def triton(port, directory):
    # Triton's stub links whatever libpython the loader finds; it must be this Python's own.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    import numpy as np
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    def infer(requests):
        return [{"y": np.frombuffer(work.handle(r["x"]), dtype=np.uint8)} for r in requests]

    config = TritonConfig(http_address="127.0.0.1", http_port=int(port), allow_grpc=False, allow_metrics=False)
    server = Triton(config=config, workspace=str(directory / "triton"))
    server.bind(
        model_name="work",
        infer_func=infer,
        inputs=[Tensor(name="x", dtype=np.uint8, shape=(-1,))],
        outputs=[Tensor(name="y", dtype=np.uint8, shape=(-1,))],
        config=ModelConfig(batching=False),
    )
    server.run()

    def stop():
        server.stop()
        for left in Path("/dev/shm").glob(f"pytrtion{os.getpid()}*"):  # so spelt
            left.unlink()

    return stop


SERVERS = {"mosec": mosec, "litserve": litserve, "ray-serve": ray_serve, "triton": triton}


def try_once(peer, port):
    call, close = CALLERS[peer](port)
    try:
        if call(bytes(64)) != bytes(64):
            raise RuntimeError("a wrong answer")
    finally:
        close()


def await_answer(peer, port):
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return try_once(peer, port)
        except Exception as e:
            if time.monotonic() > give_up:
                raise SystemExit(f"not ready after {PATIENCE} s: {e!r}") from e
            time.sleep(0.1)


def main():
    peer, port, directory = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    directory.mkdir(parents=True, exist_ok=True)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a peer prints is no answer of ours
    stop = SERVERS[peer](port, directory)
    try:
        await_answer(peer, port)
        os.write(answers, b"ready\n")
        sys.stdin.buffer.read()
    finally:
        late = threading.Timer(FAREWELL, lambda: os._exit(1))
        late.daemon = True
        late.start()
        stop()
    os._exit(0)  # threads that a peer has left do not keep it


if __name__ == "__main__":
    main()
