"""Media that cannot be shown to the model: refused in the question, and a text in their place elsewhere."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fakes.server import DATA, Server

PICTURE = (DATA / "picture-5.png").read_bytes()
SOUND = base64.b64encode((DATA / "sound-1.wav").read_bytes()).decode()
PNG = base64.b64encode(PICTURE).decode()
CUT = base64.b64encode(PICTURE[: len(PICTURE) // 2]).decode()
PDF = base64.b64encode(b"%PDF-1.4 \0").decode()
HEIC = base64.b64encode(b"\0\0\0\x18ftypheic\0\0").decode()
CHAT, RESPONSES, MESSAGES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"
CALL = {"type": "function", "id": "c", "function": {"name": "shot", "arguments": "{}"}}


def chat_body(place: str, *parts: Any) -> dict[str, Any]:
    ask, told = {"role": "user", "content": "Which?"}, {"role": "assistant", "content": "A."}
    messages = {
        "question": [ask, told, {"role": "user", "content": [*parts]}],
        "history": [{"role": "user", "content": [*parts]}, told, ask],
        "result": [
            ask,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": [*parts]},
        ],
    }
    return {"messages": messages[place], "max_tokens": 1}


def responses_body(place: str, *parts: Any) -> dict[str, Any]:
    ask, told = {"role": "user", "content": "Which?"}, {"role": "assistant", "content": "A."}
    items = {
        "question": [ask, told, {"role": "user", "content": [*parts]}],
        "history": [{"role": "user", "content": [*parts]}, told, ask],
        "result": [
            ask,
            {"type": "function_call", "call_id": "c", "name": "shot", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [*parts]},
        ],
    }
    return {"input": items[place], "max_output_tokens": 1}


def messages_body(place: str, *parts: Any) -> dict[str, Any]:
    body = chat_body("history" if place == "history" else "question", *parts)
    if place == "result":
        call = {"type": "tool_use", "id": "c", "name": "shot", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "c", "content": [*parts]}
        body["messages"][1:] = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return {"model": "builtin", **body}


def ollama_body(place: str, *parts: Any) -> dict[str, Any]:
    body = chat_body(place, *parts)
    for message in body["messages"]:
        if message.get("tool_calls"):
            message["tool_calls"] = [{"function": {"name": "shot", "arguments": {}}}]
    return {"messages": body["messages"], "stream": False, "options": {"num_predict": 1}}


BODIES: dict[str, Callable[..., dict[str, Any]]] = {
    CHAT: chat_body,
    RESPONSES: responses_body,
    MESSAGES: messages_body,
    OLLAMA: ollama_body,
}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def source(**fields: str) -> dict[str, Any]:
    return {"type": "image", "source": fields}


def given_file(data: str) -> dict[str, Any]:
    return {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/octet-stream;base64,{data}"}


REMOTE, CUT_PICTURE = picture("https://a.example/b.png"), picture(f"data:image/png;base64,{CUT}")
UNREADABLE: list[tuple[str, str, dict[str, Any]]] = [
    ("a remote picture", CHAT, REMOTE),
    ("a picture of the browser", CHAT, picture("blob:https://a.example/1234")),
    ("a picture at a path", CHAT, picture("images/b.png")),
    ("a damaged picture", CHAT, CUT_PICTURE),
    ("an empty picture", CHAT, picture("data:image/png;base64,")),
    ("a PDF as a picture", CHAT, picture(f"data:application/pdf;base64,{PDF}")),
    ("a picture in a format that is not read", CHAT, given_file(HEIC)),
    ("an unknown file", CHAT, {"type": "file", "file": {"file_id": "file-1"}}),
    ("a damaged sound", CHAT, {"type": "input_audio", "input_audio": {"data": CUT, "format": "wav"}}),
    ("a damaged video", CHAT, {"type": "input_video", "input_video": {"data": CUT}}),
    ("a remote picture", RESPONSES, {"type": "input_image", "image_url": "https://a.example/b.png"}),
    ("a damaged picture", RESPONSES, {"type": "input_image", "image_url": f"data:image/png;base64,{CUT}"}),
    ("an unknown picture", RESPONSES, {"type": "input_image", "file_id": "file-1"}),
    ("a remote picture", MESSAGES, source(type="url", url="https://a.example/b.png")),
    ("an unknown picture", MESSAGES, source(type="file", file_id="file_1")),
    ("a damaged picture", MESSAGES, source(type="base64", media_type="image/png", data=CUT)),
    ("a remote picture", OLLAMA, REMOTE),
    ("a damaged picture", OLLAMA, CUT_PICTURE),
]


@pytest.mark.parametrize(("path", "part"), [u[1:] for u in UNREADABLE], ids=[f"{u[1]} {u[0]}" for u in UNREADABLE])
def test_unreadable_media_are_refused_in_the_question_only(server: Server, path: str, part: dict[str, Any]) -> None:
    assert 400 <= server.post(BODIES[path]("question", part), path).status_code <= 404
    for place in ("history", "result"):
        answer = server.post(BODIES[path](place, part), path)
        assert answer.status_code == 200, answer.text
        (warning,) = answer.json()["warnings"]
        assert "is not shown to the model: " in warning, warning


def test_the_model_is_told_of_a_picture_in_its_place(server: Server) -> None:
    def tokens(*parts: dict[str, Any]) -> int:
        answer = server.post(chat_body("history", *parts)).json()
        return int(answer["usage"]["prompt_tokens"])

    text = "[picture that could not be read: a PNG image is damaged or incomplete]"
    assert tokens(CUT_PICTURE) == tokens({"type": "text", "text": text})


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("place", ["question", "history", "result"])
def test_a_file_that_is_no_medium_is_named_everywhere(server: Server, path: str, place: str) -> None:
    answer = server.post(BODIES[path](place, given_file(PDF)), path)
    assert answer.status_code == 200, answer.text
    assert "the file a.pdf is not shown to the model: it is a PDF document" in " ".join(answer.json()["warnings"])


@pytest.mark.parametrize("part", [REMOTE, CUT_PICTURE, given_file(PDF)], ids=["remote", "damaged", "a PDF"])
def test_strict_servers_refuse_unreadable_media_everywhere(strict_server: Server, part: dict[str, Any]) -> None:
    for place in ("question", "history", "result"):
        assert strict_server.post(chat_body(place, part)).status_code == 400


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("MCP's picture", {"type": "image", "data": PNG, "mimeType": "image/png"}),
    ("LangChain's picture", {"type": "image", "base64": PNG, "mime_type": "image/png"}),
    ("LangChain's older picture", {"type": "image", "source_type": "base64", "data": PNG, "mime_type": "image/png"}),
    ("Vercel's picture", {"type": "image", "image": PNG, "mediaType": "image/png"}),
    ("Vercel's file", {"type": "file", "mediaType": "image/png", "data": PNG}),
    ("Vercel's file at an address", {"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{PNG}"}),
    ("Vercel's result", {"type": "media", "mediaType": "image/png", "data": PNG}),
    ("MCP's resource", {"type": "resource", "resource": {"uri": "a://b", "mimeType": "image/png", "blob": PNG}}),
    ("MCP's sound", {"type": "audio", "data": SOUND, "mimeType": "audio/wav"}),
]


@pytest.mark.parametrize("part", [form[1] for form in FORMS], ids=[form[0] for form in FORMS])
def test_media_in_the_forms_of_frameworks_are_shown(server: Server, part: dict[str, Any]) -> None:
    for path, body in BODIES.items():
        answer = server.post(body("result", part), path)
        assert answer.status_code == 200, (path, answer.text)
        assert "warnings" not in answer.json(), (path, answer.text)
        assert 16 <= prompt_tokens(answer) - tokens_without(server, path) < 100, path


@functools.cache
def tokens_without(server: Server, path: str) -> int:
    """The tokens of the prompt without a medium."""
    return prompt_tokens(server.post(BODIES[path]("result", {"type": "text", "text": ""}), path))


def prompt_tokens(answer: httpx.Response) -> int:
    body = answer.json()
    usage = body.get("usage", body)
    cached = usage.get("cache_read_input_tokens", 0)
    return int(next(usage[n] for n in ("prompt_tokens", "input_tokens", "prompt_eval_count") if n in usage) + cached)


HALF = "a \ud83d cut"
CUT_TEXTS: list[tuple[str, str, dict[str, Any]]] = [
    ("chat", CHAT, chat_body("history", {"type": "text", "text": HALF})),
    ("a result", CHAT, chat_body("result", {"type": "text", "text": HALF})),
    ("the other half", CHAT, {"messages": [{"role": "user", "content": "\udc00 \\ud83d \U0001f600"}], "max_tokens": 1}),
    ("responses", RESPONSES, {"input": HALF, "max_output_tokens": 1}),
    ("messages", MESSAGES, messages_body("question", {"type": "text", "text": HALF})),
    ("ollama", OLLAMA, ollama_body("history", {"type": "text", "text": HALF})),
    ("completions", "/v1/completions", {"prompt": HALF, "max_tokens": 1}),
    ("a name", CHAT, {**chat_body("history"), "metadata": {HALF: HALF}}),
]


@pytest.mark.parametrize(("path", "body"), [t[1:] for t in CUT_TEXTS], ids=[t[0] for t in CUT_TEXTS])
def test_half_a_surrogate_pair_is_replaced(
    server: Server, strict_server: Server, path: str, body: dict[str, Any]
) -> None:
    content = json.dumps(body).encode()
    answer = httpx.post(f"{server.url}{path}", content=content, timeout=30)
    assert answer.status_code == 200, answer.text
    assert [warning for warning in answer.json()["warnings"] if "U+FFFD" in warning] == answer.json()["warnings"]
    assert httpx.post(f"{strict_server.url}{path}", content=content, timeout=30).status_code == 400


def test_bytes_that_are_no_text_are_refused(server: Server) -> None:
    for half in (b"\xed\xa0\xbd", b"\xff"):
        body = b'{"messages": [{"role": "user", "content": "\\ud83d ' + half + b'"}]}'
        assert httpx.post(f"{server.url}{CHAT}", content=body).status_code == 400
