"""`serve --strict` refuses what would change the answer or is left out of it; other servers warn of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes.server import Server

HI: Any = [{"role": "user", "content": "Opposite of big?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 2},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": HI, "max_tokens": 2},
    "/api/chat": {"model": "builtin", "messages": HI, "stream": False, "options": {"num_predict": 2}},
    "/api/generate": {"model": "builtin", "prompt": "a", "stream": False, "options": {"num_predict": 2}},
}
CHAT, RESPONSES, MESSAGES, OLLAMA, GENERATE = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/api/chat",
    "/api/generate",
)
NO_SWITCH = "has no effect: this model's chat template has no switch for it"


def schema(**keywords: Any) -> dict[str, Any]:
    form = {"type": "object", "properties": {"a": {"type": "integer", **keywords}}, "required": ["a"]}
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": form}}, "max_tokens": 20}


REFUSED: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    # path, fields, the problem, what else a warning says
    "an effort": (CHAT, {"reasoning_effort": "high"}, f"reasoning_effort {NO_SWITCH}", None),
    "an effort of a response": (RESPONSES, {"reasoning": {"effort": "high"}}, f"reasoning.effort {NO_SWITCH}", None),
    "thinking": (MESSAGES, {"thinking": {"type": "adaptive"}}, f"thinking {NO_SWITCH}", None),
    "an effort of a message": (
        MESSAGES, {"output_config": {"effort": "high"}}, f"output_config.effort {NO_SWITCH}", None,
    ),
    "think": (OLLAMA, {"think": True}, f"think {NO_SWITCH}", None),
    "a template's variable": (
        CHAT, {"chat_template_kwargs": {"x": 1}},
        "chat_template_kwargs: this model's chat template has no variable 'x'", None,
    ),
    "an unknown keyword": (
        CHAT, schema(frobnicate=1), "the keyword 'frobnicate' at #/properties/a of the JSON schema is unknown",
        "it is ignored",
    ),
    "a larger context": (
        GENERATE, {"options": {"num_ctx": 10**6}}, "options.num_ctx is 1000000, but the model was loaded with", None,
    ),
    "threads": (
        GENERATE, {"options": {"num_thread": 2}},
        "options.num_thread has no effect; set it with `galago serve --threads`", None,
    ),
    "options of loading": (
        OLLAMA, {"options": {"num_gpu": 1, "use_mmap": True}},
        "options.num_gpu, options.use_mmap have no effect; set num_gpu with `galago serve --gpu-layers`", None,
    ),
    "edits of the conversation": (
        MESSAGES, {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management", None,
    ),
    "a number as a text": (CHAT, {"temperature": "0.7"}, "temperature is the text '0.7', not a number", "read as 0.7"),
    "a number out of range": (CHAT, {"temperature": -1}, "temperature is -1, out of range", "0 is used"),
    "a tool of a service": (
        MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "s"}]},
        "tools[0] has the type 'web_search_20250305', which this server cannot run", "it is left out",
    ),
    "a length that the form determines": (CHAT, {"regex": "[ab]", "min_tokens": 5}, "min_tokens has no effect", None),
    "names": (
        CHAT, {"messages": [HI[0] | {"name": "Ada"}]}, "the names in the messages have no effect", None,
    ),
}  # fmt: skip

CHANGES_NO_ANSWER: dict[str, tuple[str, dict[str, Any]]] = {
    "keep_alive": (OLLAMA, {"keep_alive": "5m"}),
    "shift": (OLLAMA, {"shift": True}),
    "truncate": (OLLAMA, {"truncate": True}),
    "truncation": (RESPONSES, {"truncation": "auto"}),
    "a prediction": (CHAT, {"prediction": {"type": "content", "content": "x"}}),
    "a summary": (RESPONSES, {"reasoning": {"summary": "auto"}}),
    "more tokens than there is room for": (CHAT, {"max_tokens": 10**6}),
}

ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "edits that keep everything": (
        MESSAGES,
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
    ),
    "no thinking": (OLLAMA, {"think": False}),
    "a context that is large enough": (OLLAMA, {"options": {"num_ctx": 512, "num_predict": 2}}),
    "a form in another field": (CHAT, {"guided_choice": ["a", "b"]}),
    "no forms": (CHAT, {"guided_json": None, "structured_outputs": None, "functions": []}),
}


def message_of(answer: Any) -> str:
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(("path", "fields", "problem", "instead"), REFUSED.values(), ids=REFUSED)
def test_what_would_change_the_answer_is_refused_by_strict_servers_and_warned_of_by_others(
    server: Server, strict_server: Server, path: str, fields: dict[str, Any], problem: str, instead: str | None
) -> None:
    answer = server.post(BODIES[path] | fields, path)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.headers["x-galago-warnings"]) == answer.json()["warnings"]
    (warning,) = (text for text in answer.json()["warnings"] if problem in text)
    assert instead is None or instead in warning
    refused = strict_server.post(BODIES[path] | fields, path)
    message = message_of(refused)
    assert refused.status_code == 400 and problem in message and message.endswith("; --strict refuses it"), message
    assert instead is None or instead not in message


@pytest.mark.parametrize(("path", "fields"), CHANGES_NO_ANSWER.values(), ids=CHANGES_NO_ANSWER)
def test_strict_servers_only_warn_of_what_changes_no_answer(
    strict_server: Server, path: str, fields: dict[str, Any]
) -> None:
    answer = strict_server.post(BODIES[path] | fields, path)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["warnings"]) == 1


@pytest.mark.parametrize(("path", "fields"), ACCEPTED.values(), ids=ACCEPTED)
def test_strict_servers_accept_what_is_done_as_asked(strict_server: Server, path: str, fields: dict[str, Any]) -> None:
    answer = strict_server.post(BODIES[path] | fields, path)
    assert answer.status_code == 200, answer.text
    assert "warnings" not in answer.json()
