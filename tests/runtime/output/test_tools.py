"""Tool calls and reasoning with a real model: with the official client over HTTP, and in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pydantic
import pytest

from fakes import templates
from fakes.server import Server
from galago.models.errors import InvalidRequest
from galago.models.registry.resolve import resolve
from galago.runtime import LocalModel, load
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.output.structured.grammar import GrammarCompiler
from galago.runtime.output.structured.reasoning_gate import ReasoningGate
from galago.runtime.types.messages import ToolCall


def function(name: str, **properties: Any) -> Any:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": parameters}}


WEATHER = function("get_weather", city={"type": "string", "maxLength": 12})
LIGHT = function("turn_on", room={"enum": ["kitchen", "hall"]}, level={"type": "integer", "minimum": 0, "maximum": 9})
TOOLS = [WEATHER, LIGHT]
ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Anna?"}]


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="builtin", **{"messages": ASKED, "tools": TOOLS} | options)


def check(call: Any) -> None:
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert list(arguments) == ["city"] and len(arguments["city"]) <= 12
    else:
        assert call.function.name == "turn_on"
        assert arguments["room"] in ("kitchen", "hall") and arguments["level"] in range(10)


@pytest.mark.parametrize("seed", range(6))
def test_a_required_call_is_always_made(client: openai.OpenAI, seed: int) -> None:
    options: Any = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 1.0, "seed": seed}
    options |= {"extra_body": {"cache": False}}
    choice = ask(client, **options).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    check(call)
    chunks = [chunk.choices[0] for chunk in ask(client, stream=True, **options)]
    deltas = [part for c in chunks for part in c.delta.tool_calls or ()]
    assert (deltas[0].function.name, deltas[0].type) == (call.function.name, "function")
    assert deltas[0].id != call.id and not any(delta.id for delta in deltas[1:])
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments
    assert len(deltas) > 3 and {delta.index for delta in deltas} == {0}
    assert not any(c.delta.content for c in chunks) and chunks[-1].finish_reason == "tool_calls"


def test_a_named_tool_is_called(client: openai.OpenAI) -> None:
    for name in ("get_weather", "turn_on"):
        choice = ask(client, tool_choice={"type": "function", "function": {"name": name}}).choices[0]
        assert [call.function.name for call in choice.message.tool_calls] == [name]
        check(choice.message.tool_calls[0])


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_called_and_the_prompt_stays_the_same(client: openai.OpenAI) -> None:
    every = ask(client, tool_choice="required", max_tokens=1)
    for name in ("get_weather", "turn_on"):
        answer = ask(client, tool_choice=allowed("required", name), temperature=1.0, seed=4)
        assert {call.function.name for call in answer.choices[0].message.tool_calls} == {name}
        assert answer.usage.prompt_tokens == every.usage.prompt_tokens and not hasattr(answer, "warnings")
        left = ask(client, tool_choice=allowed("auto", name), temperature=1.0, seed=4, max_tokens=60)
        assert {call.function.name for call in left.choices[0].message.tool_calls or ()} <= {name}
    for wrong in (allowed("required"), allowed("auto", "no_such_tool"), allowed("maybe", "turn_on")):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, tool_choice=wrong)
        assert (refused.value.param or "").startswith("tool_choice")


def test_unknown_schema_keywords_of_tools_cause_warnings(client: openai.OpenAI) -> None:
    odd = function("f", x={"type": "string", "frobnicate": 1})
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer", "moods": 1}}}
    answer = ask(client, tools=[odd], response_format=form, max_tokens=1)
    warnings = (answer.model_extra or {})["warnings"]
    assert "moods" in warnings[0] and "'f'" in warnings[1] and "frobnicate" in warnings[1]


def prefilled(client: openai.OpenAI, said: str, **options: Any) -> Any:
    return ask(client, messages=[*ASKED, {"role": "assistant", "content": said}], max_tokens=40, **options)


def test_a_continued_message_must_fit_the_grammar_of_calls(client: openai.OpenAI) -> None:
    assert prefilled(client, "Let me see").choices[0].finish_reason
    with pytest.raises(openai.BadRequestError, match="no allowed answer starts with"):
        prefilled(client, "Let me see", tool_choice="required")
    for begun in ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "An', "So: <tool_call>", "So: <tool_"):
        with pytest.raises(openai.BadRequestError, match="cannot be continued") as refused:
            prefilled(client, begun)
        assert refused.value.param == "messages"


def test_parallel_calls_have_unique_ids(server: Server, client: openai.OpenAI) -> None:
    [end] = server.post({"content": "<|im_end|>"}, "/v1/tokenize").json()["tokens"]
    never = {"logit_bias": {str(end): -100}}  # so that it goes on and calls again
    calls = ask(client, tool_choice="required", max_tokens=200, extra_body=never).choices[0].message.tool_calls
    assert len(calls) > 1 and len({call.id for call in calls}) == len(calls)


def test_with_auto_the_answer_is_text_or_calls(client: openai.OpenAI) -> None:
    for seed in range(12):
        options = {"temperature": 1.0, "seed": seed, "max_tokens": 120, "extra_body": {"cache": False}}
        choice = ask(client, **options).choices[0]
        assert "<tool_call>" not in (choice.message.content or "")
        if choice.finish_reason == "tool_calls":
            list(map(check, choice.message.tool_calls))
        assert bool(choice.message.content) or choice.message.tool_calls or choice.finish_reason == "length"


def test_with_none_the_prompt_shows_no_tools(client: openai.OpenAI) -> None:
    without = client.chat.completions.create(model="builtin", messages=ASKED)
    none = ask(client, tool_choice="none")
    assert none.choices[0].message == without.choices[0].message
    shown = ask(client, max_tokens=1)
    assert none.usage and without.usage and shown.usage
    assert none.usage.prompt_tokens == without.usage.prompt_tokens < shown.usage.prompt_tokens


def test_a_call_that_is_cut_off_finishes_with_length(client: openai.OpenAI) -> None:
    whole = ask(client, tool_choice="required", parallel_tool_calls=False)
    cut = ask(client, tool_choice="required", max_tokens=whole.usage.completion_tokens - 8).choices[0]
    assert cut.finish_reason == "length"
    assert (
        whole.choices[0]
        .message.tool_calls[0]
        .function.arguments.startswith(cut.message.tool_calls[0].function.arguments)
    )
    nothing = ask(client, tool_choice="required", max_tokens=4).choices[0]
    assert (nothing.finish_reason, nothing.message.tool_calls, nothing.message.content) == ("length", None, "")


def test_a_call_and_its_result_can_be_sent_back(client: openai.OpenAI) -> None:
    message = ask(client, tool_choice="required", parallel_tool_calls=False).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": [{"type": "text", "text": "sunny"}]}
    sent = [{"role": "developer", "content": "Be brief."}, *ASKED, message.model_dump(), result]
    answer = ask(client, messages=sent)
    assert answer.choices[0].message.content and not (answer.model_extra or {}).get("warnings")
    thought = message.model_dump() | {"reasoning_content": "Hm.", "refusal": None, "annotations": [], "audio": None}
    answer = ask(client, messages=[*ASKED, thought, result])
    (warning,) = (answer.model_extra or {})["warnings"]
    assert "no place for the reasoning in the messages; it is left out" in warning


class GetWeather(pydantic.BaseModel):
    city: Literal["Bern", "Rom"]
    days: int


def test_the_clients_parser_reads_the_arguments(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(GetWeather)
    answer = client.chat.completions.parse(model="builtin", messages=ASKED, tools=[tool], tool_choice="required")
    (call, *_) = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_tools_can_be_combined_with_a_schema(client: openai.OpenAI) -> None:
    schema = {"name": "n", "schema": {"type": "integer"}}
    for seed in range(6):
        options: Any = {"temperature": 2.0, "seed": seed, "max_tokens": 150}
        choice = ask(client, response_format={"type": "json_schema", "json_schema": schema}, **options).choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), int)


def test_an_unsupported_reasoning_effort_causes_a_warning(server: Server) -> None:
    assert "reasoning_effort" in server.ask("Opposite of big?", reasoning_effort="high").json()["warnings"][0]
    assert "warnings" not in server.ask("Opposite of big?", reasoning_effort="none").json()


def test_python_replies_have_calls_that_can_be_sent_back(model: LocalModel) -> None:
    tools = [WEATHER["function"], LIGHT]
    reply = model.chat("Weather?", tools=tools, tool_choice="turn_on")
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    (call,) = reply.calls
    assert isinstance(call, ToolCall) and call.parsed()["room"] in ("kitchen", "hall")
    with model.chat("Weather?", tools=tools, tool_choice="turn_on", stream=True) as pieces:
        assert list(pieces) == []
    assert pieces.reply.calls[0].arguments == call.arguments
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": reply.calls},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert model.chat(chat, tools=tools, max_tokens=5).usage.prompt_tokens > reply.usage.prompt_tokens


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": ["get_weather"]}, "a tool must be"),
        ({"tools": [WEATHER], "tool_choice": "other"}, "not one of the tools"),
        ({"tool_choice": "required"}, "no tools"),
        ({"tool_choice": 3}, "tool_choice must be"),
        ({"tools": [function("a b")], "tool_choice": "required"}, "is not a valid name"),
    ],
)
def test_invalid_tools_are_refused(model: LocalModel, options: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        model.chat("Hi", **options)


def test_reasoning_opened_by_the_template_is_not_part_of_the_answer(tmp_path: Path) -> None:
    with load(templates.model_with(templates.THINKING, tmp_path), slots=1) as thinker:
        reply = thinker.chat("Opposite of big?")
        assert reply.text == "" and reply.reasoning
        assert reply.usage.reasoning_tokens == reply.usage.completion_tokens - 1  # the last one ends the answer
        reply = thinker.chat("Opposite of big?", tools=[WEATHER], tool_choice="required", max_tokens=12)
        assert (reply.finish_reason, reply.calls, reply.text) == ("length", (), "")
        assert reply.usage.reasoning_tokens > 10


def test_a_constraint_applies_after_the_reasoning() -> None:
    weights = Weights(resolve("builtin").weights, 0)
    inner = GrammarCompiler(weights.grammar_vocabulary, weights.tokenizer_pointers).lark('start: "42"')
    (opening,) = weights.tokenize("<think>", parse_special=True)
    after = ReasoningGate(inner, "</think>", opening, weights.piece, weights.end_tokens, in_reasoning=False)

    def allowed() -> set[int]:
        logits = np.zeros(weights.vocab_size, np.float32)
        after.mask(logits)
        return set(np.flatnonzero(logits > -np.inf).tolist())

    (four,) = weights.tokenize("4", parse_special=False)
    assert allowed() >= {opening, four} and len(allowed()) <= 3
    for token in weights.tokenize("<think>a thought", parse_special=True):
        after.accept(token)
        assert not allowed() & weights.end_tokens and len(allowed()) > 400
    for token in weights.tokenize("</think>", parse_special=True):
        after.accept(token)
    assert four in allowed() and opening not in allowed() and len(allowed()) <= 2
    for token in weights.tokenize("42", parse_special=False):
        after.accept(token)
    assert allowed() <= weights.end_tokens
    weights.close()
