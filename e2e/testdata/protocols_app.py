"""Apps that know nothing of Ringmaster, each with its own client and unchanged: the Open Inference Protocol's by HTTP and gRPC, gRPC's health and reflection, JSON-RPC's, OpenAI's; over the socket of a
server with the pools `vectors` (vectors.py) and `echo`."""

import asyncio
import base64
import contextlib
import json
import os
import threading

import grpc
import httpx2
import jsonrpcclient
import numpy as np
import openai
import tritonclient.grpc
import tritonclient.http
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

socket = os.environ["RINGMASTER_SOCKET"]
address = "unix://" + socket


@contextlib.contextmanager
def forwarder():
    """A TCP port of this host that leads to the socket, for clients that cannot speak to one."""
    ready, port = threading.Event(), []
    loop = asyncio.new_event_loop()

    async def pump(reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def accept(reader, writer):
        up_reader, up_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    async def main():
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await server.serve_forever()

    def run():
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    task = loop.create_task(main())
    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    yield f"127.0.0.1:{port[0]}"
    loop.call_soon_threadsafe(task.cancel)
    thread.join()


def fails(call, kind, *parts):
    try:
        call()
    except kind as e:
        assert all(part in str(e) for part in parts), e
    else:
        raise AssertionError(f"{kind.__name__} was expected")


ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
TEXTS = np.array([b"a", "ü".encode(), b"\xff"], dtype=np.object_)


def inputs(module, **how):
    array = module.InferInput("x", [2, 3], "FP32")
    array.set_data_from_numpy(ARRAY, **how)
    texts = module.InferInput("texts", [2 if how else 3], "BYTES")
    texts.set_data_from_numpy(TEXTS[:2] if how else TEXTS, **how)
    return [array, texts]


def triton_http() -> None:
    t = tritonclient.http
    with forwarder() as url, t.InferenceServerClient(url=url) as c:
        assert c.is_server_live() and c.is_server_ready() and c.is_model_ready("vectors") and not c.is_model_ready("none")
        assert c.get_server_metadata()["name"] == "ringmaster"
        assert c.get_model_metadata("vectors")["name"] == "vectors"
        assert {(m["name"], m["state"]) for m in c.get_model_repository_index()} == {("vectors", "READY"), ("echo", "READY")}
        for how, coding in (({}, None), ({"binary_data": False}, None), ({}, "gzip")):
            out = c.infer(
                "vectors",
                inputs(t, **how),
                request_id="7",
                parameters={"n": 5, "on": True},
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
                outputs=[t.InferRequestedOutput("x", **how), t.InferRequestedOutput("texts", **how)],
            )
            assert (out.as_numpy("x") == 2 * ARRAY).all() and out.as_numpy("x").dtype == np.float32
            assert out.as_numpy("texts").tolist() == ([s.decode() for s in TEXTS[:2]] if how else TEXTS.tolist()), out.as_numpy("texts")
            assert out.get_response()["id"] == "7" and out.get_response()["parameters"] == {"n": 5, "on": True, "seen": 1}, out.get_response()
        out = c.infer("echo", [inputs(t)[0]], parameters={"action": "echo"})
        assert (out.as_numpy("x") == ARRAY).all()
        large = np.random.default_rng(1).random(1 << 20)
        array = t.InferInput("large", [1 << 20], "FP64")
        array.set_data_from_numpy(large)
        assert (c.infer("echo", [array], parameters={"action": "echo"}).as_numpy("large") == large).all()
        fails(lambda: c.infer("none", []), InferenceServerException, "404", "NOT_FOUND/unknown_pool")
        fails(lambda: c.infer("vectors", [], parameters={"action": "fail"}), InferenceServerException, "500", "it was asked to")
        fails(lambda: c.infer("vectors", [], model_version="2"), InferenceServerException, "404")


def triton_grpc() -> None:
    t = tritonclient.grpc
    with t.InferenceServerClient(url=address) as c:
        assert c.is_server_live() and c.is_server_ready() and c.is_model_ready("vectors")
        assert c.get_server_metadata().name == "ringmaster"
        assert c.get_model_metadata("vectors").versions == ["1"]
        assert [m.name for m in c.get_model_repository_index().models] == ["echo", "vectors"]
        for coding in (None, "gzip"):
            out = c.infer("vectors", inputs(t), request_id="7", parameters={"n": 5}, compression_algorithm=coding)
            assert (out.as_numpy("x") == 2 * ARRAY).all() and out.as_numpy("texts").tolist() == TEXTS.tolist()
            assert out.get_response().id == "7" and out.get_response().parameters["seen"].int64_param == 1
        fails(lambda: c.infer("none", []), InferenceServerException, "NOT_FOUND")
        heard, done = [], threading.Event()

        def hear(result, error):
            heard.append((result and result.get_response(), error))
            if len(heard) == 5:
                done.set()

        c.start_stream(hear)
        c.async_stream_infer("vectors", [], request_id="a", parameters={"action": "count"}, enable_empty_final_response=True)
        c.async_stream_infer("none", [], request_id="b")
        assert done.wait(30), heard
        c.stop_stream()
        mine = [r for r, e in heard if e is None]
        assert [r.parameters["i"].int64_param for r in mine[:3]] == [0, 1, 2] and mine[3].parameters["triton_final_response"].bool_param
        assert ["unknown_pool" in str(e) for _, e in heard if e is not None] == [True], heard


def grpc_services() -> None:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "vectors", "inference.GRPCInferenceService"):
            assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
        fails(lambda: health.Check(health_pb2.HealthCheckRequest(service="none")), grpc.RpcError, "NOT_FOUND")
        watch = health.Watch(health_pb2.HealthCheckRequest(service="vectors"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

        # What reflection says is enough to call: no generated code.
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service = pool.FindServiceByName("ringmaster.v1.Ringmaster")
        request = message_factory.GetMessageClass(pool.FindMessageTypeByName("ringmaster.v1.CallRequest"))
        reply = message_factory.GetMessageClass(pool.FindMessageTypeByName("ringmaster.v1.CallReply"))
        assert [m.name for m in service.methods] == ["Call", "Stream", "Converse", "Status"]
        path = "/ringmaster.v1.Ringmaster/"
        call = channel.unary_unary(path + "Call", request.SerializeToString, reply.FromString)
        for coding in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            text = json.dumps({"a": "ü" * 5000})
            out = call(request(pool="echo", action="echo", json=text), compression=coding)
            assert json.loads(out.json) == json.loads(text)
        stream = channel.unary_stream(path + "Stream", request.SerializeToString, reply.FromString)
        assert [json.loads(r.json)["i"] for r in stream(request(pool="vectors", action="count", json="null"))] == [0, 1, 2]
        fails(lambda: call(request(pool="vectors", action="fail", json="null")), grpc.RpcError, "INTERNAL", "it was asked to")
        fails(lambda: call(request(pool="echo", action="sleep", json='{"seconds": 20}'), timeout=0.05), grpc.RpcError, "DEADLINE_EXCEEDED")


def rpc() -> None:
    transport = httpx2.HTTPTransport(uds=socket)
    with httpx2.Client(transport=transport, base_url="http://localhost") as c:

        def ask(request):
            return jsonrpcclient.parse(c.post("/rpc", json=request).json())

        assert ask(jsonrpcclient.request("echo.echo", params={"a": [1, None]})).result == {"a": [1, None]}
        failed = ask(jsonrpcclient.request("none.echo"))
        assert isinstance(failed, jsonrpcclient.Error) and failed.code == -32601 and failed.data["reason"] == "unknown_pool", failed
        batch = ask([jsonrpcclient.request("echo.echo", params=[n]) for n in range(3)])
        assert [r.result for r in batch] == [[0], [1], [2]]
        lines = "".join(json.dumps(jsonrpcclient.request("echo.echo", params=[n], id=n)) + "\n" for n in range(10))
        answer = c.post("/rpc", content=lines, headers={"Content-Type": "application/x-ndjson"})
        assert {r.id: r.result for r in map(jsonrpcclient.parse_json, answer.text.splitlines())} == {n: [n] for n in range(10)}
        packed = c.post("/rpc", json=jsonrpcclient.request("echo.echo", params=["x" * 10000]), headers={"Accept-Encoding": "gzip"})
        assert packed.headers["Content-Encoding"] == "gzip" and jsonrpcclient.parse(packed.json()).result == ["x" * 10000]


def numbers(embedding):
    """An embedding is a string only to those who ask for one."""
    return np.frombuffer(base64.b64decode(embedding), np.float32) if isinstance(embedding, str) else np.array(embedding)


def embeddings() -> None:
    transport = httpx2.HTTPTransport(uds=socket)
    with openai.OpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport)) as c:
        for form in ("float", "base64", None):
            more = {"encoding_format": form} if form else {}
            out = c.embeddings.create(model="vectors", input=["tea", "eat", "bus"], **more)
            tea, eat, bus = (numbers(d.embedding) for d in out.data)
            assert np.allclose(tea, eat) and tea @ bus < 0.1 and abs(float(tea @ tea) - 1) < 1e-5 and len(tea) == 26
            assert out.usage.total_tokens == 3 and out.model == "vectors" and [d.index for d in out.data] == [0, 1, 2]
        assert len(c.embeddings.create(model="vectors", input="one").data) == 1
        fails(lambda: c.embeddings.create(model="echo", input="x"), openai.NotFoundError, "no action")


for part in (rpc, embeddings, grpc_services, triton_grpc, triton_http):
    part()
    print(part.__name__, "is good", flush=True)
print("all good")
