"""Settings in the forms of other programs' clients: taken as they are meant, or ignored with a warning."""

from __future__ import annotations

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
}
OPENAI = ("/v1/chat/completions", "/v1/completions")
ALL = tuple(BODIES)
LIMITS = {"/v1/responses": "max_output_tokens", "/api/chat": "num_predict"}
"""The name of `max_tokens` where it has another one."""

CASES: list[tuple[str, Any, tuple[str, ...], str | None]] = [
    # field, value, paths, part of the warning
    ("max_tokens", -1, ALL, None),
    ("max_tokens", -2, ALL, None),
    ("max_tokens", 0, OPENAI, None),
    ("max_tokens", 2.0, ALL, None),
    ("max_tokens", "2", ALL, "read as 2"),
    ("max_tokens", 1_000_000, ALL, "lowered"),
    ("max_tokens", 2**70, OPENAI, "max_tokens is"),
    ("temperature", "0.7", ALL, "read as 0.7"),
    ("temperature", "", ALL, "read as null"),
    ("temperature", 101, ALL, "100 is used"),
    ("temperature", -1, ALL, "0 is used"),
    ("top_p", 0, ALL, None),
    ("top_p", 1.1, ALL, "1 is used"),
    ("top_k", 40.0, (*OPENAI, "/v1/messages", "/api/chat"), None),
    ("top_k", -1, (*OPENAI, "/v1/messages", "/api/chat"), None),
    ("min_p", 2, (*OPENAI, "/api/chat"), "1 is used"),
    ("seed", 42.0, (*OPENAI, "/api/chat"), None),
    ("seed", -1, (*OPENAI, "/api/chat"), None),
    ("seed", "42", (*OPENAI, "/api/chat"), "read as 42"),
    ("seed", 2**64 - 1, (*OPENAI, "/api/chat"), None),
    ("repeat_penalty", 0, (*OPENAI, "/api/chat"), None),
    ("presence_penalty", -3, (*OPENAI, "/api/chat"), "-2 is used"),
    ("frequency_penalty", 2.5, (*OPENAI, "/api/chat"), "2 is used"),
    ("stop", [f"\nname{i}:" for i in range(100)], (*OPENAI, "/api/chat"), None),
    ("stop", "", (*OPENAI, "/api/chat"), "empty text"),
    ("stop", ["", "x"], (*OPENAI, "/api/chat"), "empty text"),
    ("stop", None, (*OPENAI, "/api/chat"), None),
    ("stream", "false", ALL, "read as false"),
    ("stream", 0, ALL, "read as false"),
    ("n", 1.0, OPENAI, None),
    ("n", 0, OPENAI, "n is 0"),
    ("logit_bias", {"5": 101}, OPENAI, "100.0 is used"),
    ("logit_bias", {"5": "1"}, OPENAI, "read as 1"),
    ("stream_options", {"include_usage": True, "include_obfuscation": False}, OPENAI, None),
    ("repetition_penalty", 1.05, OPENAI, None),
    ("min_tokens", 1, OPENAI, None),
    ("min_tokens", 0.0, OPENAI, None),
    ("stop_token_ids", [2.0, 2**30], OPENAI, None),
    ("stop_token_ids", None, OPENAI, None),
    ("logit_bias", [[5, 1], [6, False]], OPENAI, None),
    ("n_predict", 1, OPENAI, "the same meaning"),
    ("logprobs", True, ("/v1/completions",), None),
    ("xtc_probability", 0.5, OPENAI, "xtc_probability is not supported"),
    ("dry_multiplier", 0.8, OPENAI, "dry_multiplier is not supported"),
    ("samplers", ["top_k", "temperature"], OPENAI, "samplers is not supported"),
    ("mirostat", 1, OPENAI, "mirostat is not supported"),
    ("typical_p", 0.7, OPENAI, "typical_p is not supported"),
    ("tfs_z", 0.5, OPENAI, "tfs_z is not supported"),
    ("repeat_last_n", -1, OPENAI, "repeat_last_n is not supported"),
    ("service_tier", "priority", OPENAI, None),
    ("user", 5, OPENAI, None),
    ("metadata", {"a": {"b": 1}}, OPENAI, None),
    ("modalities", ["text", "audio"], OPENAI[:1], "modalities is not supported"),
    ("audio", {"voice": "alloy", "format": "wav"}, OPENAI[:1], "audio is not supported"),
    ("prediction", {"type": "content", "content": "x"}, OPENAI[:1], "prediction has no effect"),
    ("web_search_options", {}, OPENAI[:1], "web_search_options is not supported"),
    ("verbosity", "low", OPENAI[:1], "verbosity is not supported"),
    ("store", True, OPENAI[:1], "store is not supported"),
    ("top_logprobs", 2, OPENAI[:1], "top_logprobs has no effect"),
    ("max_completion_tokens", 1, OPENAI[:1], "the smaller one is used"),
    ("max_completion_tokens", -1, OPENAI[:1], None),
]


CHANGES_NO_ANSWER = ("lowered", "prediction has no effect")
"""Warnings that stay warnings in strict mode."""


def body_with(path: str, field: str, value: Any) -> dict[str, Any]:
    body = BODIES[path]
    if field == "max_tokens":
        field = LIMITS.get(path, field)
    if path == "/api/chat" and field != "stream":
        return body | {"options": body["options"] | {field: value}}
    return body | {field: value}


@pytest.mark.parametrize(
    ("field", "value", "paths", "warning"), CASES, ids=[f"{field}={str(value)[:20]}" for field, value, _, _ in CASES]
)
def test_a_setting_is_taken_as_meant_or_ignored_with_a_warning_that_strict_mode_makes_an_error(
    server: Server, strict_server: Server, field: str, value: Any, paths: tuple[str, ...], warning: str | None
) -> None:
    for path in paths:
        body = body_with(path, field, value)
        answer = server.post(body, path)
        assert answer.status_code == 200, (path, answer.text)
        warnings = answer.json().get("warnings", [])
        strict = strict_server.post(body, path)
        if warning is None:
            assert not warnings, path
            assert strict.status_code == 200, (path, strict.text)
        else:
            assert any(warning in text for text in warnings), (path, warnings)
            assert warning in CHANGES_NO_ANSWER or strict.status_code == 400, (path, strict.text)


def test_logprobs_beyond_the_limit_are_lowered(server: Server) -> None:
    answer = server.ask("Hi", logprobs=True, top_logprobs=25, max_tokens=1).json()
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 20
    assert "20 is used" in answer["warnings"][0]


def test_an_answer_has_at_least_min_tokens_and_ends_at_stop_token_ids(server: Server) -> None:
    def ask(**fields: Any) -> Any:
        return server.ask("Opposite of big?", **fields).json()

    natural = ask(max_tokens=50)
    count = natural["usage"]["completion_tokens"]
    assert natural["choices"][0]["finish_reason"] == "stop" and count < 40
    longer = ask(max_tokens=50, min_tokens=count + 5)
    assert longer["usage"]["completion_tokens"] >= count + 5
    text = natural["choices"][0]["message"]["content"]
    tokens = server.post({"content": text}, "/v1/tokenize").json()["tokens"]
    stopped = ask(max_tokens=50, stop_token_ids=tokens[-1:])
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert (
        text.startswith(stopped["choices"][0]["message"]["content"])
        and text != stopped["choices"][0]["message"]["content"]
    )
    constrained = ask(regex="[ab]", min_tokens=5, max_tokens=9)
    assert constrained["choices"][0]["message"]["content"] in "ab" and "min_tokens" in constrained["warnings"][0]


def test_no_tokens_can_be_asked_for(server: Server) -> None:
    answer = server.ask("Hi", max_tokens=0).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["usage"]["completion_tokens"] == 0 < answer["usage"]["prompt_tokens"]


def test_a_header_of_many_warnings_stays_small(server: Server) -> None:
    answer = server.ask("Hi", max_tokens=1, **{"x" * 190 + str(i): 1 for i in range(30)})
    assert len(answer.headers["x-galago-warnings"]) < 5000
    assert "more warnings are in the answer's body" in answer.headers["x-galago-warnings"]
    assert len(answer.json()["warnings"]) > 20
