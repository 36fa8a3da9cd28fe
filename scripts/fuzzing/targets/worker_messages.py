"""Messages between a worker and its parent: bytes are valid messages of their direction, or refused."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from msgspec import msgpack

from galago.models.errors import EngineError
from galago.runtime.config import ModelConfig
from galago.runtime.process import messages
from galago.runtime.process.channel import BufferedChannel, Channel, decode, encode
from galago.runtime.process.messages import Content, FromWorker, ToWorker, UnexpectedMessage
from galago.runtime.types import tasks
from galago.runtime.types.events import Delta, Failed, Finished, ParserSpec, Started, Timings, TokenLogprob, Usage
from galago.runtime.types.messages import Image, Message, Text, Tool
from galago.runtime.types.model_info import ModelInfo, Stats
from galago.runtime.types.placement import Placement
from galago.runtime.types.request import Request, Sampling

from ..target import Target

_REQUEST = Request((Message("user", (Text("Hi"), Image(b"png"))),), Sampling(0.5), tools=(Tool("f", None, {"a": [1]}),))
_PARSING = ParserSpec("hermes", _REQUEST.tools, ("<think>", "</think>"))
_EXAMPLES: dict[Any, tuple[object, ...]] = {
    ToWorker: (
        messages.Load("m", Path("m.gguf"), None, False, (), None, ModelConfig(), Placement()),
        messages.Generate(3, encode(_REQUEST)),
        messages.Cancel(3),
        messages.Shutdown(),
    ),
    FromWorker: (
        messages.Heartbeat(Stats(steps=3), 0.5),
        messages.LoadProgress(0.5),
        messages.ModelLoaded(ModelInfo("m", "d", 64, 1, 2, True, False, 3)),
        messages.LoadFailed(EngineError("no", "x")),
        messages.Accepted(3),
        messages.Refused(3, EngineError("no")),
        messages.EventMessage(3, Started(5, ("w",), (TokenLogprob(b"a", -1.0),), _PARSING)),
        messages.EventMessage(3, Delta("text", 2, (TokenLogprob(b"a", -1.0, ((b"b", -2.0),)),))),
        messages.EventMessage(3, Finished("stop", Usage(1, 2), Timings(0.1, 0.2, 0.3))),
        messages.EventMessage(3, Failed(EngineError("no"))),
        messages.TaskDone(3, tasks.Vectors(bytes(8), 2, 3)),
        messages.TaskDone(3, tasks.TokenPieces((1, 2), (b"a", b"b"))),
    ),
    Content: (_REQUEST, tasks.Embed(("a", (1, 2))), tasks.Tokenize("a"), tasks.Estimate(_REQUEST)),
}
_PACKED = {kind: [msgpack.decode(encode(value)) for value in values] for kind, values in _EXAMPLES.items()}
_NAMES = sorted({packed[0] for values in _PACKED.values() for packed in values} | {"Delta", "Error", "JSON", "Path"})

_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(_NAMES),
    st.lists(st.integers(0, 3), max_size=3),
    st.just([]),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
    st.sampled_from([["JSON", "[" * 100_000], ["JSON", "{"], ["Error", "object", "", None], ["Path", b"\\0"]]),
)


@st.composite
def _changed(draw: st.DrawFn, kind: Any) -> bytes:
    """An example with some of its values replaced, removed or repeated, and perhaps some of its bytes changed."""
    packed = _copy(draw(st.sampled_from(_PACKED[kind])))
    for _ in range(draw(st.integers(0, 3))):
        at = packed
        while inner := [value for value in at if isinstance(value, list) and value]:
            if draw(st.booleans()):
                break
            at = draw(st.sampled_from(inner))
        index = draw(st.integers(0, len(at) - 1))
        match draw(st.sampled_from(["replace", "remove", "repeat", "nest"])):
            case "replace":
                at[index] = _copy(draw(_ODD))
            case "remove" if at is not packed or len(at) > 1:
                del at[index]
            case "repeat":
                at.insert(index, _copy(at[index]))
            case "nest":
                at[index] = [at[index]]
    data = bytearray(msgpack.encode(packed))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 4]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def _copy(value: Any) -> Any:
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _check(given: tuple[str, bytes]) -> None:
    """Decodes the bytes; what is decoded must be encoded to bytes with the same meaning."""
    direction, data = given
    if direction in ("parent reads", "worker reads"):
        _read(direction, data)
        return
    kind = {"from worker": FromWorker, "to worker": ToWorker, "content": Content}[direction]
    try:
        value = decode(data, kind)
    except UnexpectedMessage:
        return
    again = decode(encode(value), kind)
    assert repr(again) == repr(value)  # errors and NaN are equal to nothing


def _read(direction: str, data: bytes) -> None:
    """Reads the bytes from a connection until it ends."""
    here, there = multiprocessing.Pipe()
    channel = Channel(here) if direction == "parent reads" else BufferedChannel(here)
    try:
        with there:
            there._send(data)  # type: ignore[attr-defined]  # without a length before it
        while True:
            channel.receive(5.0)
    except (UnexpectedMessage, EOFError, ConnectionError):
        pass
    finally:
        channel.close()


def _write(pair: tuple[int, bytes]) -> bytes:
    """A write of these bytes whose announced length is wrong by a number."""
    return (len(pair[1]) + pair[0]).to_bytes(4, "big", signed=True) + pair[1]


def _list(encoded: list[bytes]) -> bytes:
    return bytes([0x90 + len(encoded)]) + b"".join(encoded)


_WRITES = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.integers(-9, 9), st.binary(max_size=300)).map(_write),
    st.tuples(st.just(0), st.lists(_changed(FromWorker), max_size=4).map(_list)).map(_write),
    st.lists(st.tuples(st.just(0), st.lists(_changed(ToWorker), max_size=4).map(_list)).map(_write)).map(b"".join),
)

TARGET = Target(
    inputs=st.one_of(
        st.tuples(st.just("from worker"), st.one_of(_changed(FromWorker), st.binary(max_size=100))),
        st.tuples(st.just("to worker"), st.one_of(_changed(ToWorker), _changed(FromWorker))),
        st.tuples(st.just("content"), _changed(Content)),
        st.tuples(st.sampled_from(["parent reads", "worker reads"]), _WRITES),
    ),
    check=_check,
    seeds=(
        ("from worker", b"\x91" * 100_000 + b"\xc0"),
        ("parent reads", b"\xff\xff\xff\xff" + (1 << 40).to_bytes(8, "big") + bytes(20)),
        ("parent reads", b"\x00\x00\x00\x05\xdd\xff\xff\xff\xff"),
        ("from worker", encode(messages.EventMessage(0, Delta("a"))).replace(b"Delta", b"Deltb")),
        ("parent reads", b"\x00\x00\x00\x00"),
    ),
)
