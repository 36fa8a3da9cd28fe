"""Whole conversations as Claude Code holds them: the shapes of its requests, in words of our own.

`scripts/clients/claude` runs the program itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import httpx
import pytest

from fakes.server import Server

Body: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[..., Body]

CACHED = {"cache_control": {"type": "ephemeral"}}
BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27"
HEADERS = {"anthropic-version": "2023-06-01", "anthropic-beta": BETAS, "x-app": "cli", "Authorization": "Bearer x"}


def text(content: str, **more: Any) -> Body:
    return {"type": "text", "text": content, **more}


def tool(name: str, *required: str, **more: Any) -> Body:
    properties = {key: {"type": "string", "description": f"The {key}."} for key in required}
    schema: Body = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
    }
    schema |= {"required": list(required), "additionalProperties": False}
    return {"name": name, "description": f"Does {name}.", "input_schema": schema, **more}


def used(call_id: str, name: str, **arguments: str) -> Body:
    return {"role": "assistant", "content": [{"type": "tool_use", "id": call_id, "name": name, "input": arguments}]}


def result(call_id: str, content: Any, *more: Body, **fields: Any) -> Body:
    block = {"tool_use_id": call_id, "type": "tool_result", "content": content, **fields}
    return {"role": "user", "content": [block, *more]}


PLACEHOLDER = {"name": "Placeholder", "description": "x", "input_schema": {"type": "object"}, "defer_loading": True}
CODE: Body = {
    "model": "builtin",
    "max_tokens": 4,
    "stream": True,
    "system": [
        text("x-anthropic-billing-header: cc_version=2.1.1; cc_entrypoint=cli;"),
        text("You are an agent.", **CACHED),
        text("\nBe careful.", **CACHED),
    ],
    "tools": [tool("Bash", "command"), tool("Read", "file_path"), tool("ToolSearch", "query"), PLACEHOLDER],
    "metadata": {"user_id": '{"device_id": "d", "session_id": "s"}'},
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
}
ASKED = {"role": "user", "content": [text("<system-reminder>\nNone.\n</system-reminder>"), text("List the files.")]}
EFFORT = {"output_config": {"effort": "medium"}}
PLACE = {"role": "system", "content": "# Environment\n - Shell: bash", **EFFORT}
RAN = [used("toolu_1", "Bash", command="ls"), result("toolu_1", "a.txt", is_error=False, **CACHED)]
FAILED = [
    used("toolu_2", "Read", file_path="b.txt"),
    result("toolu_2", "There is no such file.", is_error=True),
    {"role": "system", "content": [text("<total_tokens>9000 tokens left</total_tokens>", **CACHED)]},
]
LOADED = [
    used("toolu_3", "ToolSearch", query="select:WebSearch"),
    result("toolu_3", [{"type": "tool_reference", "tool_name": "WebSearch"}], text("Tool loaded.", **CACHED)),
]
USUAL = {"billing", "thinking.display has no effect", "defer_loading"}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
TITLE = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}


def tool_loop(ask: Ask) -> set[str]:
    """Each request holds the whole conversation. The place is a list of blocks at first, and later a text."""
    first = [ASKED, PLACE | {"content": [text(str(PLACE["content"]), **CACHED)]}]
    turns = [first, [ASKED, PLACE, *RAN], [ASKED, PLACE, *RAN, *FAILED], [ASKED, PLACE, *RAN, *FAILED, *LOADED]]
    answers = [ask(CODE | {"messages": turn}) for turn in turns]
    lengths = [answer["prompt_tokens"] for answer in answers]
    assert lengths == sorted(lengths) and len(set(lengths)) == 4
    later = tool("WebSearch", "query", defer_loading=True)
    answers.append(ask(CODE | {"messages": turns[-1], "tools": [*CODE["tools"], later]}))
    assert answers[-1]["prompt_tokens"] > lengths[-1]
    return {text for answer in answers for text in answer["warnings"]}


def later_conversation(ask: Ask) -> set[str]:
    """The note on billing differs, and the cached prefix is used all the same."""
    ask(CODE | {"messages": [ASKED, PLACE]})
    note = text("x-anthropic-billing-header: cc_version=2.1.1.abc; cc_entrypoint=cli;")
    answer = ask(CODE | {"messages": [ASKED, PLACE], "system": [note, *CODE["system"][1:]]})
    assert answer["cached_tokens"] == answer["prompt_tokens"] - 1
    return set(answer["warnings"])


def editor(ask: Ask) -> set[str]:
    """An interactive session: safety checks at Anthropic, a note on which thoughts to show, several reminders."""
    body = CODE | {
        "thinking": {"type": "adaptive", "display": "updates"},
        "safeguards": [{"type": "dangerous_tool_use"}],
    }
    return set(ask(body | {"messages": [ASKED, PLACE, *RAN, {"role": "user", "content": "Go on."}]})["warnings"])


def title(ask: Ask) -> set[str]:
    asked = [{"role": "user", "content": [text("<session>\nList the files.\n</session>")]}]
    output_format = {"type": "json_schema", "schema": TITLE}
    config = {"output_config": {"effort": "medium", "format": output_format}}
    plain = {name: value for name, value in CODE.items() if name not in ("thinking", "context_management")}
    answer = ask(plain | {"messages": asked, "tools": [], "max_tokens": 60, "temperature": 1} | config)
    assert answer["text"].startswith("{"), answer
    return set(answer["warnings"])


def search(ask: Ask) -> set[str]:
    """A request of its own for a search that only Anthropic could do."""
    asked = [{"role": "user", "content": [text("Perform a web search for the query: cats")]}]
    body = {"messages": asked, "tools": [SEARCH], "tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"}}
    return set(ask(CODE | body)["warnings"])


def compaction(ask: Ask) -> set[str]:
    request = {"role": "user", "content": "Respond with TEXT ONLY. Summarize the conversation."}
    done = {"role": "assistant", "content": [text("Done.", **CACHED)]}
    summary = [
        {"role": "user", "content": [text("This session continues another one. Summary: files."), text("Go on.")]}
    ]
    answers = [ask(CODE | {"messages": messages}) for messages in ([ASKED, PLACE, done, request], summary)]
    return {text for answer in answers for text in answer["warnings"]}


def older_releases(ask: Ask) -> set[str]:
    """A probe of one token, and a topic with the beginning of the answer given."""
    probe = {"model": "builtin", "max_tokens": 1, "messages": [{"role": "user", "content": "quota"}]}
    answers = [ask(probe | {"metadata": {"user_id": "u"}})]
    topic = [{"role": "user", "content": "New topic?"}, {"role": "assistant", "content": "{"}]
    answers.append(
        ask({"model": "builtin", "max_tokens": 4, "temperature": 0, "system": [text("Decide.")], "messages": topic})
    )
    edits = {"type": "clear_tool_uses_20250919"}
    enabled = {"type": "enabled", "budget_tokens": 31999}
    body = CODE | {
        "thinking": enabled,
        "context_management": {"edits": [edits]},
        "messages": [ASKED, *RAN],
        "temperature": 1,
    }
    answers.append(ask(body))
    return {text for answer in answers for text in answer["warnings"]}


def counts(ask: Ask) -> set[str]:
    """A burst of counts: of texts, and of tools one by one."""
    foo = [{"role": "user", "content": "foo"}]
    bodies = [{"messages": foo}, {"messages": foo, "tools": []}]
    bodies += [{"messages": foo, "tools": [one]} for one in CODE["tools"][:3]]
    counted = [ask({"model": "builtin", **body}, path="/v1/messages/count_tokens")["input_tokens"] for body in bodies]
    assert counted[0] == counted[1] < min(counted[2:])
    return set()


FLOWS: dict[str, tuple[Callable[[Ask], set[str]], set[str]]] = {
    "tool loop": (tool_loop, USUAL),
    "later conversation": (later_conversation, USUAL),
    "editor": (editor, {*USUAL, "safeguards is unknown"}),
    "title": (title, {"billing"}),
    "search": (search, {"billing", "'web_search_20250305'"}),
    "compaction": (compaction, USUAL),
    "older releases": (
        older_releases,
        {*USUAL - {"thinking.display has no effect"}, "thinking.budget_tokens", "context_management is not supported"},
    ),
    "counts": (counts, set()),
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, headers=HEADERS) as client:
        yield client


def answer_of(response: httpx.Response) -> Body:
    """A whole or streamed answer: its text, warnings and lengths; a count as it is."""
    assert response.status_code == 200, response.text
    if not response.headers["content-type"].startswith("text/event-stream"):
        body = dict(response.json())
        return {"warnings": [], **body}
    events = [json.loads(block.partition("data: ")[2]) for block in response.text.split("\n\n") if block]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    usage = events[-2]["usage"]
    pieces = [event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"]
    return {
        "text": "".join(pieces),
        "warnings": events[0]["message"].get("warnings", []),
        "cached_tokens": usage["cache_read_input_tokens"],
        "prompt_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"],
    }


@pytest.mark.parametrize("name", FLOWS)
def test_a_conversation_is_answered_with_these_warnings_only(client: httpx.Client, name: str) -> None:
    flow, expected = FLOWS[name]

    def ask(body: Body, path: str = "/v1/messages") -> Body:
        return answer_of(client.post(f"{path}?beta=true", json=body))

    assert client.head("/").status_code == 200
    warnings = {text for text in flow(ask) if "chat template" not in text}
    assert {text for text in warnings if not any(part in text for part in expected)} == set()
    assert {part for part in expected if not any(part in text for text in warnings)} == set()
