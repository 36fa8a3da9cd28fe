"""Agents on all four APIs: a scripted model calls tools over several turns, and the clients see exactly its script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import anthropic
import ollama
import pytest

from fakes.scripted_model import ScriptedAnswer, ScriptedCall, call, text, write_scripted_model
from fakes.server import Server, serving

LINES = 'line 1\n\t"two" \\ three\n… and four 🌞\n'
FURTHER = ("The file is good.", "The file", "file is good.")
"""Texts that share words: each must be a chain of tokens of its own."""
SCRIPT = [
    call("read", path="notes.txt"),
    call("add", a=2, b=3),
    ScriptedAnswer(
        "Two at once.", [ScriptedCall("read", {"path": "notes.txt"}), ScriptedCall("read", {"path": LINES})]
    ),
    text("Done: the sum is 5."),
    *map(text, FURTHER),
]
PROPERTIES: dict[str, Any] = {
    "read": {"path": {"type": "string"}},
    "add": {"a": {"type": "integer"}, "b": {"type": "integer"}},
}
SCHEMAS = {name: {"type": "object", "properties": p, "required": list(p)} for name, p in PROPERTIES.items()}
HI = {"role": "user", "content": "Hi"}

Said: TypeAlias = list[tuple[str, list[tuple[str, dict[str, Any]]]]]
EXPECTED: Said = [
    (answer.text, [(c.name, dict(c.arguments)) for c in answer.calls]) for answer in SCRIPT[: -len(FURTHER)]
]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = write_scripted_model(tmp_path_factory.mktemp("scripted") / "scripted.gguf", SCRIPT, aside="A title")
    with serving("--model", str(model), "--threads", "1", "--context", "32768") as running:
        running.wait_until_ready()
        yield running


def chat(server: Server, messages: list[Any], stream: bool) -> Said:
    tools: Any = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
    said: Said = []
    with server.client() as client:
        while not said or said[-1][1]:
            asked: Any = {"model": "scripted", "messages": messages, "tools": tools}
            if stream:
                with client.chat.completions.stream(**asked) as events:
                    message: Any = events.get_final_completion().choices[0].message
            else:
                message = client.chat.completions.create(**asked).choices[0].message
            calls = message.tool_calls or []
            said.append((message.content or "", [(c.function.name, json.loads(c.function.arguments)) for c in calls]))
            messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
            messages += [{"role": "tool", "tool_call_id": c.id, "content": "done"} for c in calls]
    return said


def responses(server: Server, messages: list[Any], stream: bool) -> Said:
    tools: Any = [{"type": "function", "name": n, "parameters": s, "strict": False} for n, s in SCHEMAS.items()]
    said: Said = []
    with server.client() as client:
        while not said or said[-1][1]:
            asked: Any = {"model": "scripted", "input": messages, "tools": tools}
            if stream:
                with client.responses.stream(**asked) as events:
                    response: Any = events.get_final_response()
            else:
                response = client.responses.create(**asked)
            calls = [item for item in response.output if item.type == "function_call"]
            said.append((response.output_text, [(c.name, json.loads(c.arguments)) for c in calls]))
            messages += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output]
            messages += [{"type": "function_call_output", "call_id": c.call_id, "output": "done"} for c in calls]
    return said


def anthropic_messages(server: Server, messages: list[Any], stream: bool) -> Said:
    tools: Any = [{"name": n, "input_schema": s} for n, s in SCHEMAS.items()]
    said: Said = []
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as client:
        while not said or said[-1][1]:
            asked: Any = {"model": "scripted", "max_tokens": 500, "messages": messages, "tools": tools}
            if stream:
                with client.messages.stream(**asked) as events:
                    message: Any = events.get_final_message()
            else:
                message = client.messages.create(**asked)
            calls = [block for block in message.content if block.type == "tool_use"]
            words = "".join(block.text for block in message.content if block.type == "text")
            said.append((words, [(c.name, c.input) for c in calls]))
            messages.append(
                {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in message.content]}
            )
            results = [{"type": "tool_result", "tool_use_id": c.id, "content": "done"} for c in calls]
            reminder = {"type": "text", "text": "<system-reminder>Be brief.</system-reminder>"}
            messages.append({"role": "user", "content": [*results, reminder]})
    return said


def ollama_chat(server: Server, messages: list[Any], stream: bool) -> Said:
    tools: Any = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
    said: Said = []
    with ollama.Client(host=server.url) as client:
        while not said or said[-1][1]:
            asked: Any = {"model": "scripted", "messages": messages, "tools": tools}
            parts: Any = list(client.chat(**asked, stream=True)) if stream else [client.chat(**asked)]
            words = "".join(part.message.content or "" for part in parts)
            calls = [c for part in parts for c in part.message.tool_calls or ()]
            said.append((words, [(c.function.name, dict(c.function.arguments)) for c in calls]))
            messages.append({"role": "assistant", "content": words, "tool_calls": [c.model_dump() for c in calls]})
            messages += [{"role": "tool", "tool_name": c.function.name, "content": "done"} for c in calls]
    return said


Loop: TypeAlias = Callable[[Server, list[Any], bool], Said]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("loop", [chat, responses, anthropic_messages, ollama_chat])
def test_an_agent_sees_the_script(scripted: Server, loop: Loop, stream: bool) -> None:
    assert loop(scripted, [HI], stream) == EXPECTED


@pytest.mark.parametrize("loop", [chat, responses, anthropic_messages, ollama_chat])
def test_many_tools_with_long_names_are_offered(scripted: Server, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"mcp__server__tool_{i}" for i in range(180)] + [f"mcp__{'a' * (n - 5)}" for n in (65, 72, 100, 127, 128)]
    monkeypatch.setitem(globals(), "SCHEMAS", {name: SCHEMAS["read"] for name in names} | SCHEMAS)
    assert loop(scripted, [HI], False) == EXPECTED


def test_each_further_question_gets_the_next_text_and_at_last_the_same(scripted: Server) -> None:
    messages: list[Any] = [HI]
    chat(scripted, messages, False)
    for expected in (*FURTHER, FURTHER[-1]):
        assert chat(scripted, [*messages, HI], False) == [(expected, [])]
        messages += [HI, {"role": "assistant", "content": expected}]


def test_sampling_and_a_named_tool_change_nothing(scripted: Server) -> None:
    tools = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
    named = {"type": "function", "function": {"name": "read"}}
    answer = scripted.post({"messages": [HI], "tools": tools, "tool_choice": named, "temperature": 2, "seed": 1}).json()
    (made,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"path": "notes.txt"}


@pytest.mark.parametrize("offered", [[], ["add"]])
def test_a_request_without_the_tools_gets_the_aside(scripted: Server, offered: list[str]) -> None:
    tools = [{"type": "function", "function": {"name": n, "parameters": SCHEMAS[n]}} for n in offered]
    answer = scripted.post({"messages": [HI], **({"tools": tools} if tools else {})}).json()
    assert answer["choices"][0]["message"]["content"] == "A title"


@pytest.mark.parametrize("answers", [[], [call("f")], [text(""), text("x")]])
def test_a_script_that_has_no_end_is_refused(tmp_path: Path, answers: list[ScriptedAnswer]) -> None:
    with pytest.raises(ValueError, match="script"):
        write_scripted_model(tmp_path / "m.gguf", answers)
