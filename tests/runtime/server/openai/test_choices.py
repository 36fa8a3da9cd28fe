"""Several choices for one request: over HTTP, and how they share the prompt, their end and a failure."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import openai
import pytest

from fakes.server import Server
from galago.models.errors import EngineError, GalagoError, InvalidRequest, NotReady
from galago.runtime import LocalModel
from galago.runtime.inference.stream import Stream
from galago.runtime.server.http import whole_answers
from galago.runtime.server.http.events import Choices
from galago.runtime.server.http.whole_answers import collect
from galago.runtime.types.events import Delta, Event, Failed, Finished, Started, Timings, TokenLogprob, Usage
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.request import Request, Sampling

HI = (Message("user", (Text("Hi"),)),)
SPELL: Any = [{"role": "user", "content": "Spell ehn."}]
TOSSED: Any = {
    "model": "builtin",
    "messages": SPELL,
    "temperature": 100,
    "extra_body": {"regex": "[ab]{12}"},
}
"""Answers that only the seed determines, although logits vary slightly with the batch that computes them."""


def test_each_choice_is_a_separate_answer(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="builtin", messages=SPELL, n=5, temperature=5, seed=1)
    assert [c.index for c in completion.choices] == [0, 1, 2, 3, 4]
    assert all(c.message.content and c.finish_reason for c in completion.choices)
    assert len({c.message.content for c in completion.choices}) > 1
    alone = client.chat.completions.create(model="builtin", messages=SPELL)
    assert completion.usage and alone.usage
    assert completion.usage.prompt_tokens == alone.usage.prompt_tokens
    assert completion.usage.completion_tokens > 2 * alone.usage.completion_tokens
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_a_seed_counts_up_from_choice_to_choice(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(n=3, seed=6, **TOSSED)
    assert len({c.message.content for c in several.choices}) == 3
    for choice in several.choices:
        alone = client.chat.completions.create(seed=6 + choice.index, **TOSSED).choices[0]
        assert choice.message.content == alone.message.content


def test_streamed_choices_equal_the_whole_ones(client: openai.OpenAI) -> None:
    options: Any = TOSSED | {"n": 3, "seed": 6, "logprobs": True}
    whole = client.chat.completions.create(**options)
    texts: dict[int, str] = defaultdict(str)
    ends: list[int] = []
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert [texts[i] for i in range(3)] == [c.message.content for c in whole.choices]
    assert sorted(ends) == [0, 1, 2]
    assert whole.usage and chunks[-1].usage and not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert sum("timings" in (c.model_extra or {}) for c in chunks) == 1


def test_the_prompt_is_computed_once(model: LocalModel) -> None:
    engine = cast(Any, model._service)._given[0].loaded._engine
    rows: list[int] = []
    decode = engine._runner.decode

    def counting(step: Any) -> None:
        rows.append(len(step))
        decode(step)

    engine._runner.decode = counting
    try:
        text = " ".join(f"word{i}" for i in range(200))
        request = Request((Message("user", (Text(text),)),), max_tokens=4, ignore_eos=True)
        ends = asyncio.run(collect_ends(Choices(lambda r, c: model._service.generate(None, r, c), request, 4)))
    finally:
        engine._runner.decode = decode
    prompt = ends[0].usage.prompt_tokens
    assert prompt > 400 and len(ends) == 4
    assert prompt < sum(rows) < prompt + 30
    assert all(ends[i].usage.cached_tokens > prompt - 5 for i in (1, 2, 3))


async def collect_ends(choices: Choices) -> dict[int, Finished]:
    ends = {}
    async for index, event in choices.events():
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            ends[index] = event
    return ends


def test_more_choices_than_slots_wait_for_their_turn(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="builtin", messages=SPELL, n=20, max_tokens=3)
    assert len({c.message.content for c in completion.choices}) == 1 and len(completion.choices) == 20


def test_a_client_that_disconnects_cancels_all_choices(server: Server) -> None:
    client = server.client(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            model="builtin", messages=SPELL, n=4, extra_body={"ignore_eos": True}, temperature=1
        )
    stream = server.client().chat.completions.create(
        model="builtin", messages=SPELL, n=4, extra_body={"ignore_eos": True}, stream=True
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 10
    while server.running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.running() == 0


class ScriptedGenerate:
    """A generate function whose streams the test feeds by hand."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.streams: list[Stream] = []
        self.requests: list[Request] = []
        self.closed: list[int] = []
        self._fail_at = fail_at

    def __call__(self, request: Request, cancelled: Callable[[], bool]) -> Stream:
        number = len(self.streams)
        if number == self._fail_at:
            raise NotReady("too many requests are waiting")
        stream = Stream()
        stream.on_close(lambda: self.closed.append(number))
        self.streams.append(stream)
        self.requests.append(request)
        return stream


def finished() -> Finished:
    return Finished("stop", Usage(1, 1), Timings(0.1, 0.2, 0.3))


async def read(choices: Choices, into: list[tuple[int, Event]]) -> None:
    async for numbered in choices.events():
        into.append(numbered)


def test_a_whole_answer_holds_a_bounded_number_of_logprobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight for this answer, of two tokens with three alternatives each."""
    logprob = TokenLogprob(b"a", -1.0, ((b"b", -2.0),) * 3)

    async def collected() -> int:
        script = ScriptedGenerate()
        choices = Choices(script, Request(HI))
        for event in (Started(1), Delta("ab", 2, (logprob, logprob)), finished()):
            script.streams[0].put(event)
        return len(await collect([choices]))

    monkeypatch.setattr(whole_answers, "MAX_COLLECTED_LOGPROBS", 8)
    assert asyncio.run(collected()) == 1
    monkeypatch.setattr(whole_answers, "MAX_COLLECTED_LOGPROBS", 7)
    with pytest.raises(InvalidRequest, match="log-probabilities; stream it"):
        asyncio.run(collected())


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def test_other_choices_start_when_the_first_has_begun() -> None:
    async def scenario() -> None:
        script, events = ScriptedGenerate(), []  # type: ignore[var-annotated]
        request = Request(HI, Sampling(seed=2**63 - 1), timeout=9)
        reading = asyncio.create_task(read(Choices(script, request, 3), events))
        script.streams[0].put(Started(5))
        await asyncio.sleep(0.05)
        assert len(script.streams) == 1
        script.streams[0].put(Delta("a"))
        await wait_until(lambda: len(script.streams) == 3)
        assert {r.sampling.seed for r in script.requests} == {2**63 - 1, -(2**63), -(2**63) + 1}
        assert all(r.timeout < 9 for r in script.requests[1:])  # type: ignore[operator]
        for stream in script.streams:
            stream.put(finished())
        await reading
        ends = {index: event for index, event in events if isinstance(event, Finished)}
        assert set(ends) == {0, 1, 2}
        assert ends[0].timings.total_seconds == 0.3 and ends[1].timings.total_seconds > 0.3
        assert script.closed == []

    asyncio.run(scenario())


@pytest.mark.parametrize("late", [False, True])
def test_the_failure_of_one_choice_ends_all(late: bool) -> None:
    async def scenario() -> None:
        script, events = ScriptedGenerate(None if late else 1), []  # type: ignore[var-annotated]
        reading = asyncio.create_task(read(Choices(script, Request(HI), 3), events))
        script.streams[0].put(Delta("a"))
        if late:
            await wait_until(lambda: len(script.streams) == 3)
            script.streams[2].put(Failed(EngineError("it broke")))
        await reading
        assert isinstance(events[-1][1], Failed)
        await wait_until(lambda: set(script.closed) >= ({0, 1} if late else {0}))

    asyncio.run(scenario())


def test_closing_while_other_choices_are_prepared_cancels_them() -> None:
    gate = threading.Event()

    class Slow(ScriptedGenerate):
        def __call__(self, request: Request, cancelled: Callable[[], bool]) -> Stream:
            if self.streams:
                gate.wait(5)
            return super().__call__(request, cancelled)

    async def scenario() -> None:
        script, events = Slow(), []  # type: ignore[var-annotated]
        choices = Choices(script, Request(HI), 2)
        reading = asyncio.create_task(read(choices, events))
        script.streams[0].put(Delta("a"))
        await wait_until(lambda: bool(events))
        reading.cancel()
        await asyncio.sleep(0.02)
        gate.set()
        await wait_until(lambda: len(script.streams) == 2 and set(script.closed) == {0, 1})

    asyncio.run(scenario())


def test_an_invalid_request_raises_at_once() -> None:
    with pytest.raises(GalagoError, match="waiting"):
        Choices(ScriptedGenerate(0), Request(HI), 2)
