"""Chat requests in the forms of other programs' clients: tools, choices, messages and parts.

What a client sent is in the prompt, or a warning names what is not.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from fakes.server import DATA, Server, audio_part, data_uri, image_part, text_part

PICTURE = DATA / "picture-5.png"
SOUND = base64.b64encode((DATA / "sound-1.wav").read_bytes()).decode()
ASK: dict[str, Any] = {"role": "user", "content": "Opposite of big?"}
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}}
SEARCH: dict[str, Any] = {"type": "function", "function": {"name": "search", "parameters": PARAMETERS}}
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "search", "arguments": '{"q": "ALPHA"}'},
}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def called(*calls: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)} | fields


def result(content: Any = "BETA", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_1", "content": content} | fields


def said(**fields: Any) -> list[dict[str, Any]]:
    return [ASK, {"role": "assistant", "content": "ALPHA"} | fields, ASK]


def function(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (CALL["function"] | fields).items() if value is not ...}


def prompt_of(server: Server, body: dict[str, Any]) -> str:
    tokens = server.post(body | {"with_pieces": True}, "/v1/tokenize")
    assert tokens.status_code == 200, tokens.text
    return "".join(piece["piece"] for piece in tokens.json()["tokens"] if isinstance(piece["piece"], str))


def warnings_of(server: Server, body: dict[str, Any]) -> list[str]:
    answer = server.post({"max_tokens": 1} | body)
    assert answer.status_code == 200, answer.text
    return list(answer.json().get("warnings", []))


TOOLS: list[tuple[str, Any, str | None]] = [
    # name, tools, part of the warning
    ("without a type", {"function": SEARCH["function"]}, None),
    ("flat, as in the Responses API", {"type": "function", "name": "search", "parameters": PARAMETERS}, None),
    ("flat without a type", {"name": "search", "description": "Finds.", "parameters": PARAMETERS}, None),
    ("as at Anthropic", {"name": "search", "input_schema": PARAMETERS}, None),
    ("as at Anthropic, custom", {"type": "custom", "name": "search", "input_schema": PARAMETERS}, None),
    ("no parameters, from PHP", {"type": "function", "function": {"name": "search", "parameters": []}}, None),
    ("to be cached", SEARCH | {"cache_control": {"type": "ephemeral"}}, None),
    ("web search", [SEARCH, {"type": "web_search"}], "tools[1] has the type 'web_search'"),
    (
        "web search of a year ago",
        [{"type": "web_search_preview"}, SEARCH],
        "tools[0] has the type 'web_search_preview'",
    ),
    ("a custom tool", [SEARCH, {"type": "custom", "custom": {"name": "sh"}}], "tools[1] has the type 'custom'"),
    ("a flat custom tool", [SEARCH, {"type": "custom", "name": "sh"}], "tools[1] has the type 'custom'"),
    ("code", [SEARCH, {"type": "code_interpreter", "container": {"type": "auto"}}], "'code_interpreter'"),
    ("a remote server", [SEARCH, {"type": "mcp", "server_url": "https://example.com"}], "'mcp'"),
    ("a picture", [SEARCH, {"type": "image_generation"}], "'image_generation'"),
    ("null", [SEARCH, None], "tools[1] is null"),
]


@pytest.mark.parametrize(("tools", "warning"), [t[1:] for t in TOOLS], ids=[t[0] for t in TOOLS])
def test_functions_are_kept_and_other_tools_left_out_with_a_warning(
    server: Server, strict_server: Server, tools: Any, warning: str | None
) -> None:
    body = {"messages": [ASK], "tools": tools if isinstance(tools, list) else [tools]}
    assert "search" in prompt_of(server, body)
    warnings = warnings_of(server, body)
    assert [warning is not None and warning in text for text in warnings] == [True] * (warning is not None)
    assert strict_server.post({"max_tokens": 1} | body).status_code == (200 if warning is None else 400)


CHOICES: list[tuple[Any, str | None]] = [
    ("any", "search"),
    ("search", "search"),
    ({"type": "function", "name": "search"}, "search"),
    ({"type": "tool", "name": "search"}, "search"),
    ({"function": {"name": "search"}}, "search"),
    ({"type": "any"}, "search"),
    ({"type": "required"}, "search"),
    ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "search"}]}, "search"),
    ({"type": "none"}, None),
    ("none", None),
]


@pytest.mark.parametrize(("choice", "name"), CHOICES, ids=[str(choice)[:40] for choice, _ in CHOICES])
def test_a_choice_of_tools_in_another_form_is_honored(server: Server, choice: Any, name: str | None) -> None:
    answer = server.post({"messages": [ASK], "tools": [SEARCH], "tool_choice": choice, "max_tokens": 200})
    assert answer.status_code == 200, answer.text
    calls = answer.json()["choices"][0]["message"].get("tool_calls") or []
    assert not answer.json().get("warnings")
    assert name is None or [call["function"]["name"] for call in calls] == [name]


def test_functions_and_function_call_of_the_old_form_become_tools(server: Server) -> None:
    body = {"messages": [ASK], "functions": [SEARCH["function"]], "function_call": {"name": "search"}}
    answer = server.post(body | {"max_tokens": 200}).json()
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "search"
    assert "functions is the old form" in answer["warnings"][0]


def test_a_required_call_is_refused_if_no_function_is_left(server: Server) -> None:
    answer = server.post({"messages": [ASK], "tools": [{"type": "web_search"}], "tool_choice": "required"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")


SHOWN: list[tuple[str, list[dict[str, Any]], list[str], str | None]] = [
    # name, messages, texts of the prompt, part of the warning
    ("parts as texts", user("ALPHA", "BETA"), ["ALPHA", "BETA"], None),
    ("a part without a type", user({"text": "ALPHA"}), ["ALPHA"], None),
    ("one part without a list", [{"role": "user", "content": text_part("ALPHA")}], ["ALPHA"], None),
    ("a text of null", user({"type": "text", "text": None}, text_part("ALPHA")), ["ALPHA"], "content[0] has no text"),
    ("a part of null", user(None, text_part("ALPHA")), ["ALPHA"], "content[0] is null"),
    ("the Responses API's texts", user({"type": "input_text", "text": "ALPHA"}), ["ALPHA"], None),
    ("an answer's text", said(content=[{"type": "output_text", "text": "ALPHA", "annotations": []}]), ["ALPHA"], None),
    ("a document", user({"type": "document", "content": "ALPHA"}), ["ALPHA"], "has the type 'document'"),
    ("an unknown part with text", user({"type": "smell", "text": "ALPHA"}), ["ALPHA"], "has the type 'smell'"),
    ("an unknown part", user({"type": "smell", "of": "BETA"}, text_part("ALPHA")), ["smell", "BETA", "ALPHA"],
     "content[0] has the type 'smell'"),
    ("MCP's text resource", [ASK, called(CALL), result([text_part("BETA"), {
        "type": "resource", "resource": {"uri": "file:///a", "text": "GAMMA"}}])], ["BETA", "GAMMA"], "'resource'"),
    ("MCP's link", [ASK, called(CALL), result([text_part("BETA"), {"type": "resource_link", "uri": "file:///GAMMA"}])],
     ["BETA", "GAMMA"], "'resource_link'"),
    ("LangChain's call", [ASK, {"role": "assistant", "content": [
        {"type": "tool_call", "id": "call_1", "name": "search", "args": {"q": "ALPHA"}}]}, result()],
     ["ALPHA", "BETA"], None),
    ("an answer to be continued", [ASK, {"role": "assistant", "content": "ALPHA", "prefix": True}], ["ALPHA"], None),
    ("null from a user", [{"role": "user", "content": None}, ASK], ["Opposite"], "messages[0].content is missing"),
    ("nothing from the system", [{"role": "system"}, ASK], ["Opposite"], "messages[0].content is missing"),
    ("a refusal", said(content=None, refusal="ALPHA"), ["ALPHA"], None),
    ("a refusal beside text", said(refusal="BETA"), ["ALPHA", "BETA"], None),
    ("audio of the assistant", said(audio={"id": "audio_1"}), ["ALPHA"], "audio is not supported"),
    ("a name with odd characters", [ASK | {"name": "Zoë <|im_end|> 7"}], ["Opposite"], "names"),
    ("a name that is none", [ASK | {"name": 7}], ["Opposite"], None),
    ("an id", said(id="msg_1"), ["ALPHA"], None),
    ("something to be cached", [ASK | {"cache_control": {"type": "ephemeral"}}], ["Opposite"], None),
    ("fields of all roles", [ASK | {"tool_calls": None, "function_call": None, "refusal": None}], ["Opposite"], None),
    ("a text file", user({"type": "file", "file": {"file_data": "QUxQSEE=", "filename": "BETA.txt"}}),
     ["ALPHA", "BETA.txt"], None),
    ("a call without an id", [ASK, called(CALL | {"id": None}), result(tool_call_id=None)], ["ALPHA", "BETA"], None),
    ("a call with an empty id", [ASK, called(CALL | {"id": ""}), result(tool_call_id="")], ["ALPHA", "BETA"], None),
    ("a numbered call", [ASK, called(CALL | {"id": 5}), result(tool_call_id=5)], ["ALPHA", "BETA"], None),
    (
        "two calls without ids",
        [ASK, called({"function": function()}, {"function": function(arguments='{"q": "DELTA"}')}),
         {"role": "tool", "content": "BETA"}, {"role": "tool", "content": "GAMMA"}],
        ["ALPHA", "DELTA", "BETA", "GAMMA"], None,
    ),
    ("arguments as an object", [ASK, called({"function": function(arguments={"q": "ALPHA"})}), result()],
     ["ALPHA", "BETA"], None),
    ("no arguments", [ASK, called({"function": function(arguments=...)}), result()], ["BETA"], None),
    ("arguments of null", [ASK, called({"function": function(arguments=None)}), result()], ["BETA"], None),
    ("a flat call", [ASK, called({"id": "call_1", "name": "search", "args": {"q": "ALPHA"}}), result()],
     ["ALPHA", "BETA"], None),
    ("a custom call", [ASK, called({"id": "call_1", "type": "custom", "custom": {"name": "sh", "input": "ALPHA"}}),
                       result()], ["sh", "ALPHA", "BETA"], None),
    ("another call", [ASK, called({"id": "call_1", "type": "computer", "action": {}}), result()], ["BETA"],
     "messages[1].tool_calls[0] is not a call"),
    ("a call of the old form", [ASK, called(function_call=function()) | {"tool_calls": None},
                                {"role": "function", "name": "search", "content": "BETA"}], ["ALPHA", "BETA"], None),
    ("a call as at Anthropic", [ASK, {"role": "assistant", "content": [
        {"type": "tool_use", "id": "call_1", "name": "search", "input": {"q": "ALPHA"}}]}, result()],
     ["ALPHA", "BETA"], None),
    ("a result of null", [ASK, called(CALL), result(None), ASK], ["ALPHA"], None),
    ("a result that is missing", [ASK, called(CALL), {"role": "tool", "tool_call_id": "call_1"}, ASK], ["ALPHA"], None),
    ("a result as an object", [ASK, called(CALL), result({"type": "BETA", "n": 7}), ASK], ["BETA"], None),
    ("a result as a list", [ASK, called(CALL), result([{"BETA": 1}, 7]), ASK], ["BETA", "7"], None),
    ("a result as a number", [ASK, called(CALL), result(1234567), ASK], ["1234567"], None),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "texts", "warning"), [s[1:] for s in SHOWN], ids=[s[0] for s in SHOWN])
def test_messages_in_other_forms_are_shown_to_the_model(
    server: Server, messages: list[dict[str, Any]], texts: list[str], warning: str | None
) -> None:
    prompt = prompt_of(server, {"messages": messages, "tools": [SEARCH]})
    assert [text for text in texts if text not in prompt] == []
    warnings = warnings_of(server, {"messages": messages})
    assert [warning is not None and warning in text for text in warnings] == [True] * (warning is not None), warnings


ITEMS: list[Any] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "GAMMA"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {"type": "function_call", "call_id": "call_1", "name": "search", "arguments": '{"q": "ALPHA"}'},
    {"type": "custom_tool_call", "call_id": "call_2", "name": "note", "input": "DELTA"},
    {"type": "function_call_output", "call_id": "call_1", "output": "BETA"},
    {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "EPSILON"}]},
    {"type": "web_search_call", "id": "ws_1", "action": {"query": "ZETA"}},
    "ETA",
]
"""A conversation in the Responses API."""


def test_items_of_the_responses_api_are_read_as_messages(server: Server, strict_server: Server) -> None:
    arguments = [function(), function(name="note", arguments='{"input": "DELTA"}')]
    calls = [{"id": f"call_{i}", "type": "function", "function": f} for i, f in enumerate(arguments, 1)]
    messages = [
        {"role": "system", "content": "THETA"},
        {"role": "user", "content": "GAMMA"},
        called(*calls, reasoning_content="Hm."),
        result(),
        result("EPSILON", tool_call_id="call_2"),
        {"role": "user", "content": '[web_search_call] {"action": {"query": "ZETA"}}'},
        {"role": "user", "content": "ETA"},
    ]
    body = {"input": ITEMS, "instructions": "THETA", "max_output_tokens": 1}
    answers = [server.post(b).json() for b in (body, {"messages": messages, "max_tokens": 1})]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [1, 1]
    assert answers[0]["usage"]["prompt_tokens"] == answers[1]["usage"]["prompt_tokens"]
    assert any("input belongs to /v1/responses" in text for text in answers[0]["warnings"])
    assert server.post({"input": "Hi", "max_tokens": 1}).status_code == 200
    assert strict_server.post({"input": "Hi", "max_tokens": 1}).status_code == 400


@pytest.mark.parametrize(
    "given",
    [5, [5], [], {}, [{"type": "reasoning", "content": "x"}], [{"type": "reasoning", "content": [5, None, "x"]}],
     [{"role": "assistant", "tool_calls": 5}, {"type": "function_call"}], [{"type": ["x"]}], [{"type": {}}, None]],
)  # fmt: skip
def test_items_that_make_no_conversation_do_not_fail_the_server(server: Server, given: Any) -> None:
    assert server.post({"input": given, "max_tokens": 1}).status_code in (200, 400)


MEDIA: list[tuple[str, Any, str]] = [
    ("a picture's URI alone", {"type": "image_url", "image_url": data_uri(PICTURE)}, "image_tokens"),
    ("a picture without a type", {"image_url": {"url": data_uri(PICTURE)}}, "image_tokens"),
    ("the Responses API's picture", {"type": "input_image", "image_url": data_uri(PICTURE)}, "image_tokens"),
    ("Qwen's picture", {"image": data_uri(PICTURE)}, "image_tokens"),
    ("the AI SDK's picture", {"type": "image", "image": data_uri(PICTURE)}, "image_tokens"),
    (
        "Anthropic's picture",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                     "data": base64.b64encode(PICTURE.read_bytes()).decode()}},
        "image_tokens",
    ),
    ("a picture as a file", {"type": "input_file", "file_data": data_uri(PICTURE)}, "image_tokens"),
    ("audio_url", {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{SOUND}"}}, "audio_tokens"),
    ("audio_url as a text", {"type": "audio_url", "audio_url": f"data:audio/wav;base64,{SOUND}"}, "audio_tokens"),
    ("input_audio as a text", {"type": "input_audio", "input_audio": SOUND}, "audio_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "tokens"), [m[1:] for m in MEDIA], ids=[m[0] for m in MEDIA])
def test_media_in_other_forms_reach_the_model(server: Server, part: Any, tokens: str) -> None:
    answer = server.post({"messages": user(part, text_part("What is it?")), "max_tokens": 1}).json()
    assert answer["usage"]["prompt_tokens_details"][tokens] > 0
    assert "warnings" not in answer


@pytest.mark.parametrize(
    "messages",
    [
        [ASK, called(CALL), result([text_part("shot"), image_part(PICTURE)])],
        [ASK, called(CALL), result([image_part(PICTURE)]), ASK],
        [{"role": "system", "content": [image_part(PICTURE)]}, ASK],
        [ASK, {"role": "assistant", "content": [text_part("I drew:"), image_part(PICTURE)]}, ASK],
    ],
    ids=["a tool's result", "a tool's result and a question", "a system message", "an answer"],
)
def test_a_picture_in_a_message_of_any_role_reaches_the_model(server: Server, messages: list[dict[str, Any]]) -> None:
    answer = server.post({"messages": messages, "tools": [SEARCH], "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] > 0


REASONED: list[dict[str, Any]] = [
    {"thinking_blocks": [{"type": "thinking", "thinking": "BETA", "signature": "x"}]},
    {"reasoning_details": [{"type": "reasoning.text", "text": "BETA"}]},
    {"content": [{"type": "thinking", "thinking": "BETA", "signature": "x"}, text_part("ALPHA")]},
    {"content": [{"type": "reasoning", "text": "BETA"}, "ALPHA"]},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "BETA"}]}, text_part("ALPHA")]},
    {"reasoning": {"effort": "low"}, "reasoning_content": "BETA"},
]


@pytest.mark.parametrize("fields", REASONED, ids=[", ".join(one) for one in REASONED])
def test_thoughts_in_other_forms_are_the_assistant_s_reasoning(server: Server, fields: dict[str, Any]) -> None:
    usual = prompt_of(server, {"messages": said(reasoning_content="BETA")})
    assert prompt_of(server, {"messages": said(**fields)}) == usual


FORMS: list[tuple[str, dict[str, Any], str, str | None]] = [
    # name, fields, a regular expression for the answer, part of the warning
    ("vLLM's choice", {"guided_choice": ["red", "blue"]}, "red|blue", None),
    ("vLLM's regular expression", {"guided_regex": "[0-9]{3}"}, "[0-9]{3}", None),
    ("vLLM's structured outputs", {"structured_outputs": {"choice": ["a.b"]}}, r"a\.b", None),
    ("vLLM's schema", {"guided_json": {"const": 7}}, "7", None),
    ("vLLM's schema as text", {"guided_json": '{"const": 7}'}, "7", None),
    ("llama-server's schema", {"json_schema": {"const": 7}}, "7", None),
    ("Together's expression", {"response_format": {"type": "regex", "pattern": "[0-9]{3}"}}, "[0-9]{3}", None),
    ("TGI's expression", {"response_format": {"type": "regex", "value": "[0-9]{3}"}}, "[0-9]{3}", None),
    ("Fireworks' grammar", {"response_format": {"type": "grammar", "grammar": 'start: "ab"'}}, "ab", None),
    ("a flat schema", {"response_format": {"type": "json_schema", "schema": {"const": 7}}}, "7", None),
    ("a bare schema", {"response_format": {"type": "json_schema", "json_schema": {"const": 7}}}, "7", None),
    ("no name", {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 7}}}}, "7", None),
    ("no type", {"response_format": {"json_schema": {"name": "x", "schema": {"const": 7}}}}, "7", None),
    ("TGI's schema", {"response_format": {"type": "json", "value": {"const": 7}}}, "7", None),
    ("TGI's any", {"response_format": {"type": "json"}}, r"\{.*", None),
    ("a word", {"response_format": "json_object"}, r"\{.*", None),
    ("a schema of null", {"response_format": {"type": "json_object", "schema": None}}, r"\{.*", None),
    ("no schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, r"\{.*", "has no schema"),
    ("nothing", {"response_format": {}}, ".*", None),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "pattern", "warning"), [f[1:] for f in FORMS], ids=[f[0] for f in FORMS])
def test_the_form_of_the_answer_is_enforced_however_it_is_asked_for(
    server: Server, fields: dict[str, Any], pattern: str, warning: str | None
) -> None:
    for path, prompt in (("/v1/chat/completions", {"messages": [ASK]}), ("/v1/completions", {"prompt": "a"})):
        answer = server.post({"max_tokens": 8} | prompt | fields, path)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        assert re.fullmatch(pattern, text, re.DOTALL), text
        warnings = answer.json().get("warnings", [])
        assert [warning is not None and warning in one for one in warnings] == [True] * (warning is not None)


BROKEN: dict[str, dict[str, Any]] = {
    "ebnf": {"ebnf": 'root ::= "ab"'},
    "guided_grammar": {"guided_grammar": "start: other"},
    "guided_regex": {"guided_regex": "[a"},
    "guided_json": {"guided_json": {"type": "nonsense"}},
    "json_schema": {"json_schema": {"type": "nonsense"}},
    "response_format": {"response_format": {"type": "regex", "pattern": "[a"}},
    "structured_outputs": {"structured_outputs": {"grammar": "start: other"}},
    "grammar": {"grammar": "start: other"},
}


@pytest.mark.parametrize("field", BROKEN)
def test_an_error_of_a_form_names_the_field_that_asked_for_it(server: Server, field: str) -> None:
    for path, prompt in (("/v1/chat/completions", {"messages": [ASK]}), ("/v1/completions", {"prompt": "a"})):
        refused = server.post(prompt | BROKEN[field], path)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


def test_two_forms_of_the_answer_exclude_each_other(server: Server) -> None:
    both = {"response_format": {"type": "json_object"}, "guided_json": {"const": 7}}
    refused = server.post({"messages": [ASK]} | both)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_json")


def test_logprobs_as_a_number_are_alternatives(server: Server) -> None:
    answer = server.ask("Hi", logprobs=3, max_tokens=1).json()
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    assert "logprobs is 3" in answer["warnings"][0]


def test_an_uploaded_sound_is_heard_whatever_its_field_is_called(server: Server) -> None:
    documented = server.post({"messages": user(audio_part(DATA / "sound-1.wav")), "max_tokens": 1}).json()
    other = server.post({"messages": user({"audio": {"data": SOUND}, "type": "audio"}), "max_tokens": 1}).json()
    assert other["usage"]["prompt_tokens"] == documented["usage"]["prompt_tokens"]
