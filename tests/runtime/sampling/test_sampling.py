"""Penalties, biases and log-probabilities: on plain logits, in Python, and over HTTP."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.server import Server
from galago.models.errors import InvalidRequest, ModelError
from galago.runtime import LocalModel
from galago.runtime.llamacpp.library import llama
from galago.runtime.sampling import sampler as sampler_module
from galago.runtime.sampling.sampler import (
    REPEAT_WINDOW_TOKENS,
    Penalties,
    Sampler,
    best_token,
    log_probabilities,
    top_tokens,
)
from galago.runtime.types.request import Sampling

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=8, max_size=8)


def penalized(logits: list[float], sampled_tokens: list[int], prompt: list[int] = [], **settings: Any) -> np.ndarray:  # noqa: B006
    """The logits after these tokens were sampled."""
    penalties = Penalties(Sampling(**settings), prompt)
    for token in sampled_tokens:
        penalties.apply(np.zeros(len(logits), np.float32))
        penalties.record(token)
    found = np.array(logits, np.float32)
    penalties.apply(found)
    return found


@settings(max_examples=100, deadline=None)
@given(LOGITS, st.lists(st.integers(0, 7), max_size=100), st.floats(0.5, 2))
def test_repeat_penalty_is_that_of_llama_cpp(logits: list[float], tokens: list[int], repeat: float) -> None:
    array = (llama.llama_token_data * 8)(*((i, v, 0.0) for i, v in enumerate(logits)))
    data = llama.llama_token_data_array(data=array, size=8, selected=-1, sorted=False)
    sampler = llama.llama_sampler_init_penalties(8, REPEAT_WINDOW_TOKENS, repeat, 0.0, 0.0)
    for token in tokens:
        llama.llama_sampler_accept(sampler, token)
    llama.llama_sampler_apply(sampler, ctypes.byref(data))
    llama.llama_sampler_free(sampler)
    theirs = {data.data[i].id: data.data[i].logit for i in range(8)}
    half = len(tokens) // 2
    ours = penalized(logits, tokens[half:], tokens[:half], repeat_penalty=repeat)
    assert np.allclose(ours, [theirs[i] for i in range(8)], rtol=1e-5, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(LOGITS, st.lists(st.integers(0, 7), max_size=30), st.floats(-2, 2), st.floats(-2, 2))
def test_frequency_and_presence_penalty_are_those_of_openai(
    logits: list[float], sampled_tokens: list[int], frequency: float, presence: float
) -> None:
    """logit - count * frequency_penalty - (count > 0) * presence_penalty"""
    ours = penalized(logits, sampled_tokens, [7] * 9, frequency_penalty=frequency, presence_penalty=presence)
    counts = [sampled_tokens.count(token) for token in range(8)]
    expected = [v - c * frequency - (c > 0) * presence for v, c in zip(logits, counts, strict=True)]
    assert np.allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("places", [range(8), [0], [7]])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_p": 0.5}, {"presence_penalty": 1.0}])
@pytest.mark.parametrize("top_logprobs", [None, 2])
def test_logits_that_are_no_numbers_are_refused(
    places: Sequence[int], wrong: float, settings: dict[str, Any], top_logprobs: int | None
) -> None:
    logits = np.arange(8, dtype=np.float32)
    logits[list(places)] = wrong
    sampler = Sampler(Sampling(**settings), banned=frozenset({3}), top_logprobs=top_logprobs)
    for choose in (sampler.sample, lambda given: sampler.score(given, 2), best_token):
        with pytest.raises(ModelError, match="NaN or infinity instead of the probabilities of the next token"):
            choose(logits.copy())


@pytest.mark.parametrize("depth", [16.0, 1.0], ids=["near tokens have nearly all the weight", "others weigh much"])
@pytest.mark.parametrize("proposals", [64, 1])
@pytest.mark.parametrize("spread", [0.2, 2.0, 6.0], ids=["flat", "medium", "peaked"])
def test_tokens_are_drawn_by_their_probabilities(
    spread: float, proposals: int, depth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "_PROPOSALS", proposals)
    monkeypatch.setattr(sampler_module, "_NEAR_DEPTH", depth)
    logits = np.random.default_rng(1).normal(0, spread, 12).astype(np.float32)
    logits[3] = -np.inf
    sampler = Sampler(Sampling(temperature=0.8, seed=5))
    drawn = np.bincount([sampler.sample(logits.copy()).token for _ in range(20_000)], minlength=12) / 20_000
    weights = np.exp(logits.astype(np.float64) / 0.8)
    np.testing.assert_allclose(drawn, weights / weights.sum(), atol=0.015)  # four standard deviations


def test_a_bias_is_added() -> None:
    assert penalized([1.0] * 8, [], logit_bias=((2, -100.0), (5, 3.0))).tolist() == [1, 1, -99, 1, 1, 4, 1, 1]


@settings(max_examples=100, deadline=None)
@given(LOGITS, st.integers(0, 8))
def test_logprobs_are_those_of_the_model(logits: list[float], count: int) -> None:
    """They do not depend on the sampling settings."""
    chosen = Sampler(
        Sampling(temperature=2, top_k=1, frequency_penalty=1, logit_bias=((3, 50.0),), seed=1), top_logprobs=count
    ).sample(np.array(logits, np.float32))
    total = math.log(sum(math.exp(v) for v in np.array(logits, np.float32)))
    assert chosen.logprob == pytest.approx(logits[chosen.token] - total, abs=1e-4)
    expected = sorted(range(8), key=lambda token: (-np.float32(logits[token]), token))[:count]
    assert [p for _, p in chosen.top_logprobs] == pytest.approx([logits[t] - total for t in expected], abs=1e-4)
    if len(set(np.array(logits, np.float32).tolist())) == 8:
        assert [token for token, _ in chosen.top_logprobs] == expected


def test_probabilities_of_a_large_vocabulary_sum_to_one() -> None:
    logits = np.random.default_rng(0).normal(0, 3, 128_000).astype(np.float32)
    logprobs = log_probabilities(logits)
    assert np.exp(logprobs.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)
    assert top_tokens(logprobs, 20).tolist() == np.argsort(-logits)[:20].tolist()


def test_penalties_reduce_repetition(model: LocalModel) -> None:
    for penalty in ({"frequency_penalty": 2}, {"repeat_penalty": 3}, {"presence_penalty": 2}):
        options: Any = {"ignore_eos": True, "max_tokens": 60, "cache": False, "logprobs": 0}
        plain, varied = (model.chat("Count to ten.", **options | p).logprobs for p in ({}, penalty))
        assert len({t.token for t in varied}) > len({t.token for t in plain})


def test_a_biased_token_comes_always_or_never(client: openai.OpenAI) -> None:
    def ask(**options: Any) -> Any:
        messages: Any = [{"role": "user", "content": "Opposite of big?"}]
        return client.chat.completions.create(model="builtin", messages=messages, **options).choices[0]

    plain = ask(logprobs=True, top_logprobs=2)
    assert plain.message.content == "Small."
    forced = ask(logit_bias={"40": 100}, max_tokens=3, logprobs=True)
    assert len({t.token for t in forced.logprobs.content}) == 1
    assert forced.logprobs.content[0].logprob < -1  # the model's own opinion of it


def test_the_client_reads_logprobs(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Opposite of big?"}]
    options: Any = {"model": "builtin", "messages": messages, "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**options).choices[0]
    assert choice.logprobs and choice.logprobs.content
    tokens = choice.logprobs.content
    assert b"".join(bytes(t.bytes or ()) for t in tokens).decode() == choice.message.content == "Small."
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob  # the likeliest was taken
        assert [t.logprob for t in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)
    chunks = list(client.chat.completions.create(stream=True, **options))
    streamed = [t for c in chunks for t in (c.choices[0].logprobs and c.choices[0].logprobs.content) or ()]
    assert [t.token for t in streamed] == [t.token for t in tokens]
    assert [t.logprob for t in streamed] == pytest.approx([t.logprob for t in tokens], abs=0.02)
    for c in chunks:  # each piece of text brings the tokens that begin in it
        if c.choices[0].delta.content:
            assert c.choices[0].logprobs and c.choices[0].logprobs.content


def test_logprobs_omit_tokens_that_a_stop_string_cuts_off(model: LocalModel) -> None:
    reply = model.chat("Spell ehn.", logprobs=0, stop="-n")
    assert reply.text == "e-h" == b"".join(t.token for t in reply.logprobs).decode()
    assert model.chat("Spell ehn.", logprobs=0).text == "e-h-n"


def test_logprobs_include_tokens_that_split_a_character(model: LocalModel) -> None:
    reply = model.chat("x", regex="[\\u4e00-\\u9fff]{4}", temperature=1, seed=3, logprobs=1)
    assert reply.finish_reason == "stop" and len(reply.text) == 4
    assert b"".join(t.token for t in reply.logprobs).decode() == reply.text
    assert len(reply.logprobs) > 4


def test_an_answer_without_logprobs_has_none(model: LocalModel, server: Server) -> None:
    assert model.chat("Hi").logprobs == ()
    assert server.ask("Hi").json()["choices"][0]["logprobs"] is None


def test_a_bias_on_a_token_that_the_model_lacks_is_told(model: LocalModel) -> None:
    reply = model.chat("Hi", logit_bias={512: 1}, max_tokens=2)
    assert any("logit_bias" in warning for warning in reply.warnings)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logit_bias": {-1: 1}}, "logit_bias"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"grammar": "start: x"}, "grammar"),
        ({"grammar": 'start: "a"', "regex": "a"}, "regex"),
    ],
)
def test_a_wrong_value_names_its_field(model: LocalModel, options: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model.chat("Hi", **options)
    assert caught.value.param == param
