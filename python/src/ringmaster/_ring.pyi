"""Messages through shared memory, and arenas; the sources are in csrc."""

from collections.abc import Callable, Mapping
from typing import Any, final

from typing_extensions import Buffer

class ProtocolError(Exception):
    """The peer broke the protocol; the segment is of no more use."""

class Closed(Exception):
    """The segment was shut down or closed in this process."""

class Segment:
    """One process's side of a segment: docs/protocol.md, sections 2 to 4.

    Any number of threads may send, and receive; a lock of this process lets one through at a time. Waiting, and
    copying 64 KiB and more, happens without the GIL. A fork's child cannot use its parent's segment (RuntimeError).
    """

    def __new__(
        cls, fd: int, role: str = "worker", max_message: int = 67108864, bell: int = -1, eventfd: int = -1
    ) -> Segment:
        """Check and map the segment behind fd, which may be closed afterwards.

        role is "worker" or "supervisor", max_message is in bytes. bell is the socket beside a client's rings, which has
        to stay open while the segment is used; its end makes recv, after what came before, and send raise Closed.
        eventfd is the descriptor by which the supervisor is woken if the segment says that it has one; it is copied.
        Raises ProtocolError if the segment is not what section 2 describes, OSError if it cannot be mapped.
        """

    @staticmethod
    def create(s2w: int = 1048576, w2s: int = 1048576, incarnation: int = 1, max_frame: int = 0) -> int:
        """Make a sealed segment, for tests, and return its descriptor.

        Capacities are in bytes; max_frame 0 is the largest allowed.
        """

    def recv(self, timeout: float | None = None) -> bytearray | None:
        """Return the next message, in memory of its own, or None after timeout seconds (None: never) or a nudge."""

    def try_recv(self) -> bytearray | None:
        """Return the next message, or None if none is there."""

    def peek(self, timeout: float | None, /) -> bytearray | None:
        """Like recv, but to the peer the message remains unread until settle, or the next recv.

        Where it is so large, or so much is unread already, that it would be in the peer's way, all is read.
        """

    def settle(self, position: int | None, /) -> None:
        """Say that what was received up to that position has been read; None: all of it."""

    def recv_many(self, timeout: float | None, most: int, sleepy: bool, /) -> list[bytearray]:
        """Wait as recv for a message, and return it and those that are there already, at most so many.

        Before it sleeps it looks for some microseconds whether a message comes at once, unless it is to be sleepy.
        What goes wrong after the first message is raised by the next call.
        """

    def send(self, *buffers: Buffer) -> None:
        """Send the buffers' concatenation as one message of 1 to max_message bytes (ValueError). Waits for space."""

    def try_send(self, *buffers: Buffer) -> bool:
        """Like send, but return False if there is no space for the message to begin."""

    def send_within(self, timeout: float | None, *buffers: Buffer) -> bool:
        """Like send, but return False if there is no space for the message to begin within timeout seconds."""

    def send_now(self, *buffers: Buffer) -> bool:
        """Like send, but return False if there is no space for all of the message now."""

    def hear(self) -> bool:
        """Take what was rung off the bell; False if the peer is gone."""

    def file(self) -> int | None:
        """Return the next descriptor that came with the bell, the caller's to close; None if none has come by now."""

    def arm(self) -> bool:
        """Have the bell rung when there is a message; True if try_recv has one, or something to raise, now."""

    def set_status(self, state: int, request: int) -> None:
        """Write the worker's advisory words: its state (section 2) and the id of its request, 0 for none."""

    def nudge(self) -> None:
        """Make one recv, waiting now or next, return None."""

    def shutdown(self) -> None:
        """Make every recv and send, now and later, raise Closed."""

    def close(self) -> None:
        """Shut down, and unmap as soon as nobody is inside."""

    @property
    def received(self) -> int:
        """The position up to which messages have been received."""

    @property
    def read(self) -> int:
        """The position up to which, to the peer, they have been read."""

    @property
    def incarnation(self) -> int: ...
    @property
    def max_frame(self) -> int: ...
    @property
    def max_message(self) -> int: ...
    @property
    def has_eventfd(self) -> bool: ...

def split(data: Buffer, most: int = 16, /) -> tuple[bool | int | str | memoryview | slice | None, ...]:
    """Return the first elements of the MessagePack array that data is, after checking all of data.

    The check is section 5's Validation (ValueError). nil, booleans, unsigned integers and strings come decoded,
    binaries as views of data, anything else as the slice of data where it lies.
    """

@final
class Sleeper:
    """Where one thread sleeps until another one wakes it."""

    def __new__(cls) -> Sleeper: ...
    def sleep(self, timeout: float | None, other: Sleeper | None, /) -> bool:
        """Let go of the GIL, wake the other one, and sleep; True if woken, perhaps before this began.

        timeout is in seconds, None is for ever. A signal's handler that raises ends it, too.
        """

    def wake(self) -> None:
        """End its sleep, or the next one."""

@final
class Codec:
    """Does what _codec does, for the requests and replies that are like most; None: _codec is to do it."""

    def __new__(
        cls,
        request: type[Any],
        reply: type[Any],
        encoded: type[Any],
        pack: Callable[[Any], bytes],
        array: type[Any],
        dtypes: Mapping[str, Any],
    ) -> Codec:
        """Take the classes of what is decoded, and what encodes any value.

        encoded(buffer) is a value that is still encoded, with the attribute data; dtypes are NumPy's, by the protocol's
        names for what NumPy has without help.
        """

    def decode(self, data: Buffer, /) -> Any:
        """Return a request or a reply that may refer to data's memory."""

    def request(
        self,
        id: int,
        pool: str,
        action: str,
        trace_id: str,
        context: object,
        timeout_us: int,
        credit: int,
        headers: object,
        body: object,
        tensors: object,
        /,
    ) -> bytes | None:
        """Encode a request. TypeError, ValueError or OverflowError: the body cannot be encoded."""

    def reply(self, id: int, flags: int, headers: object, body: object, tensors: object, /) -> bytes | None:
        """Encode a reply without an error, likewise."""

def tell_on_term(install: Callable[[int], object], /) -> None:
    """Have SIGTERM call two handlers: that which install(number) installs for a signal of that number, then its own.

    The first only if tell_where says so. RuntimeError if SIGTERM has none yet. From the main thread.
    """

def tell_where(yes: bool, /) -> None:
    """Say whether SIGTERM calls the first handler of tell_on_term."""

def watch_lifeline(fd: int, segment: Segment, /) -> None:
    """End this process at once, with status 1, at end of file on the socket fd, even while a handler holds the GIL.

    Its packets are kept for lifeline_packets, and nudge the segment, which is never unmapped from now on. Once in a
    process.
    """

def lifeline_pending() -> bool:
    """Whether packets have been kept; this takes no system call."""

def lifeline_packets() -> list[tuple[bytes, int | None]]:
    """Return the packets that have come over the lifeline by now, in order.

    Their descriptors are the caller's to close.
    """

@final
class Region(Buffer):
    """A memfd of another process's making, mapped for as long as something refers to it.

    A buffer of all its bytes, writable and shared. An array that is made of one keeps it.
    """

    def __new__(cls, fd: int, size: int, done: Callable[[int, int], object] | None = None) -> Region:
        """Check and map the file behind fd, which may be closed afterwards; its pages are there when this returns.

        size is in bytes. done(address, size) is called just before it is unmapped, by whichever thread drops it last.
        Raises ProtocolError if the file is not a memfd of that size that is sealed, OSError if it cannot be mapped.
        """

    def block(self, offset: int, length: int, done: Callable[[], object] | None = None) -> Block:
        """Return length bytes at offset, as a buffer that keeps the region; ValueError if they are not inside.

        done() is called when nobody has the block any more, nor an array in it: in any thread, in the midst of things.
        """

    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...

@final
class Block(Buffer):
    """A part of a Region: what Region.block returns."""
