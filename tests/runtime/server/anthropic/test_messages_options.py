"""Tools and settings of Anthropic's clients: what this server cannot do is left out with a warning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.request_cases import Api, Case
from fakes.server import Server
from galago.runtime.server.anthropic import convert, schema

WEATHER = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
FORMAT = {"type": "json_schema", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}
HI = [{"role": "user", "content": "Hi"}]
API = Api(
    "/v1/messages",
    {"model": "builtin", "max_tokens": 1, "messages": HI},
    lambda answer: sum(answer["usage"][name] for name in ("input_tokens", "cache_read_input_tokens")),
    schema.MessagesRequest,
    convert.to_request,
)


def tools(*given: Any, **more: Any) -> dict[str, Any]:
    return {"tools": list(given)} | more


CLIENT_TOOL = {"name": "bash", "description": "Runs a command in a shell that stays open, or restarts the shell."}
BASH_SCHEMA = {
    "type": "object",
    "properties": {
        "command": {"type": "string", "description": "The command to run."},
        "restart": {"type": "boolean"},
    },
}
CHANGE = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": WEATHER}}
REMOVAL = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "get_weather"}}

TOOLS = [
    Case("a search at Anthropic", tools(SEARCH), tools(), "tools[0] has the type 'web_search_20250305'"),
    Case("a search next to a function", tools(SEARCH, WEATHER), tools(WEATHER), "tools[0]"),
    Case("fetching", tools({"type": "web_fetch_20260318", "name": "web_fetch"}), tools(), "web_fetch_20260318"),
    Case("code execution", tools({"type": "code_execution_20260521", "name": "x"}), tools(), "code_execution"),
    Case("a computer", tools({"type": "computer_20251124", "name": "computer"}, WEATHER), tools(WEATHER), "computer"),
    Case("a search for tools", tools({"type": "tool_search_tool_regex_20251119", "name": "t"}), tools(), "tool_search"),
    Case("an MCP server's tools", tools({"type": "mcp_toolset", "mcp_server_name": "m"}), tools(), "mcp_toolset"),
    Case("a tool of the future", tools({"type": "telepathy_20290101"}), tools(), "telepathy_20290101"),
    Case(
        "a shell that the client runs",
        tools({"type": "bash_20250124", "name": "bash"}),
        tools(CLIENT_TOOL | {"input_schema": BASH_SCHEMA}),
    ),
    Case("a tool without a schema", tools({"name": "get_time"}), tools({"name": "get_time", "input_schema": None})),
    Case("a tool without a name", tools({"input_schema": {}}, WEATHER), tools(WEATHER), "tools[0]"),
    Case("a description of null", tools(WEATHER | {"description": None, "type": None}), tools(WEATHER)),
    Case("a tool to load later", tools(WEATHER | {"defer_loading": True}), tools(WEATHER), "defer_loading"),
    Case("a tool that is there at once", tools(WEATHER | {"defer_loading": False}), tools(WEATHER)),
    Case(
        "a tool for programs", tools(WEATHER | {"allowed_callers": ["code_execution_20260120"]}), tools(WEATHER), "dir"
    ),
    Case("a tool for the model", tools(WEATHER | {"allowed_callers": ["direct"]}), tools(WEATHER)),
    Case(
        "examples of a tool's input",
        tools(WEATHER | {"input_examples": [{"city": "Bern"}]}),
        tools(WEATHER | {"description": 'Examples of its input: [{"city": "Bern"}]'}),
    ),
    Case("a choice of null", tools(WEATHER, tool_choice=None), tools(WEATHER)),
    Case("a choice in words", tools(WEATHER, tool_choice="auto"), tools(WEATHER)),
    Case(
        "a choice of a tool that is left out",
        tools(SEARCH, WEATHER, tool_choice={"type": "tool", "name": "web_search"}),
        tools(WEATHER),
        "no call is required",
    ),
    Case("a required call without tools that are kept", tools(SEARCH, tool_choice={"type": "any"}), tools(), "no call"),
    Case("tools of null", {"tools": None}, {}),
    Case("a tool of null", tools(None, WEATHER), tools(WEATHER), "tools[0]"),
    Case(
        "a function of OpenAI's API",
        tools({"type": "function", "function": {"name": "get_weather", "parameters": WEATHER["input_schema"]}}),
        tools(WEATHER),
    ),
    Case(
        "a tool that is added in the conversation",
        {"messages": [HI[0], {"role": "system", "content": [CHANGE]}]},
        tools(WEATHER),
    ),
    Case(
        "a tool that is removed in the conversation",
        tools(WEATHER, messages=[HI[0], {"role": "system", "content": [REMOVAL]}]),
    ),
]
"""Tools that are not functions, or functions with more than a schema."""

SETTINGS = [
    Case("metadata", {"metadata": {"user_id": "u"}}),
    Case("betas", {"betas": ["context-management-2025-06-27"]}),
    Case(
        "MCP servers", {"mcp_servers": [{"type": "url", "url": "https://m.example", "name": "m"}]}, None, "mcp_servers"
    ),
    Case("no MCP servers", {"mcp_servers": []}),
    Case("a container", {"container": "c_1"}, None, "container"),
    Case(
        "management of the context",
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        None,
        "context_management",
    ),
    Case("an output format of old", {"output_format": FORMAT}, {"output_config": {"format": FORMAT}}),
    Case("an output format of null", {"output_config": {"format": None, "effort": None}}),
    Case("an output format of text", {"output_config": {"format": {"type": "text"}}}),
    Case(
        "a budget for the task",
        {"output_config": {"task_budget": {"type": "tokens", "total": 9000}}},
        None,
        "task_budget",
    ),
    Case("an unknown effort", {"output_config": {"effort": "heroic"}}, None, "heroic"),
    Case("speed", {"speed": "fast"}, None, "speed"),
    Case("usual speed", {"speed": "standard", "service_tier": "auto"}),
    Case("thinking of null", {"thinking": None}),
    Case("thinking of the future", {"thinking": {"type": "between_tools"}}, None, "between_tools"),
    Case(
        "more thinking than tokens",
        {"thinking": {"type": "enabled", "budget_tokens": 9000}},
        {"thinking": {"type": "adaptive"}},
        "budget_tokens",
    ),
    Case("thinking as a text", {"thinking": "disabled"}, {"thinking": {"type": "disabled"}}),
    Case("null among the stop sequences", {"stop_sequences": [None, "END"]}),
    Case("thinking or not", {"thinking": False}, {"thinking": {"type": "disabled"}}),
    Case("no max_tokens", {"max_tokens": None}),
    Case("unlimited max_tokens", {"max_tokens": -1}),
    Case("whole max_tokens with a point", {"max_tokens": 2.0}),
    Case("20 stop sequences", {"stop_sequences": [f"\nname{i}:" for i in range(20)]}),
    Case("an empty stop sequence", {"stop_sequences": ["", "\n\n"]}, None, "empty text"),
    Case("a blank stop sequence", {"stop_sequences": [" "]}),
    Case("one stop sequence", {"stop_sequences": "END"}, {"stop_sequences": ["END"]}),
    Case("stop sequences of null", {"stop_sequences": None}),
    Case("a high temperature", {"temperature": 1.5}),
    Case("a top_k of -1", {"top_k": -1}, {"top_k": 0}),
    Case("null for every number", {"temperature": None, "top_p": None, "top_k": None, "stream": None}),
    Case("a field of the future", {"safeguards": {"level": 3}}, None, "safeguards is unknown"),
    Case(
        "effort from a message on",
        {"messages": [HI[0], {"role": "system", "content": "Be brief.", "output_config": {"effort": "low"}}]},
        {"messages": [HI[0], {"role": "system", "content": "Be brief."}], "output_config": {"effort": "low"}},
        "no switch for it",
        True,
    ),
]
"""Settings that have a plain meaning, or none here."""
CASES = [*TOOLS, *SETTINGS]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_request_is_answered_as_its_plain_form_is(client: httpx.Client, case: Case) -> None:
    API.check(case, client)


def test_a_prompt_is_cached_without_an_answer(client: httpx.Client) -> None:
    body = API.default | {"messages": [{"role": "user", "content": "How long is the river that nobody has measured?"}]}
    for stream in (False, True):
        answer = client.post(API.path, json=body | {"max_tokens": 0, "stream": stream})
        assert answer.status_code == 200 and "max_tokens" in answer.text
        assert "content_block_start" not in answer.text and '"output_tokens":0' in answer.text
    usage = client.post(API.path, json=body).json()["usage"]
    assert usage["input_tokens"] == 1 and usage["cache_read_input_tokens"] > 10


def test_batches_are_named_as_missing(client: httpx.Client) -> None:
    answer = client.post(f"{API.path}/batches", json={"requests": []})
    assert answer.status_code == 404 and "/v1/messages/batches" in answer.json()["error"]["message"]
