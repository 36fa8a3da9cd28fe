"""Instructor in each of its modes, with Galago behind OpenAI's and Anthropic's clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, Literal

import anthropic
import instructor
import openai
import pydantic
import pytest
from instructor import Mode
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException

from clients.shared import KEY, MODEL, PICTURE, SCRIPTED_CALLS, SCRIPTED_URL, URL, VECTORS_URL, Shape

MODES = [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS, Mode.ANTHROPIC_TOOLS]
"""The modes in which the server enforces the schema. The others only explain it to the model."""
ASKED: Any = [{"role": "user", "content": "Describe a shape."}]
NAMED: dict[str, Any] = {"messages": ASKED, "model": MODEL}


class City(pydantic.BaseModel):
    name: Literal["Bern", "Rom"]
    rank: int = pydantic.Field(ge=1, le=9)


def client_of(mode: Mode, asynchronous: bool = False, url: str = URL, key: str = KEY) -> Any:
    if mode.value.startswith("anthropic"):
        kind: Any = anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic
        base = url.removesuffix("/v1")
        return instructor.from_anthropic(kind(base_url=base, api_key=key, max_retries=0), mode=mode, max_tokens=400)
    kind = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    return instructor.from_openai(kind(base_url=url, api_key=key, max_retries=0), mode=mode)


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


def test_an_answer_is_an_instance_of_a_model(mode: Mode) -> None:
    answer = client_of(mode).chat.completions.create(**NAMED, response_model=Shape, max_retries=1)
    assert isinstance(answer, Shape)


def test_an_answer_comes_with_its_usage(mode: Mode) -> None:
    answer, raw = client_of(mode).chat.completions.create_with_completion(**NAMED, response_model=City, max_retries=1)
    assert isinstance(answer, City)
    used = raw.usage
    assert getattr(used, "prompt_tokens", None) or used.input_tokens


def test_an_asynchronous_answer_is_an_instance_of_a_model(mode: Mode) -> None:
    async def run() -> list[City]:
        client = client_of(mode, asynchronous=True)
        ask = client.chat.completions.create
        return list(await asyncio.gather(*(ask(**NAMED, response_model=City, max_retries=1) for _ in range(3))))

    assert all(isinstance(city, City) for city in asyncio.run(run()))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != Mode.TOOLS_STRICT], indirect=True)
def test_a_partial_answer_grows(mode: Mode) -> None:
    partial = list(client_of(mode).chat.completions.create_partial(**NAMED, response_model=City))
    assert len(partial) > 1 and City.model_validate(partial[-1].model_dump())


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA], indirect=True)
def test_a_list_is_an_iterable_of_instances(mode: Mode) -> None:
    class Two(pydantic.BaseModel):
        cities: list[City] = pydantic.Field(min_length=2, max_length=2)

    answer = client_of(mode).chat.completions.create(**NAMED, response_model=Two, max_retries=1)
    assert [type(city) for city in answer.cities] == [City, City]


def test_parallel_calls_are_instances_of_several_models() -> None:
    """The scripted model calls two tools in its second answer."""

    class GetTemperature(pydantic.BaseModel):
        city: str
        unit: Literal["celsius", "fahrenheit"]

    class Add(pydantic.BaseModel):
        first: int
        second: int

    GetTemperature.__name__, Add.__name__ = "get_temperature", "add"
    client = client_of(Mode.PARALLEL_TOOLS, url=SCRIPTED_URL)
    ((name, arguments),) = SCRIPTED_CALLS[0]
    first = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "20 degrees"}
    history = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [first]}, result]
    made = list(
        client.chat.completions.create(
            model="scripted", messages=history, response_model=Iterable[GetTemperature | Add], tool_choice="auto"
        )
    )
    assert [part.model_dump() for part in made] == [arguments for _, arguments in SCRIPTED_CALLS[1]]


def test_an_answer_without_a_model_is_text() -> None:
    answer = client_of(Mode.TOOLS, url=SCRIPTED_URL).chat.completions.create(
        model="scripted", messages=ASKED, response_model=None
    )
    assert answer.choices[0].message.content


def test_a_validator_that_refuses_is_asked_again(mode: Mode) -> None:
    tries = []

    class Strict(City):
        @pydantic.model_validator(mode="after")
        def never(self) -> Strict:
            tries.append(self)
            raise ValueError("try again")

    with pytest.raises(InstructorRetryException):
        client_of(mode).chat.completions.create(**NAMED, response_model=Strict, max_retries=2)
    assert len(tries) >= 2


@pytest.mark.parametrize("mode", [Mode.TOOLS, Mode.JSON_SCHEMA], indirect=True)
def test_a_truncated_answer_is_named_so(mode: Mode) -> None:
    with pytest.raises((IncompleteOutputException, InstructorRetryException)) as cut:
        client_of(mode).chat.completions.create(**NAMED, response_model=Shape, max_tokens=4, max_retries=1)
    assert "incomplete" in str(cut.value).lower() or "max_tokens" in str(cut.value)


@pytest.mark.parametrize("mode", [Mode.JSON_SCHEMA, Mode.ANTHROPIC_TOOLS], indirect=True)
def test_a_picture_is_shown(mode: Mode) -> None:
    messages = [{"role": "user", "content": ["A shape?", instructor.Image.from_path(PICTURE)]}]
    answer = client_of(mode).chat.completions.create(model=MODEL, messages=messages, response_model=City, max_retries=1)
    assert isinstance(answer, City)


@pytest.mark.parametrize(
    ("url", "options", "status"),
    [
        (VECTORS_URL, {"model": "gpt-4o"}, 404),
        (URL, {"messages": [{"role": "user", "content": "word " * 5000}]}, 400),
    ],
    ids=["another model", "too long"],
)
def test_errors_keep_their_status(mode: Mode, url: str, options: dict[str, Any], status: int) -> None:
    with pytest.raises((InstructorRetryException, openai.APIStatusError, anthropic.APIStatusError)) as refused:
        client_of(mode, url=url).chat.completions.create(**{**NAMED, **options}, response_model=City, max_retries=1)
    assert str(status) in str(refused.value)
