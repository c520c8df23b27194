"""What comes with a server's hello: the rings' descriptors, and what a client does with others than it was promised."""

import os
import socket

import pytest

from ringmaster import DataLoss
from ringmaster._codec import Hello, encode
from ringmaster._greeting import Greeting
from ringmaster._ring import Segment
from ringmaster._session import Session
from segments import Memory, crc32c


def greeted(flags: int, *more: int) -> Segment | None:
    """Return the rings of a client whose server's segment has these flags, and comes with these descriptors."""
    fd = Segment.create(s2w=4096, w2s=4096)
    memory = Memory(fd)
    memory.put("I", 0x24, flags)
    memory.put("I", 0x50, crc32c(memory.bytes[:0x50]))
    memory.bytes.close()
    theirs, ours = socket.socketpair()
    greeting = Greeting(Session(), 4096)
    try:
        message = b"".join(map(bytes, encode(Hello(1, 1, "server", limits={"ring": 4096}))))
        socket.send_fds(theirs, [len(message).to_bytes(4, "little") + message], [fd, *more])
        greeting.receive(ours)
        return greeting.segment(ours)
    finally:
        greeting.close()
        for each in (theirs, ours):
            each.close()
        os.close(fd)
    # conftest.py sees whether a descriptor is left


def test_an_eventfd_comes_with_the_rings() -> None:
    event = os.eventfd(0)
    try:
        for flags, more in ((1, ()), (1, (event,)), (3, (event,)), (3, (event, event))):
            segment = greeted(flags, *more)
            assert segment is not None
            assert segment.has_eventfd == (flags == 3)
            segment.close()
    finally:
        os.close(event)


def test_what_is_no_eventfd_is_a_breach() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(DataLoss, match=r"the eventfd .* is none"):
            greeted(3, writing)
        with pytest.raises(DataLoss, match="flags"):
            greeted(3)
        with pytest.raises(DataLoss, match="flags"):
            greeted(5, writing)
    finally:
        os.close(reading)
        os.close(writing)
