"""JSON schemas: every keyword is enforced, or the schema is refused naming the keyword that cannot be."""

from __future__ import annotations

import json
from datetime import date
from enum import StrEnum
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from fakes.schemas import ENFORCED, NOTED, OPEN, REFUSED, check_valid
from fakes.server import Server
from galago.models.errors import InvalidRequest
from galago.runtime import LocalModel
from galago.runtime.output.structured.json_schema import enforceable

MAX_TOKENS = 150


@pytest.mark.parametrize("family", ENFORCED)
def test_answers_satisfy_their_schema(model: LocalModel, family: str) -> None:
    """Answers that are cut off are not checked, but most must be complete."""
    finished = 0
    for seed, schema in enumerate(ENFORCED[family]):
        reply = model.chat("Answer in JSON.", json_schema=schema, temperature=1, seed=seed, max_tokens=MAX_TOKENS)
        assert reply.warnings == ()
        if reply.finish_reason == "stop":
            finished += 1
            check_valid(reply.text, schema)
    assert finished > 0.6 * len(ENFORCED[family])


def test_an_unbounded_answer_is_valid_if_it_ends(model: LocalModel) -> None:
    for seed, schema in enumerate(OPEN):
        reply = model.chat("Answer in JSON.", json_schema=schema, temperature=1, seed=seed, max_tokens=40)
        assert reply.finish_reason in ("stop", "length") and reply.warnings == ()
        if reply.finish_reason == "stop":
            check_valid(reply.text, schema)


@pytest.mark.parametrize("named", REFUSED)
def test_keywords_that_cannot_be_enforced_are_named(model: LocalModel, named: str) -> None:
    for schema in REFUSED[named]:
        with pytest.raises(InvalidRequest) as caught:
            model.chat("Answer in JSON.", json_schema=schema, max_tokens=1)
        message = caught.value.message
        assert named in message and "\n" not in message and len(message) < 400, message
        assert caught.value.param == "json_schema"


@pytest.mark.parametrize(("schema", "note"), NOTED)
def test_what_says_nothing_of_a_value_is_noted(model: LocalModel, schema: Any, note: str) -> None:
    (warning,) = model.chat("Answer in JSON.", json_schema=schema, max_tokens=1).warnings
    assert warning.startswith(note)


class Unit(StrEnum):
    CELSIUS = "c"
    FAHRENHEIT = "f"


class Place(BaseModel):
    name: str = Field(description="The city", max_length=8)
    zip: str | None = Field(pattern=r"^\d{5}$")


class Weather(BaseModel):
    places: list[Place] = Field(min_length=1, max_length=2)
    unit: Unit
    day: date
    degrees: float = Field(ge=-90, le=60)
    sky: Literal["clear", "cloudy"]
    chance: int = Field(gt=0, lt=100, multiple_of=5)


def test_the_client_parses_answers_into_pydantic_models(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather?"}]
    for seed in range(5):
        completion = client.chat.completions.parse(
            model="builtin", messages=messages, response_format=Weather, temperature=1, seed=seed
        )
        weather = completion.choices[0].message.parsed
        assert isinstance(weather, Weather) and weather.places
        assert not (completion.model_extra or {}).get("warnings")


def test_the_client_is_told_the_refused_keyword(client: openai.OpenAI) -> None:
    class Tags(BaseModel):
        tags: set[int]

    messages: Any = [{"role": "user", "content": "Which tags?"}]
    with pytest.raises(openai.BadRequestError, match="uniqueItems at #/properties/tags") as caught:
        client.chat.completions.parse(model="builtin", messages=messages, response_format=Tags)
    assert caught.value.param == "response_format"


def test_a_refusal_names_the_place(model: LocalModel) -> None:
    schema = {"properties": {"a/b": {"items": [{}, {"uniqueItems": True}]}}}
    with pytest.raises(InvalidRequest, match="uniqueItems at #/properties/a~1b/items/1 "):
        model.chat("x", json_schema=schema)


def test_unknown_keywords_cause_warnings_except_x_ones(model: LocalModel) -> None:
    schema: Any = {"type": "integer", "ordering": 3, "x-order": 1, "maximum": 9, "minimum": 0}
    (warning,) = model.chat("x", json_schema=schema).warnings
    assert "'ordering' at #" in warning


def test_property_names_may_look_like_keywords(model: LocalModel) -> None:
    names = ("not", "format", "$ref", "uniqueItems", "minProperties", "pattern")
    schema = {"type": "object", "properties": {n: {"type": "null"} for n in names}, "required": list(names)}
    reply = model.chat("x", json_schema=schema | {"additionalProperties": False})
    assert json.loads(reply.text) == dict.fromkeys(names)


def test_a_grammar_that_becomes_too_complex_is_named_in_the_error(server: Server) -> None:
    answer = server.ask("x", regex="(a?){5000}a{5000}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "regex" and "too complex" in answer.json()["error"]["message"]
    schema = {"type": "string", "pattern": "^(a?){5000}a{5000}$"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    lines = server.ask("x", response_format=form, stream=True).text
    assert "too complex" in lines and '"param":"response_format"' in lines


def test_checking_does_not_change_the_schema() -> None:
    schema = {"type": "string", "format": "date", "allOf": [{"minLength": 1}], "uniqueItems": False}
    before = json.dumps(schema)
    checked = enforceable(schema)
    assert json.dumps(schema) == before
    assert checked["allOf"][0] == {"minLength": 1} and len(checked["allOf"]) > 1  # the place of the first stays


def test_a_very_deep_schema_is_refused(model: LocalModel) -> None:
    schema: Any = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest):
        model.chat("x", json_schema=schema)
