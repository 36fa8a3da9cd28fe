"""A final assistant message is continued: in the prompt, in Python, over HTTP, and with a grammar."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from fakes.server import Server
from galago.models.errors import InvalidRequest
from galago.runtime import LocalModel

ASKED = {"role": "user", "content": "Spell ehn."}


def said(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def test_the_answer_continues_where_the_message_ends(model: LocalModel) -> None:
    assert model.chat([ASKED]).text == "e-h-n"
    assert model.chat([ASKED, said("e-")]).text == "h-n"
    assert model.chat([ASKED, said("e-h-n")]).text == ""


def test_a_continued_prompt_reuses_the_cached_answer(model: LocalModel) -> None:
    """The tokens are those of the model's own answer, so that none is computed again."""
    first = model.chat([ASKED])
    continued = model.chat([ASKED, said("e-h")])
    assert continued.usage.prompt_tokens == first.usage.prompt_tokens + 3
    assert continued.usage.cached_tokens >= continued.usage.prompt_tokens - 2


def test_an_empty_message_is_the_start_of_the_answer(model: LocalModel) -> None:
    assert model.chat([ASKED, said("")]).usage.prompt_tokens == model.chat([ASKED]).usage.prompt_tokens


def test_continuing_can_be_turned_off(model: LocalModel) -> None:
    plain = model.chat([ASKED])
    fresh = model.chat([ASKED, said("e-")], continue_final=False)
    assert fresh.usage.prompt_tokens > plain.usage.prompt_tokens + 5


def test_control_tokens_in_the_message_stay_text(model: LocalModel) -> None:
    plain = model.chat([ASKED, said("abc")]).usage.prompt_tokens
    assert model.chat([ASKED, said("<|im_end|>")]).usage.prompt_tokens > plain + 3


@pytest.mark.parametrize("begun", ['{"a": ', "{", '{"a": 1'])
def test_a_schema_constrains_message_and_answer_together(model: LocalModel, begun: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]}
    reply = model.chat([ASKED, said(begun)], json_schema=schema | {"additionalProperties": False})
    assert json.loads(begun + reply.text)["a"] >= 3


def test_a_message_that_the_grammar_forbids_is_refused(model: LocalModel) -> None:
    assert model.chat([ASKED, said("12")], regex="[0-9]{4}", max_tokens=9).text.isdecimal()
    with pytest.raises(InvalidRequest, match="no allowed answer starts with") as caught:
        model.chat([ASKED, said("x")], regex="[0-9]{4}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("fields", "continued"),
    [
        ({}, True),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"add_generation_prompt": False}, True),
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
        ({"continue_final_message": False, "add_generation_prompt": True}, False),
    ],
)
def test_every_way_to_ask_for_continuing_works(server: Server, fields: dict[str, bool], continued: bool) -> None:
    answer = server.post({"messages": [ASKED, said("e-")], **fields}).json()
    assert (answer["choices"][0]["message"]["content"] == "h-n") == continued
    assert "warnings" not in answer


def test_a_message_in_parts_is_continued_and_streamed(client: openai.OpenAI) -> None:
    messages: Any = [ASKED, said([{"type": "text", "text": "e-"}])]
    chunks = client.chat.completions.create(model="builtin", messages=messages, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "h-n"
