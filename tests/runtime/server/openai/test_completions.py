"""Prompts without a chat template, with OpenAI's client; tokenizing and detokenizing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.server import DATA, Server, image_part, text_part
from fakes.waiting import wait_until
from galago.runtime import LocalModel
from galago.runtime.inference.generator import Generator
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.prompt.completion import CompletionPrompts
from galago.runtime.types.request import CompletionPrompt

CHAT = [{"role": "user", "content": "Opposite of big?"}]


def engine(model: LocalModel) -> Generator:
    loaded = cast(Any, model._service)._given[0].loaded
    assert isinstance(loaded, Generator)
    return loaded


def prompt_of(server: Server) -> list[int]:
    """The tokens of a chat's prompt."""
    tokens = server.post({"messages": CHAT}, "/v1/tokenize").json()["tokens"]
    assert tokens
    return list(tokens)


def spelled(server: Server, tokens: list[int]) -> str:
    return str(server.post({"tokens": tokens}, "/v1/detokenize").json()["content"])


def test_a_hand_written_prompt_is_answered_like_the_equal_chat(server: Server, client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="builtin", messages=CHAT, temperature=0)  # type: ignore[arg-type]
    tokens = prompt_of(server)
    for prompt in (tokens, spelled(server, tokens)):
        answer = client.completions.create(model="builtin", prompt=prompt, temperature=0)
        assert answer.choices[0].text == chat.choices[0].message.content
        assert answer.choices[0].finish_reason == chat.choices[0].finish_reason
        assert answer.usage and chat.usage and answer.usage.prompt_tokens == chat.usage.prompt_tokens
        assert answer.object == "text_completion"


def test_a_stream_has_the_same_text_and_ends_with_usage(server: Server, client: openai.OpenAI) -> None:
    prompt = prompt_of(server)
    options: Any = {"model": "builtin", "prompt": prompt, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage and whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_choices_are_numbered_across_prompts(client: openai.OpenAI) -> None:
    prompts = ["one", "two two"]
    options: Any = {"model": "builtin", "prompt": prompts, "n": 2, "max_tokens": 4, "temperature": 1.5, "echo": True}
    options["extra_body"] = {"ignore_eos": True}
    both = client.completions.create(**options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    streamed = ["", "", "", ""]
    for chunk in client.completions.create(**options, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    for texts in (streamed, [choice.text for choice in both.choices]):
        for i, text in enumerate(texts):
            assert text.startswith(prompts[i // 2]) and len(text) > len(prompts[i // 2])


def test_usage_counts_each_prompt_once(server: Server, client: openai.OpenAI) -> None:
    lengths = [len(server.post({"content": t, "add_special": True}, "/v1/tokenize").json()["tokens"]) for t in "ab"]
    usage = client.completions.create(model="builtin", prompt=["a", "b"], n=3, max_tokens=2).usage
    assert usage and usage.prompt_tokens == sum(lengths)


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_before_the_answer(client: openai.OpenAI, server: Server, stream: bool) -> None:
    prompts: list[str] = ["one two", "three"]
    options: Any = {"model": "builtin", "prompt": prompts, "max_tokens": 3, "temperature": 0, "echo": True}
    plain = client.completions.create(**options | {"echo": False})
    if stream:
        texts = {0: "", 1: ""}
        for chunk in client.completions.create(**options, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        texts = {c.index: c.text for c in client.completions.create(**options).choices}
    assert texts == {i: prompts[i] + plain.choices[i].text for i in (0, 1)}
    tokens = server.post({"content": "one two"}, "/v1/tokenize").json()["tokens"]
    assert client.completions.create(**options | {"prompt": tokens}).choices[0].text.startswith("one two")


def test_logprobs_have_the_format_of_completions(server: Server, client: openai.OpenAI) -> None:
    prompt = prompt_of(server)
    answer = client.completions.create(model="builtin", prompt=prompt, max_tokens=4, temperature=0, logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs and logprobs.text_offset
    text = answer.choices[0].text
    for i, token in enumerate(logprobs.tokens):
        assert text[logprobs.text_offset[i] :].startswith(token)
        assert len(logprobs.top_logprobs[i]) == 3
        best = max(logprobs.top_logprobs[i].items(), key=lambda pair: pair[1])
        assert best[0] == token and best[1] == pytest.approx(logprobs.token_logprobs[i])
    none = client.completions.create(model="builtin", prompt=prompt, max_tokens=4, logprobs=0).choices[0].logprobs
    assert none and none.top_logprobs == [{}] * len(none.tokens or [])
    assert client.completions.create(model="builtin", prompt=prompt, max_tokens=1).choices[0].logprobs is None


def test_prompt_logprobs_equal_those_of_the_answer(server: Server, client: openai.OpenAI) -> None:
    """As lm-evaluation-harness needs it: the log-likelihood of a given text."""
    prompt = prompt_of(server)
    options: Any = {"model": "builtin", "max_tokens": 12, "temperature": 0, "logprobs": 2}
    completion = client.completions.create(prompt=prompt, **options).choices[0]
    answered = server.post({"content": completion.text}, "/v1/tokenize").json()["tokens"]
    echoed = client.completions.create(prompt=prompt + answered, echo=True, **options | {"max_tokens": 0})
    (choice,), logprobs = echoed.choices, echoed.choices[0].logprobs
    assert choice.text.endswith(completion.text) and choice.finish_reason == "length"
    assert echoed.usage and echoed.usage.completion_tokens == 0 and logprobs and completion.logprobs
    assert logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs and logprobs.text_offset
    assert "".join(logprobs.tokens) == choice.text and len(logprobs.tokens) == len(logprobs.token_logprobs)
    for offset, token in zip(logprobs.text_offset, logprobs.tokens, strict=True):
        assert choice.text[offset:].startswith(token)
    completion_tokens = len(completion.logprobs.tokens or [])
    assert logprobs.tokens[-completion_tokens:] == completion.logprobs.tokens and completion_tokens > 1
    assert logprobs.token_logprobs[-completion_tokens:] == pytest.approx(completion.logprobs.token_logprobs, abs=0.05)
    assert all(len(likeliest) == 2 for likeliest in logprobs.top_logprobs[1:])


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_given_token_has_no_logprob(server: Server, client: openai.OpenAI, stream: bool) -> None:
    ids = server.post({"content": "one two three four five six"}, "/v1/tokenize").json()["tokens"]
    options: Any = {"model": "builtin", "max_tokens": 3, "temperature": 0, "logprobs": 1, "echo": True}
    answer = client.completions.create(prompt=[ids, ids[:1]], **options)
    for choice, prompt_ids in zip(answer.choices, (ids, ids[:1]), strict=True):
        logprobs = choice.logprobs
        assert logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs
        assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
        assert None not in logprobs.token_logprobs[1:] and len(logprobs.tokens) > len(prompt_ids)
    if stream:
        tokens: dict[int, list[str]] = {0: [], 1: []}
        offsets: dict[int, list[int]] = {0: [], 1: []}
        for chunk in client.completions.create(prompt=[ids, ids[:1]], stream=True, **options):
            for part in chunk.choices:
                tokens[part.index] += part.logprobs.tokens or [] if part.logprobs else []
                offsets[part.index] += part.logprobs.text_offset or [] if part.logprobs else []
        assert tokens == {c.index: c.logprobs.tokens for c in answer.choices if c.logprobs}
        assert offsets == {c.index: c.logprobs.text_offset for c in answer.choices if c.logprobs}


def test_stop_grammar_and_bounds_work_as_in_a_chat(client: openai.OpenAI) -> None:
    forced: Any = {"regex": "[0-9]{3}x[0-9]{3}"}
    answer = client.completions.create(model="builtin", prompt="go", extra_body=forced)
    assert len(answer.choices[0].text) == 7 and answer.choices[0].finish_reason == "stop"
    stopped = client.completions.create(model="builtin", prompt="go", stop="x", extra_body=forced)
    assert stopped.choices[0].text.isdecimal() and len(stopped.choices[0].text) == 3
    limited = client.completions.create(model="builtin", prompt="go", max_tokens=1, extra_body=forced)
    assert limited.choices[0].finish_reason == "length"


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": ["a", [10**6]]}, "prompt[1]"),
    ({"prompt": ["a"] * 33}, "prompt"),
    ({"prompt": "a", "n": 33}, "n"),
    ({"prompt": "word " * 5000}, "prompt"),
    ({"prompt": "x" * 3_000_000}, "prompt"),
    ({"prompt": "a", "suffix": "b"}, "suffix"),
    ({"prompt": "a", "echo": True, "suffix": "b"}, "echo"),
    ({"prompt": "a", "best_of": 2}, "best_of"),
    ({"prompt": "a", "grammar": "start: other"}, "grammar"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=[str(c[0])[:40] for c in BAD])
def test_a_bad_request_is_refused_with_the_field_at_fault(server: Server, body: dict[str, Any], param: str) -> None:
    answer = server.post(body, "/v1/completions")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


def test_unknown_fields_cause_a_warning(server: Server) -> None:
    body = {"prompt": "a", "max_tokens": 1, "frobnicate": 1}
    answer = server.post(body, "/v1/completions")
    assert "frobnicate" in answer.json()["warnings"][0] and "x-galago-warnings" in answer.headers
    first = server.post(body | {"stream": True}, "/v1/completions").text.split("\n\n")[0]
    assert "frobnicate" in json.loads(first.removeprefix("data: "))["warnings"][0]
    harmless = {"user": "me", "best_of": 1, "echo": False, "suffix": None, "logprobs": None, "repetition_penalty": 1}
    assert "warnings" not in server.post({"prompt": "a", "max_tokens": 1} | harmless, "/v1/completions").json()


class Infilling(Weights):
    """The built-in model's vocabulary, with three tokens used as fill-in-the-middle tokens."""

    infill_tokens = (10, 11, 12)


def test_a_suffix_follows_the_filled_in_text(model: LocalModel) -> None:
    weights = engine(model)._weights
    plain = CompletionPrompts(weights, None, 100)
    first = [weights.bos] if weights.adds_bos else []
    weights.__class__ = Infilling
    try:
        prompt = plain.build(CompletionPrompt("ab", "<|im_end|>"))
    finally:
        weights.__class__ = Weights
    before, behind = (weights.tokenize(text, parse_special=False) for text in ("ab", "<|im_end|>"))
    assert prompt.items == (*first, 10, *before, 11, *behind, 12)
    assert len(behind) > 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40), st.booleans())
def test_tokenized_text_can_be_detokenized(server: Server, text: str, parse: bool) -> None:
    body = {"content": text, "with_pieces": True, "parse_special": parse}
    tokenized = server.post(body, "/v1/tokenize").json()
    data = b"".join(
        p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in tokenized["tokens"]
    )
    assert data.decode() == text
    assert tokenized["count"] == len(tokenized["tokens"])
    assert spelled(server, [p["id"] for p in tokenized["tokens"]]) == text


def test_control_tokens_are_parsed_by_default(server: Server) -> None:
    parsed = server.post({"content": "<|im_end|>"}, "/v1/tokenize").json()
    plain = server.post({"content": "<|im_end|>", "parse_special": False}, "/v1/tokenize").json()
    assert parsed["count"] == 1 < plain["count"]


def test_a_chat_has_as_many_tokens_as_its_prompt(server: Server) -> None:
    chat = [{"role": "system", "content": "Be brief."}, *CHAT]
    count = server.post({"messages": chat}, "/v1/tokenize").json()["count"]
    assert count == server.post({"messages": chat, "max_tokens": 1}).json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "content"),
        ("tokenize", {"content": "a", "messages": CHAT}, "content"),
        ("tokenize", {"content": 5}, "content"),
        ("tokenize", {"messages": CHAT, "add_special": True}, "add_special"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("detokenize", {"tokens": [1, 2**40]}, "tokens[1]"),
        ("detokenize", {"tokens": [2**63]}, "tokens[0]"),
        ("detokenize", {"tokens": "abc"}, "tokens"),
    ],
)
def test_input_that_is_neither_text_nor_tokens_is_refused(server: Server, path: str, body: Any, param: str) -> None:
    answer = server.post(body, f"/v1/{path}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_images_cannot_be_tokenized(server: Server) -> None:
    parts = [image_part(DATA / "picture-5.png"), text_part("Count.")]
    answer = server.post({"messages": [{"role": "user", "content": parts}]}, "/v1/tokenize")
    assert answer.status_code == 400 and "/v1/plan" in answer.json()["error"]["message"]


FIELDS = st.sampled_from("prompt suffix echo n max_tokens logprobs stop stream best_of temperature seed x".split())
VALUES = st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=4) | st.lists(st.integers(-2, 9), max_size=3)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # the machine may be busy
)
@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_no_body_is_answered_with_a_server_error(server: Server, body: dict[str, Any]) -> None:
    if body.get("max_tokens", 3) is None:  # an answer without a limit fills the context
        body = body | {"stop": ["a", "e", "i", "o"]}
    answer = server.post({"prompt": "a", "max_tokens": 3} | body, "/v1/completions")
    assert answer.status_code in (200, 400), answer.text


def test_a_client_that_leaves_a_stream_stops_the_work(server: Server, tmp_path: Path) -> None:
    cancelled = server.counted("requests_cancelled")
    body = {"prompt": ["a", "b"], "stream": True, "ignore_eos": True, "max_tokens": 2000}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as lines:
        next(lines.iter_lines())
    wait_until(lambda: server.counted("requests_cancelled") == cancelled + 2)
