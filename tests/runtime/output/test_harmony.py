"""A model with GPT-OSS's Harmony format, whose answers are messages with headers: schemas, calls, logprobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fakes import templates
from galago.models.errors import InvalidRequest
from galago.models.registry.resolve import resolve
from galago.runtime import LocalModel, load
from galago.runtime.llamacpp.weights import Weights

SHAPE = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
TOOL: dict[str, Any] = {"name": "look", "parameters": {"type": "object", "properties": {"far": {"type": "boolean"}}}}


@pytest.fixture(scope="module")
def no_letter_a() -> dict[int, float]:
    """A bias against every token that starts with an a: random reasoning would never end otherwise."""
    weights = Weights(resolve("builtin").weights, 0)
    tokens = [token for token in range(weights.vocab_size) if weights.piece(token).startswith(b"a")]
    weights.close()
    return dict.fromkeys(tokens, -100.0)


@pytest.fixture(scope="module")
def harmony(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """The built-in model with Harmony's template. It lacks the control tokens and writes them as text."""
    with load(templates.model_with(templates.HARMONY, tmp_path_factory.mktemp("harmony")), threads=1) as model:
        yield model


def test_a_schema_constrains_the_final_message(harmony: LocalModel, no_letter_a: dict[int, float]) -> None:
    for seed in range(4):
        options: Any = {"temperature": 1, "seed": seed, "logit_bias": no_letter_a}
        reply = harmony.chat("Sure?", json_schema=SHAPE, max_tokens=300, **options)
        assert reply.finish_reason == "stop" and isinstance(json.loads(reply)["sure"], bool)
    thought = harmony.chat("Sure?", json_schema=SHAPE, max_tokens=30, logit_bias={t: 100.0 for t in no_letter_a})
    assert (thought.text, thought.finish_reason) == ("", "length") and thought.reasoning


def test_a_regex_constrains_the_final_message_and_logprobs_are_those_of_its_text(
    harmony: LocalModel, no_letter_a: dict[int, float]
) -> None:
    reply = harmony.chat("Well?", regex="[bc]{3}", max_tokens=400, logprobs=1, logit_bias=no_letter_a)
    assert reply.finish_reason == "stop" and len(reply.text) == 3 and set(reply.text) <= {"b", "c"}
    assert b"".join(token.token for token in reply.logprobs or ()) == reply.text.encode()


def test_a_required_call_is_made_and_can_be_sent_back_with_its_result(
    harmony: LocalModel, no_letter_a: dict[int, float]
) -> None:
    options: Any = {"tool_choice": "required", "max_tokens": 400, "logit_bias": no_letter_a}
    reply = harmony.chat("Look!", tools=[TOOL], parallel_tool_calls=False, **options)
    assert reply.finish_reason == "tool_calls" and reply.text == ""
    assert [call.name for call in reply.calls][:1] == ["look"]
    assert all(set(call.parsed()) <= {"far"} for call in reply.calls)
    call = reply.calls[0]
    called = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "Look!"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": call.id, "content": "a tree"},
    ]
    assert harmony.chat(chat, tools=[TOOL], max_tokens=4).finish_reason in ("stop", "length")


def test_a_continued_message_is_in_the_final_channel(harmony: LocalModel) -> None:
    chat = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "a"}]
    reply = harmony.chat(chat, regex="a[bc]d", max_tokens=20)
    assert reply.text in ("bd", "cd")
    begun = [chat[0], {"role": "assistant", "content": ""}]
    assert harmony.chat(begun, regex="a[bc]d", max_tokens=20).text in ("abd", "acd")
    with pytest.raises(InvalidRequest, match="cannot continue a message if it may call tools"):
        harmony.chat(chat, tools=[TOOL])
