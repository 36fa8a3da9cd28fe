"""What clients of Ollama's API send beyond the documented form is answered as its plain form is."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.request_cases import Api, Case
from fakes.server import DATA, Server
from galago.runtime.server.ollama import convert, schema

PNG = base64.b64encode((DATA / "picture-5.png").read_bytes()).decode()
URI = f"data:image/png;base64,{PNG}"
BYTES = list(base64.b64decode(PNG))
NUMBERED = {str(i): byte for i, byte in enumerate(BYTES)}
BUFFER = {"type": "Buffer", "data": BYTES}
PART = {"type": "image_url", "image_url": {"url": URI}}
SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
SHORT = {"num_predict": 1}
HI = {"role": "user", "content": "Hi"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": CITY}}
CHAT = Api(
    "/api/chat",
    {"model": "builtin", "stream": False, "messages": [HI], "options": SHORT},
    lambda answer: int(answer["prompt_eval_count"]),
    schema.ChatRequest,
    convert.to_request,
)
GENERATE = Api(
    "/api/generate",
    {"model": "builtin", "stream": False, "prompt": "Hi", "options": SHORT},
    CHAT.prompt_tokens,
    schema.GenerateRequest,
    convert.to_request,
)
MANUAL: dict[str, Any] = {
    "num_keep": 5, "seed": 42, "num_predict": 1, "top_k": 20, "top_p": 0.9, "min_p": 0.0, "typical_p": 0.7,
    "repeat_last_n": 33, "temperature": 0.8, "repeat_penalty": 1.2, "presence_penalty": 1.5, "frequency_penalty": 1.0,
    "penalize_newline": True, "stop": ["\n", "user:"], "numa": False, "num_ctx": 1024, "num_batch": 2, "num_gpu": 1,
    "main_gpu": 0, "use_mmap": True, "num_thread": 8,
}  # fmt: skip
"""The options of the example in Ollama's manual that sets all of them."""


def options(**changes: Any) -> dict[str, Any]:
    return {"options": SHORT | changes}


def told(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [HI, *messages]}


def used(*, role: str = "tool", function: Any = None, **result: Any) -> dict[str, Any]:
    """A conversation with a call and its result."""
    called = {"name": "get_weather", "arguments": {"city": "Bern"}} if function is None else function
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": called}]}
    return told(call, {"role": role, "content": "sunny", **result})


CASES = [
    Case("all options of the manual", {"options": MANUAL}, None, "options.repeat_last_n, options.typical_p"),
    Case("options that are set at load", options(num_gpu=1, low_vram=True, f16_kv=True), None, "--gpu-layers`"),
    Case("memory locked", options(use_mlock=True, vocab_only=False), None, "vocab_only"),
    Case("mirostat", options(mirostat=2, mirostat_tau=5.0, mirostat_eta=0.1), None, "options.mirostat"),
    Case("mirostat switched off", options(mirostat=0, typical_p=1.0, tfs_z=1.0, repeat_last_n=64)),
    Case("a tail-free sampler", options(tfs_z=0.5), None, "options.tfs_z"),
    Case("penalties on newlines or none", options(penalize_newline=False)),
    Case("options of null", options(seed=None, top_k=None, stop=None, mirostat=None)),
    Case("an unknown option", options(colour="red"), None, "options.colour is unknown"),
    Case("a top_k of -1", options(top_k=-1)),
    Case("a seed of -1", options(seed=-1)),
    Case("whole numbers with a point", options(top_k=40.0, seed=42.0)),
    Case("20 stop strings", options(stop=[f"\nname{i}:" for i in range(20)])),
    Case("a stop string", options(stop="user:")),
    Case("an empty stop string", options(stop=["", None, "user:"]), None, "empty text"),
    Case("no format", {"format": ""}),
    Case("a format of null", {"format": None}),
    Case("any format", {"format": {}}),
    Case("JSON in capitals", {"format": "JSON"}),
    Case("no format at all", {"format": False}),
    Case("a format of OpenAI's API", {"format": {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}}),
    Case("any object, as OpenAI's API asks for it", {"format": {"type": "json_object"}}),
    Case("a format of nothing", {"format": []}),
    Case("a schema as a text", {"format": '{"type": "object"}'}, {"format": {"type": "object"}}, "the JSON in it"),
    Case("any object in words", {"format": "json_object"}, {"format": "json"}),
    Case("a temperature next to the options", {"temperature": 0.5, "max_tokens": 1, "stop": ["x"], "seed": None}),
    Case("a limit of OpenAI's API", {"options": {"max_tokens": 1, "repetition_penalty": 1.1}}),
    Case("two limits", {"max_tokens": 2}, None, "max_tokens and options.num_predict"),
    Case("a temperature in words next to the options", {"temperature": "hot"}, None, "options.temperature is 'hot'"),
    Case("options that are none", {"options": 5, "num_predict": 1}, None, "options is 5"),
    Case("a true temperature", options(temperature=True), None, "options.temperature is true"),
    Case("a stop string that is a number", options(stop=[5]), None, "options.stop[0] is 5"),
    Case("likely tokens beyond the limit", {"logprobs": True, "top_logprobs": 25}, None, "20 is used"),
    Case("options of nothing", {"options": None, "keep_alive": None}),
    Case("a tool of null", {"tools": [None, WEATHER]}, {"tools": [WEATHER]}, "tools[0]"),
    Case("thinking as a number", {"think": 0}),
    Case("thinking or not", {"think": False}),
    Case("thinking of null", {"think": None}),
    Case("thinking as a text", {"think": "false"}),
    Case("thinking not at all", {"think": "none"}),
    Case("thinking in other words", {"think": "heroically"}, None, "heroically"),
    Case("to stay loaded", {"keep_alive": -1}),
    Case("to stay loaded for a while", {"keep_alive": "5m"}, None, "keep_alive", True),
    Case("to be unloaded", {"keep_alive": 0}, None, "keep_alive", True),
    Case("a prompt that may be cut", {"truncate": True, "shift": True}, None, "truncate", True),
    Case("likely tokens without logprobs", {"top_logprobs": 2}, None, "top_logprobs"),
    Case("an unknown field", {"colour": "red"}, None, "colour is unknown"),
    Case("a picture of null", told(HI | {"images": [None]}), told(HI), "empty image"),
    Case("pictures of null", told(HI | {"images": None}), told(HI)),
    Case("a picture as a data URI", told(HI | {"images": [URI]}), told(HI | {"images": [PNG]})),
    Case("a picture as bytes", told(HI | {"images": [BYTES]}), told(HI | {"images": [PNG]})),
    Case("a picture as bytes that is no list", told(HI | {"images": BYTES}), told(HI | {"images": [PNG]})),
    Case("a picture as numbered bytes", told(HI | {"images": [NUMBERED]}), told(HI | {"images": [PNG]})),
    Case("a picture as a buffer", told(HI | {"images": [BUFFER]}), told(HI | {"images": [PNG]})),
    Case("a picture as a part", told(HI | {"images": [PART]}), told(HI | {"images": [PNG]})),
    Case("a picture as a part of Anthropic's API", told(HI | {"images": [SOURCE]}), told(HI | {"images": [PNG]})),
    Case("a picture as an object", told(HI | {"images": [{"data": PNG}]}), told(HI | {"images": [PNG]})),
    Case("a picture that is none", told(HI | {"images": [True]}), told(HI), "images[0] is not an image"),
    Case("a picture that is no list", told(HI | {"images": PNG}), told(HI | {"images": [PNG]})),
    Case(
        "content as parts",
        told(HI | {"content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": URI}}]}),
        told(HI | {"images": [PNG]}),
    ),
    Case("content of null", told({"role": "assistant", "content": None}, HI), told({"role": "assistant"}, HI)),
    Case("a developer", told({"role": "developer", "content": "x"}), told({"role": "system", "content": "x"})),
    Case("a function's message", used(role="function", name="get_weather"), used(tool_name="get_weather")),
    Case("a named result", used(name="get_weather"), used()),
    Case("arguments as a text", used(function={"name": "get_weather", "arguments": '{"city": "Bern"}'}), used()),
    Case(
        "arguments of null",
        used(function={"name": "get_weather", "arguments": None}),
        used(function={"name": "get_weather", "arguments": {}}),
    ),
    Case(
        "a call with an index",
        used(function={"name": "get_weather", "arguments": {"city": "Bern"}, "index": 0}),
        used(),
    ),
    Case(
        "calls of null",
        told({"role": "assistant", "content": "x", "tool_calls": None, "thinking": None}, HI),
        told({"role": "assistant", "content": "x"}, HI),
    ),
    Case("tools of null", {"tools": None}),
    Case("a tool without a type", {"tools": [{"function": WEATHER["function"]}]}, {"tools": [WEATHER]}),
    Case("a tool that is a function itself", {"tools": [WEATHER["function"]]}, {"tools": [WEATHER]}),
    Case("a search", {"tools": [{"type": "web_search"}, WEATHER]}, {"tools": [WEATHER]}, "tools[0] has the type"),
    Case(
        "a function without parameters",
        {"tools": [{"type": "function", "function": {"name": "now", "parameters": None}}]},
        {"tools": [{"type": "function", "function": {"name": "now"}}]},
    ),
]  # fmt: skip
"""Requests to `/api/chat`."""

PROMPTS = [
    Case("all options of the manual", {"options": MANUAL}, None, "options.repeat_last_n, options.typical_p"),
    Case("a template", {"template": "{{ .Prompt }}"}, None, "template"),
    Case("no template", {"template": "", "system": "", "context": [], "suffix": "", "raw": False}),
    Case("tokens of an earlier answer", {"context": [1, 2, 3]}, None, "context"),
    Case("a system message", {"system": "Be brief."}, {"system": "Be brief.", "raw": False}),
    Case("a system message without a template", {"system": "x", "raw": True}, {"raw": True}, "system has no place"),
    Case("a system message in parts", {"system": [{"type": "text", "text": "x"}]}, {"system": "x"}, "system is"),
    Case("a system message of nothing", {"system": False}, None, "system is false"),
    Case("a prompt that is a number", {"prompt": 5}, {"prompt": "5"}, "prompt is 5"),
    Case("pictures as bytes", {"images": [BYTES]}, {"images": [PNG]}),
    Case("a temperature next to the options", {"temperature": 0.5, "max_tokens": 1}),
    Case("null for everything", {"template": None, "system": None, "context": None, "suffix": None, "raw": None}),
    Case("no options", {"options": None}),
    Case("pictures of null", {"images": [None]}, None, "empty image"),
    Case("a picture as a data URI", {"images": [URI]}, {"images": [PNG]}),
    Case("no format", {"format": ""}),
    Case("JSON", {"format": "json"}),
    Case("a size of nothing", {"width": 0, "height": 0, "steps": 0}),
    Case("20 stop strings", options(stop=[f"\nname{i}:" for i in range(20)])),
    Case("an unlimited answer", options(num_predict=-1)),
    Case("an answer that fills the context", options(num_predict=-2)),
    Case("an answer of any length", options(num_predict=0)),
    Case("an answer beyond all limits", options(num_predict=2**40), None, "options.num_predict"),
]
"""Requests to `/api/generate`."""


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_chat_is_answered_as_its_plain_form_is(client: httpx.Client, case: Case) -> None:
    CHAT.check(case, client)


@pytest.mark.parametrize("case", PROMPTS, ids=[case.name for case in PROMPTS])
def test_a_prompt_is_answered_as_its_plain_form_is(client: httpx.Client, case: Case) -> None:
    GENERATE.check(case, client)


def test_options_without_effect_are_named_in_one_warning_each(client: httpx.Client) -> None:
    warnings = client.post(CHAT.path, json=CHAT.default | {"options": MANUAL}).json()["warnings"]
    assert len(warnings) == 2 and "num_keep" in warnings[1] and "num_thread" in warnings[1]


def test_a_stream_of_null_is_a_stream(client: httpx.Client) -> None:
    answer = client.post(CHAT.path, json=CHAT.default | {"stream": None})
    assert answer.headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize("texts", [{}, {"input": None}, {"input": []}, {"input": [None]}, {"prompt": ""}])
def test_no_text_to_embed_only_loads_the_model(client: httpx.Client, texts: dict[str, Any]) -> None:
    answer = client.post("/api/embed", json={"model": "builtin", "dimensions": 0} | texts)
    assert answer.status_code == 200 and answer.json()["embeddings"] == []
