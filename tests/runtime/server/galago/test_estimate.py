"""Estimates of a request: exact tokens, seconds from a benchmark, and nothing computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from fakes.benchmark import MACHINE
from fakes.server import DATA, Server, audio_part, image_part, serving, text_part
from galago.models.capacity.throughput import (
    encoding_seconds,
    matrix_types,
    token_costs,
)
from galago.models.registry.resolve import resolve
from galago.runtime import LocalModel, load


@pytest.fixture(scope="module")
def planner() -> Iterator[Server]:
    with serving("--threads", "1") as running:
        running.wait_until_ready()
        yield running


def plan(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    answer = server.post(body, "/v1/plan")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents], "max_tokens": 4, **fields}


PICTURE, SOUND = image_part(DATA / "picture-5.png"), audio_part(DATA / "sound-1.wav")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
BODIES = [
    chat("Opposite of big?"),
    chat("<|im_end|> is text"),
    chat([PICTURE, text_part("Count the shapes.")]),
    chat([PICTURE, SOUND, text_part("a"), PICTURE]),
    chat("What?", tools=[TOOL]),
    chat("one " * 300, cache=False),
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_estimated_tokens_are_those_of_the_actual_request(planner: Server, body: dict[str, Any]) -> None:
    for _ in range(2):
        estimate = plan(planner, body)
        answer = planner.post(body)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        tokens = estimate["tokens"]
        assert tokens["total"] == usage["prompt_tokens"]
        assert tokens["cached"] == usage["prompt_tokens_details"]["cached_tokens"]
        assert tokens["template"] + sum(part["tokens"] for part in tokens["parts"]) == tokens["total"]
        media = usage["prompt_tokens_details"]["image_tokens"] + usage["prompt_tokens_details"]["audio_tokens"]
        assert sum(part["tokens"] for part in tokens["parts"] if part["type"] != "text") >= media
        assert estimate["fits"] and estimate["over_by"] == 0 and estimate["max_tokens"] == 4


def test_parts_have_their_positions(planner: Server) -> None:
    parts = plan(planner, chat("hello", [PICTURE, text_part("Count."), SOUND]))["tokens"]["parts"]
    assert [(p["message"], p["part"], p["type"]) for p in parts] == [
        (0, 0, "text"),
        (1, 0, "image"),
        (1, 1, "text"),
        (1, 2, "audio"),
    ]


def test_an_estimate_computes_nothing(planner: Server) -> None:
    body = chat([image_part(DATA / "picture-1.png"), text_part("never asked " * 20)])
    assert plan(planner, body)["tokens"]["cached"] == plan(planner, body)["tokens"]["cached"]
    assert planner.post(body).json()["usage"]["prompt_tokens_details"]["cached_tokens"] < 20


def test_a_prompt_that_does_not_fit_says_by_how_much(planner: Server) -> None:
    estimate = plan(planner, chat("word " * 5000))
    assert not estimate["fits"]
    assert estimate["over_by"] == estimate["tokens"]["total"] + 1 - estimate["context_length"]
    assert estimate["seconds"] == {"first_token": None, "total": None} and estimate["max_tokens"] == 0
    refused = planner.post(chat("word " * 5000)).json()["error"]["message"]
    assert str(estimate["tokens"]["total"]) in refused


def test_an_answer_that_does_not_fit_is_warned_about(planner: Server) -> None:
    estimate = plan(planner, chat("Hi", max_tokens=5000))
    assert estimate["max_tokens"] == estimate["context_length"] - estimate["tokens"]["total"]
    assert any("5000" in warning for warning in estimate["warnings"])


def test_seconds_depend_on_the_tokens_to_compute(planner: Server) -> None:
    header = resolve("builtin").header
    estimate = token_costs(header, MACHINE)
    assert estimate
    body = chat("two " * 400, cache=False, max_tokens=100)
    planned = plan(planner, body)
    tokens = planned["tokens"]["total"]
    first, total = planned["seconds"]["first_token"], planned["seconds"]["total"]
    assert (
        estimate.first_token_seconds(tokens) < first < estimate.first_token_seconds(tokens) + 0.5
    )  # reading the request takes time as well
    assert total - first == pytest.approx(99 * estimate.token_seconds(tokens + 50), rel=0.01)
    planner.post(chat("three " * 400, max_tokens=2))
    again = plan(planner, chat("three " * 400))
    assert again["tokens"]["cached"] > 300
    assert estimate.first_token_seconds(tokens, again["tokens"]["cached"]) < estimate.first_token_seconds(tokens) / 5


def test_memory_grows_with_the_tokens(planner: Server) -> None:
    before = plan(planner, chat("x"))["peak_memory_bytes"]
    planner.post(chat("keep " * 500, max_tokens=1))
    assert plan(planner, chat("x"))["peak_memory_bytes"] > before > 10_000_000


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        (chat("a", n=33), "n"),
        (chat("a", tool_choice="required"), "tool_choice"),
        (chat([image_part(DATA / "sound-1.wav")]), "messages[0].content[0].image_url.url"),
    ],
)
def test_a_chat_that_would_be_refused_is_refused(planner: Server, body: dict[str, Any], param: str) -> None:
    for path in ("/v1/plan", "/v1/chat/completions"):
        answer = planner.post(body, path)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param


def test_unknown_fields_cause_a_warning(planner: Server) -> None:
    assert any("frobnicate" in warning for warning in plan(planner, chat("Hi", frobnicate=1))["warnings"])


def test_encoding_time_is_estimated_from_the_header_until_it_is_measured() -> None:
    with load("builtin", threads=1) as model:
        planner = engine_planner(model)
        assert planner._projector is not None and not planner._encode_seconds
        assert set(matrix_types(planner._projector)) <= set(MACHINE.types)
        guess = encoding_seconds(planner._projector, MACHINE, "image", 16)
        assert guess and 0 < guess < 10
        model.chat("Count.", image=DATA / "picture-5.png", max_tokens=1)
        assert 0 < planner._encode_seconds["image"] < 10


def engine_planner(model: LocalModel) -> Any:
    return cast(Any, model._service)._given[0].loaded._estimator
