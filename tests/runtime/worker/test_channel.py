"""Channels between two processes: what is sent together, and what does not wait."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from fakes.waiting import wait_until
from galago.models import errors
from galago.models.errors import GalagoError
from galago.models.files import AdapterFile
from galago.runtime.config import ModelConfig
from galago.runtime.process import channel
from galago.runtime.process.channel import BufferedChannel, Channel, decode, encode
from galago.runtime.process.messages import (
    Accepted,
    Cancel,
    Content,
    EventMessage,
    FromWorker,
    Heartbeat,
    Load,
    LoadProgress,
    ModelLoaded,
    RunTask,
    TaskDone,
    ToWorker,
)
from galago.runtime.types import tasks
from galago.runtime.types.events import Delta, Failed, Finished, ParserSpec, Started, Timings, TokenLogprob, Usage
from galago.runtime.types.messages import Audio, Frame, Image, Message, Text, Tool, ToolCall, Unreadable, Video
from galago.runtime.types.model_info import ModelInfo, Stats
from galago.runtime.types.placement import Placement
from galago.runtime.types.request import CompletionPrompt, Request, Sampling


@pytest.fixture
def ends() -> Iterator[tuple[BufferedChannel, Channel]]:
    here, there = multiprocessing.Pipe()
    ends = BufferedChannel(here), Channel(there)
    yield ends
    for end in ends:
        end.close()


def test_messages_that_are_not_urgent_are_sent_together(
    ends: tuple[BufferedChannel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "COALESCE_SECONDS", 1.0)
    here, there = ends
    pieces = [LoadProgress(i / 4) for i in range(4)]
    for piece in pieces:
        here.send(piece, urgent=False)
    assert there.receive() == pieces


def test_an_urgent_message_is_sent_with_those_held_back(
    ends: tuple[BufferedChannel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "COALESCE_SECONDS", 60.0)
    here, there = ends
    begin = time.monotonic()
    here.send(LoadProgress(0.5), urgent=False)
    here.send(Heartbeat(Stats(), 0.0))
    came = there.receive(30)
    if len(came) == 1:  # the first was written already
        came += there.receive(30)
    assert came == [LoadProgress(0.5), Heartbeat(Stats(), 0.0)]
    assert time.monotonic() - begin < 30


def test_a_message_is_not_held_back_for_long(ends: tuple[BufferedChannel, Channel]) -> None:
    here, there = ends
    here.send(LoadProgress(0.5), urgent=False)
    assert there.receive(5) == [LoadProgress(0.5)]


def test_a_posted_message_is_written_by_the_thread_that_writes_now() -> None:
    here, there = multiprocessing.Pipe()
    large, small = Channel(here), BufferedChannel(there)
    sending = threading.Thread(target=large.send, args=(RunTask(0, bytes(8 << 20)),))
    sending.start()  # blocks, because nobody reads
    while not large._writing.locked():
        time.sleep(0.001)
    large.post(Cancel(0))
    assert sending.is_alive()
    received = small.receive(30) + small.receive(30)
    sending.join(30)
    assert [type(message) for message in received] == [RunTask, Cancel]
    large.close()
    small.close()


def test_a_large_request_is_written_without_a_copy_of_it() -> None:
    here, there = multiprocessing.Pipe()
    sender, receiver = Channel(here), BufferedChannel(there)
    request = RunTask(7, os.urandom(4 << 20))
    received: list[Any] = []
    receiving = threading.Thread(target=lambda: received.extend(receiver.receive(30)))
    tracemalloc.start()
    sender.send(Cancel(1))
    receiver.receive(30)
    before_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    sending = threading.Thread(target=sender.send, args=(request,))
    sending.start()  # blocks, because nobody reads yet
    wait_until(sender._writing.locked)
    taken_bytes = tracemalloc.get_traced_memory()[1] - before_bytes
    tracemalloc.stop()
    receiving.start()
    receiving.join(30)
    sending.join(30)
    assert received == [request] and taken_bytes < 1 << 20
    sender.close()
    receiver.close()


def test_sending_to_a_side_that_is_gone_does_nothing() -> None:
    here, there = multiprocessing.Pipe()
    there.close()
    channel = Channel(here)
    channel.send(Cancel(0))
    channel.post(Cancel(0))
    channel.close()


PARTS = (Image(b"\x89PNG"), Audio(b"RIFF"), Video(b"\0", frames=3), Frame(bytes(3), 1, 1), Text("Sei kurz, 你好."))
USER = Message("user", PARTS, "Ada")
CALLS = Message("assistant", (), tool_calls=(ToolCall("c", "f", "{}"),), reasoning="so")
SCHEMA: Any = {"enum": [[0, 1], {"a": None}, 2**80, 0.5, "\ud800", True]}


@pytest.mark.parametrize(
    "request_",
    [
        Request((USER,), Sampling(0.5, 0.9, 40, 0.1, -(2**63)), 7, ("a", "b")),
        Request((USER, CALLS, USER), json_schema=SCHEMA, lora=(0.5, 1), timeout=1.5, cache=False),
        Request((USER,), json_schema=False, tool_choice="none", template_variables={"a": [1]}, stop_token_ids=(1, 2)),
        Request((USER,), tools=(Tool("f", "d", {"type": "object"}, True), Tool("g")), allowed_tools=("f",)),
        Request(
            (USER,), Sampling(repeat_penalty=1.1, logit_bias=((5, -1.0), (6, 2))), grammar='start: "é"', logprobs=3
        ),
        Request((), completion=CompletionPrompt((1, 2, 3), "after")),
        Request((), completion=CompletionPrompt("text")),
        tasks.Embed(("a", (1, 2)), 3),
        tasks.Rerank("q", ("a", "b")),
        tasks.Tokenize("text", True),
        tasks.Tokenize(Request((USER,))),
        tasks.Detokenize((1, 2)),
        tasks.Estimate(Request((USER,)), False),
    ],
)
def test_requests_survive_encoding(request_: Any) -> None:
    assert decode(encode(request_), Content) == request_


@pytest.mark.parametrize(
    "message",
    [
        Started(
            3, ("warned",), (), ParserSpec("hermes", (Tool("f", None, {"type": "object"}),), ("<a>", "</a>"), True)
        ),
        Delta("é", 2, (TokenLogprob(b"\xc3", -0.1, ((b"\xc3", -0.1), (b"", -2.0))), TokenLogprob(b"\xa9", -9.0))),
        Finished("length", Usage(1, 2, 3), Timings(0.5, 1, 2.5), "stop"),
    ],
)
def test_events_survive_encoding(message: Any) -> None:
    assert decode(encode(EventMessage(5, message)), FromWorker) == EventMessage(5, message)


@pytest.mark.parametrize(
    "message",
    [
        Load(
            "n", Path("/a"), None, True, (AdapterFile(Path("b"), 0.5),), Path("c"), ModelConfig(), Placement(3, (1, 2))
        ),
        RunTask(3, b"\0\xff"),
    ],
)
def test_orders_survive_encoding(message: Any) -> None:
    assert decode(encode(message), ToWorker) == message


@pytest.mark.parametrize(
    "message",
    [
        Accepted(2**40),
        ModelLoaded(ModelInfo("m", "d", 1, 2, 3, True, False, 4, ("w",), "rerank", Sampling(0.5))),
        TaskDone(1, tasks.Vectors(b"\0" * 8, 2, 5)),
        TaskDone(1, tasks.Scores((0.5, -1.0), 5)),
        TaskDone(1, tasks.TokenPieces((1, 2), (b"a", b"\xff"))),
        TaskDone(1, tasks.RequestEstimate((tasks.PartTokens(0, 1, "image", 4),), 1, 2, 3, 4, 5, 6, None, 0.5, 7)),
    ],
)
def test_answers_survive_encoding(message: Any) -> None:
    assert decode(encode(message), FromWorker) == message


def test_the_first_logprob_of_a_prompt_is_nan() -> None:
    first = EventMessage(0, Started(1, (), (TokenLogprob(b"a", nan),)))
    assert isnan(decode(encode(first), FromWorker).event.prompt_logprobs[0].logprob)


ERRORS = [n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, GalagoError)]


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_errors_survive_encoding(name: str) -> None:
    kind: type[GalagoError] = getattr(errors, name)
    read = decode(encode(EventMessage(0, Failed(kind("why", "where")))), FromWorker).event.error
    assert (type(read), read.message, read.param) == (kind, "why", "where")


def test_an_unreadable_part_survives_encoding() -> None:
    part = Unreadable("a file", errors.MediaError("why", "where"))
    read = decode(encode(Request((Message("user", (part,)),))), Content).messages[0].parts[0]
    assert (read.name, read.source, type(read.error), read.error.message) == (
        "a file",
        "where",
        errors.MediaError,
        "why",
    )


def test_what_utf_8_cannot_hold_survives_as_far_as_possible() -> None:
    assert decode(encode(EventMessage(0, Delta("a\ud800b"))), FromWorker).event.text == "a?b"
    load = Load("n", Path(os.fsdecode(b"/a/\xff")), None, True, (), None, ModelConfig(), Placement())
    assert decode(encode(load), ToWorker) == load


REQUEST = Request((Message("user", (Text("x"),)),))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", encode(REQUEST)[:-1], encode(Text("a")), encode(replace(REQUEST)) + b"\0"]
)
def test_other_bytes_are_no_request(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        decode(data, Content)


def test_many_messages_arrive_in_several_writes_and_in_order(ends: tuple[BufferedChannel, Channel]) -> None:
    here, there = ends
    for number in range(10_000):
        here.send(Accepted(number), urgent=False)
    received: list[Accepted] = []
    while len(received) < 10_000:
        received += there.receive(30)
    assert [message.number for message in received] == [*range(10_000)]


def test_decoders_are_made_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise msgspec crashes: threads that prepare requests decode the first ones concurrently."""
    making = threading.Lock()
    overlaps: list[object] = []

    def make(kind: object) -> object:
        if not making.acquire(blocking=False):
            overlaps.append(kind)
            return None
        time.sleep(0.02)
        making.release()
        return None

    monkeypatch.setattr("galago.runtime.process.channel.msgpack.Decoder", make)
    threads = [threading.Thread(target=channel._decoder.__wrapped__, args=(Content,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlaps
