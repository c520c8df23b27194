"""A Python worker for the tests."""

import os
import subprocess

import ringmaster as rm


@rm.action("echo", idempotent=True)
def echo(request):
    return request.body, request.tensors


@rm.action("total")
def total(request):
    x = request.tensors["x"]
    return {"sum": float(x.sum()), "shape": list(x.shape), "dtype": str(x.dtype)}


@rm.action("means", idempotent=True, batch=True)
def means(batch):
    x = batch.stack("x")
    return [{"mean": float(row.mean()), "of": len(batch)} if row[0] else ValueError("zero") for row in x]


@rm.action("count", stream=True)
def count(request):
    for i in range(request.body["n"]):
        yield {"i": i}, {"row": request.tensors["x"][i % 2]} if "x" in request.tensors else {}


@rm.action("fail")
def fail(request):
    return {"never": 1 // 0}


@rm.action("child")
def child(request):
    """Starts a process that outlives its parent if nobody sees to it."""
    return {"pid": subprocess.Popen(["sleep", "1000"]).pid, "mine": os.getpid()}


rm.serve()
