"""Conversations of Anthropic's clients: blocks that only Anthropic can read are shown as text, and null is harmless."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.request_cases import Api, Case
from fakes.server import DATA, Server
from galago.runtime.server.anthropic import convert, schema

TEXT_FILE = base64.b64encode(b"The sky is green.").decode()
PNG = base64.b64encode((DATA / "picture-5.png").read_bytes()).decode()
URI = f"data:image/png;base64,{PNG}"
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
WEATHER = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
HI = [{"role": "user", "content": "Hi"}]
API = Api(
    "/v1/messages",
    {"model": "builtin", "max_tokens": 1, "messages": HI},
    lambda answer: sum(answer["usage"][name] for name in ("input_tokens", "cache_read_input_tokens")),
    schema.MessagesRequest,
    convert.to_request,
)


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def call(**changes: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Bern"}} | changes


def result(*content: Any, **changes: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": list(content)} | changes


def said(*blocks: Any) -> dict[str, Any]:
    """A question with these blocks."""
    return {"messages": [user(text("Hi"), *blocks)]}


def told(*blocks: Any) -> dict[str, Any]:
    """A conversation in which the assistant wrote these blocks."""
    return {"messages": [user(text("Hi")), assistant(*blocks), user(text("Go on."))]}


def used(*content: Any, **changes: Any) -> dict[str, Any]:
    """A conversation with a call that had this result."""
    return {"tools": [WEATHER], "messages": [user(text("Hi")), assistant(call()), user(result(*content, **changes))]}


PDF = {
    "type": "document",
    "title": "Report",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
}
AT_AN_ADDRESS = {"type": "url", "url": "https://example.com/a"}
NOT_READ = "only text documents"
PASTED = {"type": "text", "media_type": "text/plain", "data": "The sky is green."}
FOUND = {"type": "web_search_result", "title": "Bern", "url": "https://bern.ch", "encrypted_content": "EqgfCioIARgB"}
RAN = {"type": "code_execution_result", "stdout": "4", "stderr": "", "return_code": 0, "content": []}
CASES = [
    Case("a PDF file", said(PDF), said(text("Report\n[document application/pdf was not read]")), NOT_READ),
    Case("a PDF file in a result", used(PDF), used(text("Report\n[document application/pdf was not read]")), NOT_READ),
    Case(
        "a document at an address",
        said({"type": "document", "source": AT_AN_ADDRESS}),
        said(text("[document https://example.com/a was not read]")),
        NOT_READ,
    ),
    Case(
        "an uploaded document",
        said({"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
        said(text("[document file_1 was not read]")),
        NOT_READ,
    ),
    Case(
        "a text file in base64",
        said({"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": TEXT_FILE}}),
        said(text("The sky is green.")),
    ),
    Case(
        "a document of blocks",
        said({"type": "document", "title": "Sky", "source": {"type": "content", "content": [text("green"), PICTURE]}}),
        said(text("Sky"), text("green"), PICTURE),
    ),
    Case(
        "cited documents",
        said({"type": "document", "source": PASTED, "citations": {"enabled": True}}),
        said(text("The sky is green.")),
        "citations",
    ),
    Case(
        "a picture as a data URI",
        said({"type": "image", "source": {"type": "url", "url": f"data:image/png;base64,{PNG}"}}),
        said(PICTURE),
    ),
    Case(
        "a reference to a tool",
        used({"type": "tool_reference", "tool_name": "WebFetch"}),
        used(text("The tool WebFetch can be used.")),
    ),
    Case("a result of null", used(content=None), used()),
    Case(
        "no result",
        {
            **used(),
            "messages": [user(text("Hi")), assistant(call()), user({"type": "tool_result", "tool_use_id": "toolu_1"})],
        },
        used(),
    ),
    Case("null in a result", used(None, text("sunny")), used(text("sunny"))),
    Case("texts in a result", used("sunny"), used(text("sunny"))),
    Case("one block as a result", used(content=text("sunny")), used(text("sunny"))),
    Case("an object as a result", used(content={"degrees": 21}), used(text('{"degrees": 21}'))),
    Case("a number as a result", used(content=21), used(text("21"))),
    Case("an error as a result", used(text("cold"), is_error=True), used(text("Error:"), text("cold"))),
    Case("no error as a result", used(text("cold"), is_error=None), used(text("cold"))),
    Case(
        "a found page",
        used({"type": "search_result", "source": "a.txt", "title": "A", "content": [text("sunny")], "citations": {}}),
        used(text("A\na.txt\nsunny")),
    ),
    Case(
        "a call without an id",
        {"messages": [user(text("Hi")), assistant(call(id=None)), user(result(text("sunny"), tool_use_id=None))]},
        {"messages": used(text("sunny"))["messages"]},
    ),
    Case(
        "a call and a result with ids left out",
        {
            "messages": [
                user(text("Hi")),
                assistant({"type": "tool_use", "name": "get_weather", "input": {"city": "Bern"}}),
                user({"type": "tool_result", "content": "sunny"}),
            ]
        },
        {"messages": used(text("sunny"))["messages"]},
    ),
    Case(
        "input of null",
        {"messages": [user(text("Hi")), assistant(call(input=None)), user(result(text("sunny")))]},
        {"messages": [user(text("Hi")), assistant(call(input={})), user(result(text("sunny")))]},
    ),
    Case(
        "input as a text",
        {"messages": [user(text("Hi")), assistant(call(input='{"city": "Bern"}')), user(result(text("sunny")))]},
        {"messages": used(text("sunny"))["messages"]},
    ),
    Case(
        "a search at Anthropic and its results",
        told(
            {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "Bern"}},
            {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [FOUND]},
        ),
        told(text('[call of web_search: {"query": "Bern"}]'), text('{"title": "Bern", "url": "https://bern.ch"}')),
        "only Anthropic can read",
    ),
    Case(
        "a fetched page",
        told(
            {
                "type": "web_fetch_tool_result",
                "content": {"type": "web_fetch_result", "url": "u", "content": {"type": "document", "source": PASTED}},
            }
        ),
        told(text('{"url": "u"}\nThe sky is green.')),
    ),
    Case(
        "an MCP server's call",
        told(
            {"type": "mcp_tool_use", "id": "m_1", "name": "f", "server_name": "s", "input": {"x": 1}},
            {"type": "mcp_tool_result", "tool_use_id": "m_1", "content": [text("sunny")], "is_error": False},
        ),
        told(text('[call of f: {"x": 1}]'), text('{"is_error": false}\nsunny')),
    ),
    Case(
        "executed code",
        told({"type": "code_execution_tool_result", "tool_use_id": "c_1", "content": RAN}),
        told(text('{"stdout": "4", "stderr": "", "return_code": 0}')),
    ),
    Case(
        "a file in a container",
        said({"type": "container_upload", "file_id": "f"}),
        said(text("[file f was not read]")),
        "containers",
    ),
    Case(
        "a summary of what came before",
        told({"type": "compaction", "content": "They met.", "signature": "s"}),
        told(text("They met.")),
    ),
    Case("a mark of another model", told({"type": "fallback", "from": {}, "to": {}}, text("Hi")), told(text("Hi"))),
    Case(
        "encrypted thoughts",
        told({"type": "redacted_thinking", "data": "Eqk"}, text("Hi")),
        told(text("Hi")),
        "decrypt",
    ),
    Case(
        "thoughts without a signature",
        told({"type": "thinking", "thinking": "Hm."}, text("Hi")),
        told({"type": "thinking", "thinking": "Hm.", "signature": "s"}, text("Hi")),
        "no place for the reasoning",
        True,
    ),
    Case(
        "thoughts of null",
        told({"type": "thinking", "thinking": None, "signature": None}, text("Hi")),
        told(text("Hi")),
    ),
    Case(
        "a block of the future", said({"type": "smell", "text": "roses"}), said(text("roses")), "'smell' is not known"
    ),
    Case(
        "data of the future",
        said({"type": "smell", "data": "x" * 9000}),
        said(text('{"data": "..."}')),
        "cannot be read",
    ),
    Case("a picture by the assistant", told(PICTURE), told(text("[image]")), "cannot be shown in this place"),
    Case("a picture of nothing", said({"type": "image"}), said(text("[image  was not fetched]")), "fetches nothing"),
    Case("a picture of OpenAI's API", said({"type": "image_url", "image_url": {"url": URI}}), said(PICTURE)),
    Case("a block without a type", said({"text": "there"}), said(text("there"))),
    Case("a block of null", said(None), said()),
    Case("an empty block", said(text(""), {"type": "text", "text": None}), said()),
    Case("content as a text", {"messages": [{"role": "user", "content": "Hi"}]}, said()),
    Case("content as one block", {"messages": [{"role": "user", "content": text("Hi")}]}, said()),
    Case(
        "content of null",
        {"messages": [user(text("Hi")), {"role": "assistant", "content": None}, user(text("Go on."))]},
        told(),
    ),
    Case(
        "empty content",
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": ""}]},
    ),
    Case("a system message as a list", {"system": [text("Be brief.")]}, {"system": "Be brief."}),
    Case(
        "a system message with a cache's scope",
        {"system": [text("Be brief.") | {"cache_control": {"type": "ephemeral", "scope": "global"}}]},
        {"system": "Be brief."},
    ),
    Case("system messages of nothing", {"system": [text(""), None]}, {}),
    Case(
        "a note on billing",
        {"system": [text("x-anthropic-billing-header: cc_version=2.1;"), text("Be brief.")]},
        {"system": "Be brief."},
        "billing",
        True,
    ),
    Case(
        "a developer's message",
        {"messages": [{"role": "developer", "content": "Be brief."}, user(text("Hi"))]},
        {"system": "Be brief."},
    ),
]
"""Blocks that clients keep in their conversations."""


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_request_is_answered_as_its_plain_form_is(client: httpx.Client, case: Case) -> None:
    API.check(case, client)


def test_a_picture_in_a_result_reaches_the_model(client: httpx.Client) -> None:
    with_picture, without = (
        client.post(f"{API.path}/count_tokens", json={"model": "builtin"} | used(text("shot"), *pictures)).json()
        for pictures in ([PICTURE], [])
    )
    assert with_picture["input_tokens"] == without["input_tokens"] + 16
