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
TOOLS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
WITH_STOP = (*OPENAI, "/v1/responses", "/api/chat")
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
    ("max_tokens", 2.5, ALL, "2 is used"),
    ("max_tokens", 0.5, ALL, "1 is used"),
    ("max_tokens", -5, ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"), "it is ignored"),
    ("max_tokens", True, ALL, "it is ignored"),
    ("max_tokens", [2], ALL, "it is ignored"),
    ("min_tokens", -1, OPENAI, "it is ignored"),
    ("temperature", True, ALL, "temperature is true; it must be a number"),
    ("temperature", "hot", ALL, "it is ignored"),
    ("top_p", {}, ALL, "it is read as null"),
    ("top_k", 40.5, ALL, "40 is used"),
    ("top_k", "many", ALL, "it is ignored"),
    ("seed", 0.5, WITH_STOP, "1 is used"),
    ("seed", -1.5, WITH_STOP, "-1 is used"),
    ("seed", 42, ("/v1/responses",), None),
    ("top_k", 40, ("/v1/responses",), None),
    ("min_p", 0.1, ("/v1/responses",), None),
    ("stop", "x", ("/v1/responses",), None),
    ("stop", [None], (*OPENAI, "/v1/responses"), "stop[0] is null; it must be a text; it is ignored"),
    ("stop", ["x", None, True], (*OPENAI, "/v1/responses"), "it is ignored"),
    ("stop", 5, WITH_STOP, "it is read as one"),
    ("stop", [5, "x"], WITH_STOP, "it is read as one"),
    ("stop", {"a": 1}, WITH_STOP, "it is ignored"),
    ("stop_sequences", 5, ("/v1/messages",), "it is read as one"),
    ("stop_sequences", [True, "x"], ("/v1/messages",), "it is ignored"),
    ("stop_token_ids", 5, OPENAI, "it is read as one"),
    ("stop_token_ids", [-1, "x", 5], OPENAI, "it is ignored"),
    ("n", -1, OPENAI, "n is -1"),
    ("n", 1.5, OPENAI, "1 is used"),
    ("n", "one", OPENAI, "it is ignored"),
    ("stream", "no", ALL, "read as false"),
    ("logit_bias", {"100000000": 1}, OPENAI, "logit_bias names token 100000000"),
    ("logit_bias", {"99999999999": 1, "5": 1}, OPENAI, "is not a token id"),
    ("logit_bias", {"hello": 1}, OPENAI, "is not a token id"),
    ("logit_bias", {"-5": 1}, OPENAI, "is not a token id"),
    ("logit_bias", {"5": "x", "6": 1}, OPENAI, "it is ignored"),
    ("logit_bias", "x", OPENAI, "it is ignored"),
    ("logprobs", "x", OPENAI, "it is ignored"),
    ("timeout", "x", OPENAI, "it is ignored"),
    ("response_format", "", OPENAI, "the answer is text"),
    ("response_format", [], OPENAI, "the answer is text"),
    ("response_format", False, OPENAI, "the answer is text"),
    ("response_format", "auto", OPENAI, "the answer is text"),
    ("response_format", {"type": ""}, OPENAI, "the answer is text"),
    ("response_format", {"type": "TEXT"}, OPENAI, None),
    ("stream_options", {"include_usage": "x"}, OPENAI, "it is ignored"),
    ("parallel_tool_calls", "x", ("/v1/chat/completions", "/v1/responses"), "it is ignored"),
    ("modalities", ["audio"], OPENAI[:1], "modalities is not supported"),
    ("grammar", False, OPENAI, "it is read as null"),
    ("regex", [], OPENAI, "it is read as null"),
    ("lora", {}, OPENAI, "it is read as null"),
    ("stop", False, WITH_STOP, "it is read as null"),
    ("stream", [], ALL[:4], "it is read as null"),
    ("output_config", "", ("/v1/messages",), "it is read as null"),
    ("text", [], ("/v1/responses",), "it is read as null"),
    ("top_logprobs", -1, ("/v1/responses",), "it is ignored"),
    ("top_logprobs", 25, ("/v1/responses",), "20 is used"),
    ("tools", "auto", TOOLS, "tools is"),
    ("tools", 5, TOOLS, "tools is 5, not a list"),
    ("tool_choice", "", TOOLS, "the model decides"),
    ("tool_choice", {}, TOOLS, "the model decides"),
    ("tool_choice", False, TOOLS, "the model decides"),
    ("tool_choice", "Auto", TOOLS, None),
    ("include", "text", ("/v1/responses",), "include is"),
    ("include", 5, ("/v1/responses",), "it is ignored"),
    ("truncation", "x", ("/v1/responses",), "truncation is 'x'"),
    ("metadata", "x", ("/v1/responses",), "it is ignored"),
    ("instructions", ["Be ", "brief."], ("/v1/responses",), "instructions is"),
    (
        "instructions",
        [{"type": "message", "content": [{"type": "input_text", "text": "x"}]}],
        ("/v1/responses",),
        "instructions is",
    ),
    ("instructions", {"text": "x"}, ("/v1/responses",), "instructions is"),
    ("instructions", 5, ("/v1/responses",), "instructions is"),
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


EFFORTS: list[tuple[Any, str | None]] = [
    # the value, part of the warning
    ("", "it is read as null"),
    ("default", "it is ignored"),
    ("auto", "it is ignored"),
    ("heroic", "it is ignored"),
    (5, "is 5; use"),
    ([], "it is read as null"),
    ("None", None),
    ("off", None),
    (False, None),
    ("high", "has no effect"),
    ("High", "has no effect"),
    (True, "has no effect"),
]
EFFORT_FIELDS: dict[str, list[str]] = {
    "/v1/chat/completions": ["reasoning_effort", "reasoning.effort", "think", "thinking.type", "enable_thinking"],
    "/v1/responses": ["reasoning.effort"],
    "/v1/messages": ["output_config.effort", "thinking.type", "thinking"],
    "/api/chat": ["think"],
}


def nested(field: str, value: Any) -> dict[str, Any]:
    name, _, inner = field.partition(".")
    return {name: nested(inner, value) if inner else value}


@pytest.mark.parametrize("path", EFFORT_FIELDS)
@pytest.mark.parametrize(("effort", "warning"), EFFORTS, ids=[str(effort) for effort, _ in EFFORTS])
def test_an_effort_in_other_words_is_mapped_or_ignored_with_a_warning(
    server: Server, strict_server: Server, path: str, effort: Any, warning: str | None
) -> None:
    """The built-in model cannot reason: only no effort at all has the effect that it asks for."""
    for field in EFFORT_FIELDS[path]:
        body = BODIES[path] | nested(field, effort)
        answer, strict = server.post(body, path), strict_server.post(body, path)
        assert answer.status_code == 200, (field, answer.text)
        warnings = answer.json().get("warnings", [])
        if warning is None:
            assert (warnings, strict.status_code) == ([], 200), (field, warnings)
        else:
            assert len(warnings) == 1 and strict.status_code == 400, (field, warnings)
            assert warning in warnings[0] or field.partition(".")[0] in ("thinking", "reasoning"), (field, warnings)


TEMPLATE_SWITCHES: list[tuple[str, Any, str | None]] = [
    ("enable_thinking", False, None),
    ("thinking", False, None),
    ("enable_thinking", True, "chat_template_kwargs.enable_thinking has no effect"),
    ("thinking", True, "chat_template_kwargs.thinking has no effect"),
    ("enable_thinking", "x", "no variable 'enable_thinking'"),
    ("colour", True, "no variable 'colour'"),
]


@pytest.mark.parametrize(("variable", "value", "warning"), TEMPLATE_SWITCHES)
def test_a_variable_that_switches_reasoning_in_other_templates_is_an_effort(
    server: Server, variable: str, value: Any, warning: str | None
) -> None:
    warnings = server.ask("Hi", chat_template_kwargs={variable: value}, max_tokens=1).json().get("warnings", [])
    assert [warning is not None and warning in text for text in warnings] == [True] * (warning is not None)


def test_two_switches_of_reasoning_that_differ_cause_a_warning(server: Server) -> None:
    thinking = {"type": "enabled", "budget_tokens": 9, "display": None}
    answer = server.ask("Hi", reasoning_effort="none", think=True, thinking=thinking, max_tokens=1)
    assert [warning.partition(" ha")[0] for warning in answer.json()["warnings"]] == [
        "reasoning_effort and think", "reasoning_effort and thinking", "thinking.budget_tokens",
    ]  # fmt: skip


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
