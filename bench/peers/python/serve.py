"""A peer's server: serve.py PEER PORT DIRECTORY. It says "ready" when a request has been answered, and ends with its standard input. One worker process, each peer set up as its own documentation does."""

import glob
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import work  # noqa: E402


def mosec(port, directory):
    """Run in a process of its own: mosec takes its command line from sys.argv, and the main thread."""
    code = f"""
import sys; sys.path.insert(0, {HERE!r})
import work
from mosec import Server, Worker
class Work(Worker):
    def deserialize(self, data): return data
    def serialize(self, data): return data
    def forward(self, data): return work.handle(data)
if __name__ == "__main__":
    server = Server()
    server.append_worker(Work, num=1)
    server.run()
"""
    path = os.path.join(directory, "mosec_server.py")
    with open(path, "w") as f:
        f.write(code)
    child = subprocess.Popen(
        [sys.executable, path, "--address", "127.0.0.1", "--port", port, "--path", os.path.join(directory, "mosec"), "--max-body-size", str(64 << 20), "--timeout", "60000"],
        stdout=sys.stderr,
    )
    return lambda: (child.terminate(), child.wait())


def litserve(port, directory):
    """JSON with base64, as LitServe's requests are JSON."""
    code = f"""
import sys; sys.path.insert(0, {HERE!r})
import base64, work, litserve as ls
class Work(ls.LitAPI):
    def setup(self, device): work.weights()
    def decode_request(self, request): return base64.b64decode(request["x"])
    def predict(self, x): return work.handle(x)
    def encode_response(self, y): return {{"y": base64.b64encode(y).decode()}}
if __name__ == "__main__":
    ls.LitServer(Work(), accelerator="cpu", workers_per_device=1).run(host="127.0.0.1", port={port}, generate_client_file=False, log_level="warning")
"""
    path = os.path.join(directory, "litserve_server.py")
    with open(path, "w") as f:
        f.write(code)
    child = subprocess.Popen([sys.executable, path], stdout=sys.stderr, start_new_session=True)

    def stop():
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()

    return stop


def ray_serve(port, directory):
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False, object_store_memory=256 << 20, _temp_dir=directory, runtime_env={"env_vars": {"PYTHONPATH": HERE}})
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})

    @serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
    class Work:
        async def __call__(self, request: Request):
            return Response(work.handle(await request.body()), media_type="application/octet-stream")

    serve.run(Work.bind(), route_prefix="/")
    return lambda: (serve.shutdown(), ray.shutdown())


def triton(port, directory):
    # Triton's stub links whatever libpython the loader finds; it must be this Python's own.
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]))
    import numpy as np
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    def infer(requests):
        return [{"y": np.frombuffer(work.handle(r["x"]), dtype=np.uint8)} for r in requests]

    server = Triton(config=TritonConfig(http_address="127.0.0.1", http_port=int(port), allow_grpc=False, allow_metrics=False), workspace=os.path.join(directory, "triton"))
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
        for left in glob.glob(f"/dev/shm/pytrtion{os.getpid()}*"):  # its own spelling
            os.unlink(left)

    return stop


def main():
    peer, port, directory = sys.argv[1:]
    os.makedirs(directory, exist_ok=True)
    ready, sys.stdout = os.dup(1), sys.stderr
    os.dup2(2, 1)  # what a peer prints is no answer of ours
    stop = {"mosec": mosec, "litserve": litserve, "ray-serve": ray_serve, "triton": triton}[peer](port, directory)
    try:
        from client import CALLERS

        give_up = time.monotonic() + 60
        while True:
            try:
                call, close = CALLERS[peer](port)
                try:
                    if call(b"\0" * 64) != b"\0" * 64:
                        raise SystemExit("a wrong answer")
                finally:
                    close()
                break
            except Exception as e:
                if time.monotonic() > give_up:
                    raise SystemExit(f"not ready: {e!r}") from e
                time.sleep(0.1)
        os.write(ready, b"ready\n")
        sys.stdin.buffer.read()
    finally:
        threading.Timer(15, lambda: os._exit(1)).start()
        stop()
    os._exit(0)


if __name__ == "__main__":
    main()
