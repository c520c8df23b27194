"""The chaos actions in Python: worker/builtin_chaos.go has them in Go. Written twice, so that one checks the other."""

import hashlib
import mmap
import os
import random
import signal
import struct
import time

import numpy as np

import ringmaster as rm
from ringmaster._tensors import Placed

SLOT = os.environ.get("RINGMASTER_SLOT", "")
LEDGER = os.environ["RINGMASTER_CHAOS_LEDGER"]
NONSENSE = 0xEE


def record(nonce):
    """Append a line to the ledger, in one write."""
    fd = os.open(LEDGER, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{nonce} {SLOT} {os.getpid()}\n".encode())
    finally:
        os.close(fd)


def pause(request, ms, late=False):
    """Wait so long, or until nobody is interested any more, unless it is to be late."""
    end = time.monotonic() + ms / 1000
    while (left := end - time.monotonic()) > 0:
        if not late:
            request.check()
        time.sleep(min(left, 0.05))


def mix(array, mask):
    """XOR the 64-bit words of an array with mask; a tail of less than 8 bytes stays as it is."""
    data = np.frombuffer(array.tobytes(), dtype=np.uint8).copy()
    words = data[: data.size & ~7].view("<u8")
    words ^= np.uint64(mask)
    return data.view(array.dtype).reshape(array.shape)


def answer(request):
    body = request.body
    nonce, data = body["nonce"], body.get("data") or b""
    record(nonce)
    tensors = {}
    for name, array in request.tensors.items():
        tensors[name] = request.output(name, array.shape, array.dtype)
        tensors[name].fill(NONSENSE)  # a slot is written to from the first moment to the last
    pause(request, body.get("ms", 0), body.get("late", False))
    digest = hashlib.sha256(nonce.encode())
    digest.update(data)
    mask = int.from_bytes(hashlib.sha256(nonce.encode()).digest()[:8], "little")
    for name, array in request.tensors.items():
        digest.update(name.encode())
        digest.update(array.tobytes())
        np.copyto(tensors[name], mix(array, mask))
    reply = {"nonce": nonce, "sum": digest.hexdigest(), "data": data[::-1], "slot": SLOT, "pid": os.getpid()}
    return reply, tensors


@rm.action("transform", idempotent=True)
def transform(request):
    return answer(request)


@rm.action("once")
def once(request):
    return answer(request)


@rm.action("stream", stream=True, idempotent=True)
def stream(request):
    body = request.body
    nonce, size = body["nonce"], body["size"]
    record(nonce)
    state = hashlib.sha256(nonce.encode()).digest()
    for seq in range(body["n"]):
        pause(request, body.get("ms", 1))
        data = (state * (size // len(state) + 1))[:size]
        state = hashlib.sha256(state + data).digest()
        yield {"nonce": nonce, "seq": seq, "sum": state.hex(), "data": data}


@rm.action("raise")
def fail(request):
    raise RuntimeError("raise: asked to fail")


def die(request):
    how = request.body.get("how", "kill")
    if how == "exit":
        os._exit(request.body.get("code", 1))
    os.kill(os.getpid(), {"segv": signal.SIGSEGV, "abort": signal.SIGABRT}.get(how, signal.SIGKILL))
    while True:  # the signal may go to another thread first, and an answer that goes out before the end counts
        time.sleep(1)


@rm.action("crash")
def crash(request):
    die(request)


@rm.action("poison", idempotent=True)
def poison(request):
    die(request)


@rm.action("hang")
def hang(request):
    record(request.body["nonce"])
    how = request.body.get("how", "block")
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        if how != "spin":
            time.sleep(3600)


leaked = []


@rm.action("leak")
def leak(request):
    mib = request.body.get("mib", 16)
    block = bytearray(mib << 20)
    for i in range(0, len(block), mmap.PAGESIZE):
        block[i] = 1
    leaked.append(block)
    return {"mib": sum(len(b) for b in leaked) >> 20}


SEGMENT_FD, EVENT_FD = 3, 5
W2S, W2S_TAIL, W2S_ITEMS, W2S_END = 0x1400, 0x1400, 0x1500, 0x1600


class Astray:
    """A slot that the request does not have: beside its slot, or in a region that it does not name."""

    def __init__(self, request):
        self.region, self.offset = 1, 0
        for slot in (output._slot for output in request._outputs.values()):
            self.region, self.offset = slot.region, slot.offset + 64

    def holds(self, array):
        return True

    def placed(self, dtype, array):
        return Placed(dtype, array.shape, self.region, self.offset, array.nbytes)


@rm.action("lie")
def lie(request):
    how = request.body.get("how", "header")
    if how == "payload":
        raise rm.InvalidArgument("lie: payload would change the answers to other requests", reason="invalid_argument")
    if how == "astray":
        request._outputs = {"x": Astray(request)}
        return {}, {"x": np.zeros(64, np.uint8)}
    memory = mmap.mmap(SEGMENT_FD, os.fstat(SEGMENT_FD).st_size)

    def word(offset):
        return struct.unpack_from("<Q", memory, offset)[0]

    def publish(tail):
        struct.pack_into("<Q", memory, W2S_TAIL, tail & (2**64 - 1))
        struct.pack_into("<I", memory, W2S_ITEMS, 1)
        os.eventfd_write(EVENT_FD, 1)

    while True:
        tail = word(W2S_TAIL)
        if how == "ahead":
            publish(tail + (1 << 40))
        elif how == "backwards":
            publish(0)
        elif how == "unaligned":
            publish(tail + 8)
        elif how == "frame":
            memory_at = word(0x040) + tail % word(0x048)
            struct.pack_into("<QQ", memory, memory_at, random.getrandbits(64), random.getrandbits(64))
            publish(tail + 32)
        else:
            for _ in range(100):
                offset = W2S + 8 * random.randrange((W2S_END - W2S) // 8)
                struct.pack_into("<Q", memory, offset, random.getrandbits(64) >> random.randrange(64))
            publish((random.getrandbits(64) >> random.randrange(64)) & ~15)
        time.sleep(0.001)


if __name__ == "__main__":
    rm.serve()
