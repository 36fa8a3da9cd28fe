"""Requests to the Responses API in the forms that coding agents and frameworks send: items, tools and settings."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from fakes.server import DATA, Server, data_uri
from galago.models.errors import NotReady, UnsupportedField
from galago.runtime.config import ServerConfig
from galago.runtime.pool.pool import ModelPool
from galago.runtime.server import app
from galago.runtime.server.http.request_io import no_warnings
from galago.runtime.server.openai.responses import compaction, convert, item_schema
from galago.runtime.server.openai.responses import tools as tool_forms
from galago.runtime.server.openai.responses.item_messages import messages
from galago.runtime.types.messages import Image, Message, Text
from galago.runtime.types.warnings import Warnings

ASK: dict[str, Any] = {"role": "user", "content": "Opposite of big?"}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT: dict[str, Any] = {"type": "function_call_output", "call_id": "c", "output": "MARK"}
PICTURE = data_uri(DATA / "picture-5.png")
OURS = compaction.encoded([item_schema.Message("assistant", "MARK")])

SHOWN: dict[str, list[Any]] = {
    "messages without a type": [{"role": "assistant", "content": "MARK"}],
    "a message that is only a text": ["MARK"],
    "an assistant's message as it was received": [
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "commentary",
         "content": [{"type": "output_text", "text": "MARK", "annotations": None, "logprobs": None}]},
    ],
    "parts of the Chat Completions API": [
        {"role": "user", "content": [{"type": "text", "text": "MARK"},
                                     {"type": "image_url", "image_url": {"url": PICTURE, "detail": "auto"}}]},
    ],
    "parts that are texts or null": [{"role": "user", "content": ["MARK", None]}],
    "one part that is not in a list": [{"role": "user", "content": {"type": "input_text", "text": "MARK"}}],
    "a refusal": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "MARK"}]}],
    "a text file": [{"role": "user", "content": [
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,TUFSSw=="}]}],
    "a picture as a file": [{"role": "user", "content": [
        {"type": "input_file", "filename": "MARK", "file_data": PICTURE}, {"type": "input_text", "text": "MARK"}]}],
    "reasoning full of nulls": [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None, "content": None, "status": None},
        CALL, RESULT,
    ],
    "reasoning with a summary only": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "MARK"}],
         "encrypted_content": "gAAAA", "content": None},
        {"role": "assistant", "content": "Small."},
    ],
    "calls of the Chat Completions API": [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "MARK"}'}}]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ],
    "reasoning of the Chat Completions API": [{"role": "assistant", "content": "ok", "reasoning_content": "MARK"}, ASK],
    "reasoning as a text": [{"type": "reasoning", "content": "MARK"}, {"role": "assistant", "content": "ok"}, ASK],
    "arguments as an object": [{**CALL, "arguments": {"a": "MARK"}}, RESULT],
    "arguments that are null": [{**CALL, "arguments": None}, RESULT],
    "an output that is null": [CALL, {**RESULT, "output": None}, {"role": "user", "content": "MARK"}],
    "an output that is a list of values": [CALL, {**RESULT, "output": [1, "MARK"]}],
    "an output that is an object": [CALL, {**RESULT, "output": {"ok": "MARK"}}],
    "codex's older outputs": [CALL, {**RESULT, "output": {"content": "MARK", "success": True}}],
    "a picture in an output": [CALL, {**RESULT, "output": [
        {"type": "input_text", "text": "MARK"}, {"type": "input_image", "image_url": PICTURE, "detail": "auto"}]}],
    "call ids that are null": [{**CALL, "call_id": None}, {**RESULT, "call_id": None}],
    "calls and outputs without a type": [
        {name: value for name, value in CALL.items() if name != "type"},
        {name: value for name, value in RESULT.items() if name != "type"},
    ],
    "a tool's message of the Chat Completions API": [CALL, {"role": "tool", "tool_call_id": "c", "content": "MARK"}],
    "codex's apply_patch": [
        {"type": "custom_tool_call", "id": "ctc_1", "status": "completed", "call_id": "c", "name": "apply_patch",
         "input": "*** Begin Patch\nMARK"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "Done!"},
    ],
    "a call in a namespace": [
        {**CALL, "namespace": "agents", "arguments": '{"target": "MARK"}'}, {**RESULT, "name": None},
    ],
    "a compaction of this server": [{"type": "compaction", "id": "cmp_1", "encrypted_content": OURS}],
}  # fmt: skip
"""Histories with a mark that the model is shown, without a warning."""

WARNED: dict[str, tuple[list[Any], str]] = {
    "a web search": (
        [{"type": "web_search_call", "id": "ws_1", "status": "completed",
          "action": {"type": "search", "query": "MARK"}}],
        "'web_search_call' are shown to the model as text",
    ),
    "a local shell": (
        [{"type": "local_shell_call", "id": "l", "call_id": "c", "status": "completed",
          "action": {"type": "exec", "command": ["echo", "MARK"], "env": {}}},
         {"type": "local_shell_call_output", "call_id": "c", "output": '{"output": "MARK"}'}],
        "'local_shell_call' are shown to the model as function calls",
    ),
    "a shell": (
        [{"type": "shell_call", "call_id": "c", "action": {"commands": ["MARK"]}},
         {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "MARK", "outcome": {"type": "exit"}}]}],
        "'shell_call_output' are shown to the model as outputs",
    ),
    "a computer": (
        [{"type": "computer_call", "call_id": "c", "action": {"type": "click", "x": 1, "y": 2}},
         {"type": "computer_call_output", "call_id": "c",
          "output": {"type": "computer_screenshot", "image_url": PICTURE}}],
        "'computer_call' are shown",
    ),
    "an MCP call": (
        [{"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": []},
         {"type": "mcp_call", "id": "m", "server_label": "s", "name": "f", "arguments": "{}", "output": "MARK"}],
        "'mcp_call' are shown to the model as text",
    ),
    "code that ran elsewhere": (
        [{"type": "code_interpreter_call", "id": "ci", "code": "MARK", "outputs": None, "container_id": "x"}],
        "'code_interpreter_call' are shown to the model as text",
    ),
    "a generated picture": (
        [{"type": "image_generation_call", "id": "ig", "status": "completed", "result": "iVBOR" * 1000}],
        "'image_generation_call' are shown to the model as text",
    ),
    "a reference": ([{"type": "item_reference", "id": "msg_1"}], "'item_reference' refer to items that"),
    "a reference without a type": ([{"id": "msg_1"}], "'item_reference' refer to items that"),
    "another service's compaction": (
        [{"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAABp"}], "'compaction' can read",
    ),
    "reasoning that is encrypted": (
        [{"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAAA"}, ASK], "can decrypt it",
    ),
    "an unknown item": ([{"type": "tap_dance", "steps": "MARK"}], "'tap_dance' are shown to the model as text"),
    "an unknown part": (
        [{"role": "user", "content": [{"type": "smell", "of": "MARK"}]}],
        "parts of the type 'smell' are not supported here; they are shown to the model as text",
    ),
    "audio without data": (
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": None}]}, ASK], "without data",
    ),
    "a search for tools": (
        [{"type": "tool_search_call", "call_id": "t", "execution": "client", "arguments": {"q": "MARK"}},
         {"type": "tool_search_output", "call_id": "t", "tools": [{"type": "function", "name": "f"}]}],
        "'tool_search_output' are shown to the model as outputs",
    ),
    "a picture without data": (
        [{"role": "user", "content": [{"type": "input_image", "image_url": None}]}, ASK], "without data",
    ),
}  # fmt: skip
"""Histories that are answered with a warning."""

FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
NO_WARNING = ""
TOOLS: dict[str, tuple[dict[str, Any], str]] = {
    kind: ({"tools": [FUNCTION, {"type": kind}]}, f"the tool {kind!r} belongs to another service")
    for kind in (
        "web_search", "web_search_preview", "web_search_preview_2025_03_11", "local_shell", "shell", "apply_patch",
        "image_generation", "mcp", "file_search", "code_interpreter", "computer_use_preview", "computer",
        "tool_search", "tap_dance",
    )
} | {
    "only tools of other services": ({"tools": [{"type": "web_search"}]}, "is left out"),
    "required, but nothing is left": (
        {"tools": [{"type": "web_search"}], "tool_choice": "required"}, "requires a call, but all tools were left out",
    ),
    "a chosen tool that is left out": (
        {"tools": [FUNCTION, {"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        "names the tool 'web_search', which was left out",
    ),
    "allowed tools that are left out": (
        {"tools": [FUNCTION, {"type": "mcp", "server_label": "s"}],
         "tool_choice": {"type": "allowed_tools", "mode": "auto",
                         "tools": [{"type": "function", "name": "f"}, {"type": "mcp", "server_label": "s"}]}},
        "allows tools that were left out",
    ),
    "a custom tool": ({"tools": [{"type": "custom", "name": "patch", "description": "Edits files."}]}, NO_WARNING),
    "a custom tool with a grammar": (
        {"tools": [{"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark",
                                                                  "definition": "start: /a/"}}]},
        "the grammar of the custom tool 'patch'",
    ),
    "a namespace": (
        {"tools": [{"type": "namespace", "name": "agents", "description": "Agents.", "tools": [FUNCTION]}, FUNCTION]},
        NO_WARNING,
    ),
    "a function of the Chat Completions API": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
         "tool_choice": {"type": "function", "function": {"name": "f"}}},
        NO_WARNING,
    ),
    "a tool that another tool would load": ({"tools": [{**FUNCTION, "defer_loading": True}]}, NO_WARNING),
    "tools among the items": (
        {"input": [{"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}, ASK]}, NO_WARNING,
    ),
    "tool_choice any": ({"tools": [FUNCTION], "tool_choice": "any", "max_output_tokens": 30}, NO_WARNING),
}  # fmt: skip

SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an empty text": ({"text": {}, "reasoning": {}}, NO_WARNING),
    "nulls": (dict.fromkeys(["text", "reasoning", "tools", "tool_choice", "include", "store", "metadata"]), NO_WARNING),
    "encrypted reasoning": ({"include": ["reasoning.encrypted_content"]}, NO_WARNING),
    "an unknown include": ({"include": ["file_search_call.results"]}, "include: 'file_search_call.results'"),
    "automatic truncation": ({"truncation": "auto"}, "truncation has no effect"),
    "verbosity": ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, "text.verbosity has no effect"),
    "medium verbosity": ({"text": {"verbosity": "medium"}}, NO_WARNING),
    "a reasoning summary": ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    "a prediction": ({"prediction": {"type": "content", "content": "Small."}}, "prediction has no effect"),
    "context management": (
        {"context_management": [{"type": "compaction", "compact_threshold": 20000}]}, "context_management is not",
    ),
    "store without a store": ({"store": True}, "store: this server stores no responses"),
    "keys of services": (
        {"client_metadata": {"a": "b"}, "prompt_cache_key": "k", "prompt_cache_retention": "24h", "user": "u",
         "service_tier": "priority", "safety_identifier": "s", "max_tool_calls": 3,
         "stream_options": {"include_obfuscation": False}, "metadata": {"n": "1"}},
        NO_WARNING,
    ),
    "no limit of tokens": ({"max_output_tokens": -1}, NO_WARNING),
    "numbers in other forms": ({"max_output_tokens": 1.0, "top_logprobs": 0.0}, NO_WARNING),
    "names of the Chat Completions API": (
        {"max_output_tokens": None, "max_completion_tokens": 1, "response_format": {"type": "json_object"}}, NO_WARNING,
    ),
    "a form of the Chat Completions API": (
        {"text": {"format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}}},
        NO_WARNING,
    ),
    "keys that are numbers": ({"user": 5, "prompt_cache_key": 7}, NO_WARNING),
    "null among the tools": ({"tools": [None, FUNCTION]}, NO_WARNING),
    "penalties": ({"presence_penalty": 0.5, "frequency_penalty": 0.5}, NO_WARNING),
    "an unknown field": ({"flux": 1}, "flux is unknown"),
}  # fmt: skip

CHANGES_NO_ANSWER = ("a reasoning summary", "a prediction", "automatic truncation")
"""Settings whose warnings stay warnings in strict mode."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a conversation elsewhere": ({"conversation": "conv_1"}, "conversation"),
    "a prompt elsewhere": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "a stored response without a store": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "a background response without a store": ({"background": True}, "background"),
    "a picture elsewhere": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}]},
        "input[0].content[0].image_url",
    ),
    "a required call without tools": ({"tool_choice": "required"}, "tool_choice"),
    "a function that does not exist": (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice",
    ),
}  # fmt: skip


class LoadingService(ModelPool):
    """Refuses whatever reaches the model."""

    def __init__(self) -> None:
        pass

    def _refuse(self, *_: object) -> Any:
        raise NotReady("the model is still loading")

    generate: Any = _refuse
    model: Any = _refuse
    model_for: Any = _refuse


@functools.cache
def strict_app() -> Starlette:
    return app.build(LoadingService(), ServerConfig(strict=True))


def strict_status(fields: dict[str, Any]) -> int:
    """The status with which a strict server refuses a request, or 503 if it would let the model answer."""

    async def ask() -> int:
        transport = httpx.ASGITransport(strict_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.post("/v1/responses", json={"input": "Hi"} | fields)).status_code

    return asyncio.run(ask())


def answered(server: Server, **fields: Any) -> httpx.Response:
    return server.post({"input": "Opposite of big?", "max_output_tokens": 1} | fields, "/v1/responses")


def shown(items: list[Any]) -> tuple[str, Warnings]:
    """All that the model is shown of the items, and the warnings."""
    warnings = Warnings()
    raw = convert.rewritten({"input": items}, warnings)
    read = messages(convert.to_items(raw["input"]), "input", lambda name, field: b"")
    pieces = [part.text if isinstance(part, Text) else "" for message in read for part in message.parts]
    pieces += [call.arguments for message in read for call in message.tool_calls]
    pieces += [message.reasoning or "" for message in read]
    return "\n".join(pieces), warnings


@pytest.mark.parametrize("name", SHOWN)
def test_a_history_is_shown_in_every_form_that_clients_send(server: Server, name: str) -> None:
    text, warnings = shown(SHOWN[name])
    assert "MARK" in text and not warnings
    answer = answered(server, input=[ASK, *SHOWN[name], ASK])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", WARNED)
def test_items_of_other_services_are_answered_with_a_warning(server: Server, name: str) -> None:
    items, warning = WARNED[name]
    answer = answered(server, input=[ASK, *items, ASK])
    assert answer.status_code == 200, answer.text
    assert any(warning in text for text in answer.json()["warnings"])
    assert (
        json.loads(answer.headers["x-galago-warnings"]) == answer.json()["warnings"][: len(answer.json()["warnings"])]
    )
    if "MARK" in json.dumps(items):
        assert "MARK" in shown(items)[0]
    assert strict_status({"input": [ASK, *items, ASK]}) == 400


@pytest.mark.parametrize("name", TOOLS | SETTINGS)
def test_tools_and_settings_of_other_services_are_answered(server: Server, name: str) -> None:
    fields, warning = (TOOLS | SETTINGS)[name]
    answer = answered(server, **fields)
    assert answer.status_code == 200, answer.text
    warnings = answer.json().get("warnings", [])
    assert any(warning in text for text in warnings) if warning else not warnings
    assert strict_status(fields) == (400 if warning and name not in CHANGES_NO_ANSWER else 503)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answer_is_refused(server: Server, name: str) -> None:
    fields, param = REFUSED[name]
    answer = answered(server, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_many_items_of_one_kind_get_one_warning() -> None:
    _, warnings = shown([{"type": "web_search_call", "id": f"ws_{i}"} for i in range(200)])
    assert len(warnings) == 1


def test_data_in_an_item_is_shortened_and_text_is_not() -> None:
    text, _ = shown([{"type": "image_generation_call", "id": "i", "result": "x" * 10**6}])
    assert len(text) < 1200
    text, _ = shown([{"type": "code_interpreter_call", "id": "i", "outputs": [{"logs": "a line\n" * 2000 + "MARK"}]}])
    assert "MARK" in text


def test_messages_of_the_chat_completions_api_are_the_input(server: Server) -> None:
    answers = [server.post({name: [ASK], "max_tokens": 1}, "/v1/responses") for name in ("messages", "input")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["usage"] == answers[1].json()["usage"] | {
        "input_tokens_details": answers[0].json()["usage"]["input_tokens_details"]
    }


def test_parallel_calls_of_the_chat_completions_api_are_items(server: Server) -> None:
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in (1, 2)]
    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": f"MARK{i}"} for i in (1, 2)]
    chat = [ASK, {"role": "assistant", "content": "Wait.", "tool_calls": calls}, *results]
    items = [ASK, {"role": "assistant", "content": "Wait."},
             *({**CALL, "call_id": f"c{i}"} for i in (1, 2)),
             *({**RESULT, "call_id": f"c{i}", "output": f"MARK{i}"} for i in (1, 2))]  # fmt: skip
    answers = [answered(server, input=given).json() for given in (chat, items)]
    assert answers[0]["usage"]["input_tokens"] == answers[1]["usage"]["input_tokens"]
    assert "warnings" not in answers[0]


def test_calls_and_outputs_without_ids_are_paired() -> None:
    no_id = {"call_id": None}
    raw = convert.rewritten({"input": [CALL | no_id, CALL | no_id, RESULT | no_id, RESULT | no_id]}, Warnings())
    ids = [item["call_id"] for item in raw["input"]]
    assert ids[:2] == ids[2:] and len(set(ids)) == 2


def test_strict_mode_names_the_item() -> None:
    warnings = no_warnings(strict=True)
    with pytest.raises(UnsupportedField) as refused:
        convert.rewritten({"input": ["Hi", {"type": "web_search_call"}]}, warnings)
    assert refused.value.param == "input[1]"


def test_a_picture_in_an_output_reaches_the_model(server: Server) -> None:
    output = [{"type": "input_image", "image_url": PICTURE}]
    answer = answered(server, input=[ASK, CALL, RESULT | {"output": output}])
    assert answer.json()["usage"]["input_tokens_details"]["image_tokens"] == 16
    read = messages(convert.to_items([RESULT | {"output": output}]), "input", lambda name, field: b"")
    assert isinstance(read[0], Message) and isinstance(read[0].parts[0], Image)


CUSTOM: dict[str, Any] = {"type": "custom", "name": "note", "description": "Takes a note."}


def test_a_custom_tool_is_called_with_text(server: Server) -> None:
    body = {"input": "Note it.", "tools": [CUSTOM], "tool_choice": {"type": "custom", "name": "note"},
            "max_output_tokens": 60}  # fmt: skip
    answer = server.post(body, "/v1/responses").json()
    (call,) = answer["output"]
    assert (call["type"], call["name"]) == ("custom_tool_call", "note") and isinstance(call["input"], str)
    assert answer["tools"][0]["type"] == "custom"
    lines = server.post(body | {"stream": True}, "/v1/responses").text.split("\n\n")
    events = [json.loads(line.partition("data: ")[2]) for line in lines if line]
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[2:-1] == [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done",
    ]  # fmt: skip
    done = events[-2]["item"]
    assert events[3]["delta"] == events[4]["input"] == done["input"]
    back = [ASK, done, {"type": "custom_tool_call_output", "call_id": done["call_id"], "output": "Noted."}]
    assert answered(server, input=back, tools=[CUSTOM]).status_code == 200


def test_a_function_in_a_namespace_is_called_by_its_own_name(server: Server) -> None:
    tools = [{"type": "namespace", "name": "agents", "tools": [FUNCTION]}]
    choice = {"type": "function", "name": "f"}
    (call,) = answered(server, tools=tools, tool_choice=choice, max_output_tokens=40).json()["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "agents", "f")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "a\\nb"}', "a\nb"),
        ('{"input": "cut off\\', "cut off"),
        ('{"input": "caf\\u00', "caf"),
        ('{"input": "x', "x"),
        ('{"input"', ""),
        ('{"inp', ""),
        ("", ""),
        ('{"other": 1}', ""),
    ],
)
def test_the_text_of_a_custom_call_is_read_even_if_it_was_cut_off(arguments: str, text: str) -> None:
    assert tool_forms.custom_input(arguments) == text


def test_the_form_of_the_chat_completions_api_is_enforced(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 5}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for fields in ({"response_format": form}, {"text": {"format": form}}):
        (message,) = answered(server, **fields, max_output_tokens=30).json()["output"]
        assert json.loads(message["content"][0]["text"]) == {"a": 5}
