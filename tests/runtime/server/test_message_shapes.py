"""Messages and fields in the forms that clients and frameworks send."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.server import Server

ASK = {"role": "user", "content": "Opposite of big?"}
CALLED: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "ok"}
FUNCTION: dict[str, Any] = {
    "name": "f",
    "description": "Does it.",
    "parameters": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "f",
        "type": "object",
        "properties": {"a": {"title": "A", "type": "integer", "default": 1}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "strict": True,
}

HISTORIES: dict[str, list[dict[str, Any]]] = {
    "openai's own dump of a message": [
        {"role": "assistant", "content": "Small.", "refusal": None, "annotations": [], "audio": None,
         "function_call": None, "tool_calls": None},
    ],
    "openai's own dump of a call": [
        {"role": "assistant", "content": None, "refusal": None, "annotations": None, "function_call": None,
         "tool_calls": [{**CALLED, "function": {**CALLED["function"], "parsed_arguments": {"a": 1}}}]},
        RESULT,
    ],
    "a refusal as a part": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
    "langchain": [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "call_1",
                                                             "function": CALLED["function"]}]},
        {**RESULT, "content": [{"type": "text", "text": "ok"}]},
    ],
    "vercel's ai": [
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [CALLED]},
        RESULT,
    ],
    "pydantic-ai": [
        {"role": "assistant", "tool_calls": [CALLED]},
        {**RESULT, "content": "1 validation error, fix it and try again"},
    ],
    "instructor": [
        {"role": "assistant", "content": None, "tool_calls": [CALLED]},
        {**RESULT, "name": "f", "content": "Validation Error found:\n1\nRecall the function correctly, fix the errors"},
    ],
    "litellm": [
        {"role": "assistant", "content": None, "tool_calls": [{**CALLED, "index": 0}], "function_call": None,
         "provider_specific_fields": {"x": 1}, "reasoning_content": "Hm."},
        RESULT,
    ],
    "aider": [
        {"role": "assistant", "content": [{"type": "text", "text": "Ok.", "cache_control": {"type": "ephemeral"}}]},
    ],
    "openrouter and vllm": [{"role": "assistant", "content": "Small.", "reasoning": "Hm."}],
    "no content at all": [{"role": "assistant"}, {"role": "assistant", "content": []}],
    "a call without arguments": [
        {"role": "assistant", "tool_calls": [{**CALLED, "function": {"name": "f", "arguments": ""}}]},
        RESULT,
    ],
    "a result that was lost": [{"role": "assistant", "content": None, "tool_calls": [CALLED]}],
    "a result of nobody's call": [{**RESULT, "tool_call_id": "call_7"}],
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_messages_that_clients_send_back_cause_no_warning(server: Server, history: list[dict[str, Any]]) -> None:
    """Except that the built-in model's chat template shows no reasoning."""
    for tools in ([{"type": "function", "function": FUNCTION}], None):
        answer = server.post({"messages": [ASK, *history, ASK], "tools": tools, "max_tokens": 4})
        assert answer.status_code == 200, answer.text
        warnings = answer.json().get("warnings", [])
        assert ["reasoning" in warning for warning in warnings] == [True] * ("Hm." in str(history))


def test_messages_that_clients_send_back_are_shown_to_the_model(server: Server) -> None:
    def tokens(message: dict[str, Any]) -> int:
        answer = server.post({"messages": [ASK, message, ASK], "max_tokens": 1})
        return int(answer.json()["usage"]["prompt_tokens"])

    expected = tokens({"role": "assistant", "content": "I will not do it."})
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not do it."}]}
    assert tokens(refused) == expected > tokens({"role": "assistant", "content": ""})


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "auto"},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"tools": None, "tool_choice": None, "response_format": None, "stop": None, "n": None, "logit_bias": None},
        {"stream_options": {"include_usage": True}},
        {"stream": False, "stream_options": None, "logprobs": False, "top_logprobs": 0},
        {"temperature": 2, "top_p": 0, "seed": -1, "max_tokens": None, "max_completion_tokens": 4},
        {"store": False, "metadata": {}, "user": "", "service_tier": "default", "prompt_cache_key": "x"},
        {"modalities": ["text"], "audio": None, "prediction": None, "web_search_options": None},
        {"response_format": {"type": "text"}, "stop": [], "logit_bias": {}, "chat_template_kwargs": {}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "strict": None}}]},
        {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "auto", "parallel_tool_calls": False},
    ],
)
def test_fields_that_ask_for_nothing_cause_no_warning(server: Server, fields: dict[str, Any]) -> None:
    answer = server.post({"messages": [ASK], "max_tokens": 4} | fields)
    assert answer.status_code == 200, answer.text
    assert "warnings" not in answer.json()


def test_a_name_that_the_template_does_not_use_causes_a_warning(server: Server) -> None:
    warnings = server.post({"messages": [{**ASK, "name": "Ada"}], "max_tokens": 1}).json()["warnings"]
    assert len(warnings) == 1 and "names" in warnings[0]


def test_unknown_template_variables_cause_a_warning_and_reserved_ones_an_error(server: Server) -> None:
    answer = server.ask("Hi", chat_template_kwargs={"colour": False}, max_tokens=1).json()
    assert "'colour'" in answer["warnings"][0]
    refused = server.ask("Hi", chat_template_kwargs={"messages": []})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template_kwargs")
