"""Inputs and outputs of actions: what may be declared, how the hello has it, and who sees it."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

import ringmaster as rm
from ringmaster._actions import select
from serving import serve, worker
from supervisor import Worker


def declare(**ports: Any) -> Any:
    return rm.action("a", **ports)(lambda request: None)


def test_the_hello() -> None:
    with Worker("signatures.py") as w:
        (embed,) = w.start().actions
        assert embed == (
            "embed",
            2,
            [["image", "uint8", [-1, -1, 3]], ["half", "bfloat16", [4]], ["text", "str", [1]]],
            [["embedding", "float32", [2]]],
        )


def test_what_is_declared_is_shown(tmp_path: Path) -> None:
    with serve(tmp_path, {"w": worker("signatures.py")}) as path:
        with rm.connect(path) as c:
            (pool,) = c.status()["pools"]
            assert pool["signatures"]["embed"]["outputs"] == [{"name": "embedding", "dtype": "float32", "shape": [2]}]
            assert c.call("w", "embed").tensors["embedding"].tolist() == [1, 2]
        metadata = get(path, "/v2/models/w")
        assert metadata["inputs"] == [
            {"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]},
            {"name": "half", "datatype": "BF16", "shape": [4]},
            {"name": "text", "datatype": "BYTES", "shape": [1]},
        ]
        assert metadata["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [2]}]


def get(path: Path, url: str) -> Any:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", url)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("ports", "error"),
    [
        ({"": ((1,), "int8")}, ValueError),
        ({"x" * 129: ((1,), "int8")}, ValueError),
        ({"x": ((-2,), "int8")}, ValueError),
        ({"x": ((1 << 63,), "int8")}, ValueError),
        ({"x": ((1,) * 33, "int8")}, ValueError),
        ({"x": ((1,), "datetime64[s]")}, TypeError),
        ({"x": ((1,), object)}, TypeError),
        ({"x": ((1.5,), "int8")}, TypeError),
    ],
)
def test_what_makes_no_sense(ports: Any, error: type[Exception]) -> None:
    for what in ("inputs", "outputs"):
        with pytest.raises(error):
            declare(**{what: ports})


def test_too_many() -> None:
    with pytest.raises(ValueError, match="1024"):
        select([declare(inputs={str(i): ((), "int8") for i in range(1025)})])
