"""How a worker process starts: docs/protocol.md, section 1."""

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import NoReturn

from ringmaster._codec import MAX_MESSAGE, VERSION
from ringmaster._eventfd import no_eventfd
from ringmaster._ring import ProtocolError, Segment, watch_lifeline

COOKIE = "5f1d0c52b6e94be0a1f9-ringmaster-worker"
SEGMENT_FD = 3
LIFELINE_FD = 4
EVENT_FD = 5
EXIT_PROTOCOL = 70  # the supervisor broke the protocol


@dataclass(frozen=True, slots=True)
class Launch:
    """What the supervisor gave this process."""

    segment: Segment
    concurrency: int
    max_message: int  # bytes


def launch() -> Launch:
    """Take what the supervisor gave this process, and make the handshake. Standard output is the log from then on.

    Exits the process, with a line on standard error, where section 1 says so.
    """
    if os.environ.get("RINGMASTER_COOKIE") != COOKIE:
        leave(
            1,
            "this program is a Ringmaster worker and cannot be started by hand: "
            "name it as a pool's command in ringmaster.yaml and run `ringmaster serve`",
        )
    os.set_inheritable(SEGMENT_FD, False)
    os.set_inheritable(LIFELINE_FD, False)
    concurrency = _number("RINGMASTER_CONCURRENCY", 1)
    max_message = _number("RINGMASTER_MAX_MESSAGE", MAX_MESSAGE)
    try:
        segment = Segment(SEGMENT_FD, "worker", max_message, eventfd=EVENT_FD)
    except ProtocolError as e:
        leave(EXIT_PROTOCOL, f"the segment on fd {SEGMENT_FD}: {e}")
    if segment.has_eventfd:
        why = no_eventfd(EVENT_FD)
        if why:
            leave(1, f"fd {EVENT_FD}, the eventfd: {why}")
        os.set_inheritable(EVENT_FD, False)
    offered = os.environ.get("PLUGIN_PROTOCOL_VERSIONS", "")
    if str(VERSION) not in (v.strip() for v in offered.split(",")):
        leave(
            1,
            f"no common protocol version: the supervisor speaks {offered!r}, this SDK {VERSION}; update the older one",
        )
    os.write(1, f"1|{VERSION}|unix|fd:{LIFELINE_FD}|netrpc\n".encode())
    os.dup2(2, 1)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)
    watch_lifeline(LIFELINE_FD, segment)
    return Launch(segment, concurrency, max_message)


def leave(status: int, why: str = "") -> NoReturn:
    """End the process at once, from any thread and from inside any handler; only the log's last lines are saved."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"ringmaster: {why}\n" if why else "")):
        with contextlib.suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()
    os._exit(status)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        leave(1, f"{name} is {text!r}; it must be a whole number, at least 1")
    return int(text)
