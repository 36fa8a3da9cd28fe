"""Requests as well-known clients send them, over all four APIs: every text in them reaches the model.

`tests/data/client_requests.json` holds a path and a body for each, after the clients' public sources and reports of
requests that other servers refused. Their texts are MARK1, MARK2 and so on.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from fakes.server import DATA, data_uri
from galago.runtime.server.anthropic import convert as anthropic
from galago.runtime.server.anthropic import schema as anthropic_schema
from galago.runtime.server.http.request_io import convert_object, decode_object, no_warnings
from galago.runtime.server.ollama import convert as ollama
from galago.runtime.server.ollama import schema as ollama_schema
from galago.runtime.server.openai.chat import convert as chat
from galago.runtime.server.openai.chat.schema import ChatRequest
from galago.runtime.server.openai.responses import convert as responses
from galago.runtime.server.openai.responses import schema as responses_schema
from galago.runtime.types.request import Request

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = json.loads((DATA / "client_requests.json").read_text("utf-8"))
MEDIA = {
    "{picture}": data_uri(DATA / "picture-5.png"),
    "{picture_base64}": base64.b64encode((DATA / "picture-5.png").read_bytes()).decode(),
    "{sound_base64}": base64.b64encode((DATA / "sound-1.wav").read_bytes()).decode(),
}


def no_file(name: str, field: str) -> bytes:
    raise AssertionError(f"{field} asks for {name}")


def read(path: str, body: bytes) -> Request:
    """The request to the runtime."""
    warnings = no_warnings(strict=False)
    raw = decode_object(body, warnings)
    match path:
        case "/v1/chat/completions":
            return chat.to_request(convert_object(raw, ChatRequest, warnings), no_file, warnings)
        case "/v1/messages":
            return anthropic.to_request(convert_object(raw, anthropic_schema.MessagesRequest, warnings), warnings)
        case "/v1/responses":
            raw = responses.rewritten(raw, warnings)
            request = convert_object(raw, responses_schema.ResponsesRequest, warnings)
            tools = responses.all_tools(request, responses.given_items(request.input))
            return responses.to_request(request, [], tools, no_file, warnings)
        case "/api/chat":
            return ollama.to_request(convert_object(raw, ollama_schema.ChatRequest, warnings), warnings)
    return ollama.to_request(convert_object(raw, ollama_schema.GenerateRequest, warnings), warnings)


@pytest.mark.parametrize("name", REQUESTS)
def test_every_text_in_a_clients_request_reaches_the_model(name: str) -> None:
    path, body = REQUESTS[name]
    text = json.dumps(body)
    for placeholder, value in MEDIA.items():
        text = text.replace(placeholder, value)
    request = repr(read(path, text.encode()))
    marks = set(re.findall(r"MARK\d+", text))
    assert marks and [mark for mark in sorted(marks) if not re.search(rf"{mark}(?!\d)", request)] == []
