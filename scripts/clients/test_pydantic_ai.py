"""Pydantic AI with Galago behind its models for OpenAI's chat and Responses APIs and Anthropic's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pydantic
import pytest
from pydantic_ai import Agent, BinaryContent, ModelHTTPError, NativeOutput, StructuredDict, ToolOutput
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.messages import FunctionToolCallEvent, FunctionToolResultEvent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

from clients.shared import (
    FINAL_TEXT,
    KEY,
    MODEL,
    NEXT_TEXT,
    PICTURE,
    SCHEMA,
    SCRIPTED_CALLS,
    SCRIPTED_URL,
    URL,
    VECTORS_URL,
    Shape,
    check_script,
    check_shape,
    recorded_tools,
)


class Choice(pydantic.BaseModel):
    color: Literal["red", "blue"]
    count: Literal[1, 2, 3]
    sure: bool


APIS = ("chat", "responses", "anthropic")


def model_of(api: str, url: str = URL, name: str = MODEL, key: str = KEY) -> Model:
    """A model behind one of the APIs. Each test makes its own, because the clients belong to one event loop."""
    if api == "anthropic":
        provider = AnthropicProvider(api_key=key, base_url=url.removesuffix("/v1"))
        return AnthropicModel(name, provider=provider, profile={"supports_json_schema_output": True})
    kind = OpenAIChatModel if api == "chat" else OpenAIResponsesModel
    return kind(name, provider=OpenAIProvider(base_url=url, api_key=key))


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def scripted_agent(api: str) -> tuple[list[Any], Agent[None, str]]:
    calls, tools = recorded_tools()
    return calls, Agent(model_of(api, SCRIPTED_URL, "scripted"), tools=tools, instructions="Be brief.")


def test_an_agent_runs_its_tools_over_several_turns(api: str) -> None:
    calls, agent = scripted_agent(api)
    result = agent.run_sync("How warm is it?")
    check_script(calls)
    assert result.output == FINAL_TEXT
    assert result.usage.requests == len(SCRIPTED_CALLS) + 1 and result.usage.tool_calls == len(calls)
    assert result.usage.input_tokens > 100 and result.usage.output_tokens > 10
    again = agent.run_sync("Thank you.", message_history=result.all_messages())
    assert again.output == NEXT_TEXT


def test_an_agent_streams_text_up_to_the_first_answer_that_has_any(api: str) -> None:
    _, agent = scripted_agent(api)

    async def stream() -> tuple[list[str], int]:
        async with agent.run_stream("How warm is it?") as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
            return pieces, result.usage.output_tokens

    pieces, output_tokens = asyncio.run(stream())
    assert "".join(pieces) == "Two more." and len(pieces) > 1
    assert output_tokens > 1


def test_the_events_of_a_run_name_each_call_and_its_result(api: str) -> None:
    calls, agent = scripted_agent(api)

    async def run() -> list[Any]:
        seen = []

        async def handle(_: Any, events: AsyncIterator[Any]) -> None:
            seen.extend([event async for event in events])

        result = await agent.run("How warm is it?", event_stream_handler=handle)
        assert result.output == FINAL_TEXT
        return seen

    seen = asyncio.run(run())
    check_script(calls)
    called = [event.part for event in seen if isinstance(event, FunctionToolCallEvent)]
    returned = [event.part for event in seen if isinstance(event, FunctionToolResultEvent)]
    check_script([(part.tool_name, part.args_as_dict()) for part in called])
    assert {part.tool_call_id for part in called} == {part.tool_call_id for part in returned}


def test_a_tool_that_asks_for_another_try_gets_the_next_answer(api: str) -> None:
    from pydantic_ai import ModelRetry

    def get_temperature(city: str, unit: str) -> str:
        raise ModelRetry("not today")

    def add(first: int, second: int) -> int:
        return first + second

    agent = Agent(model_of(api, SCRIPTED_URL, "scripted"), tools=[get_temperature, add], retries=5)
    assert agent.run_sync("How warm is it?").output == FINAL_TEXT


def answer_type(api: str) -> type[pydantic.BaseModel]:
    """Anthropic's client takes ranges and lengths out of a schema, so that they are not enforced."""
    return Choice if api == "anthropic" else Shape


@pytest.mark.parametrize("style", [NativeOutput, ToolOutput])
def test_an_answer_is_an_instance_of_a_model(api: str, style: Any) -> None:
    result = Agent(model_of(api, URL), output_type=style(answer_type(api))).run_sync("Describe a shape.")
    assert isinstance(result.output, answer_type(api))


def test_an_answer_is_one_of_several_types(api: str) -> None:
    class Refusal(pydantic.BaseModel):
        reason: str = pydantic.Field(max_length=20)

    result = Agent(model_of(api, URL), output_type=[Shape, Refusal]).run_sync("Describe a shape.")
    assert isinstance(result.output, Shape | Refusal)


def test_a_schema_is_enforced(api: str) -> None:
    output = NativeOutput(StructuredDict(SCHEMA, name="shape"))
    check_shape(Agent(model_of(api, URL), output_type=output).run_sync("Describe a shape.").output)


def test_a_stream_of_an_answer_in_a_model_validates(api: str) -> None:
    async def stream() -> tuple[int, Any]:
        agent = Agent(model_of(api, URL), output_type=NativeOutput(answer_type(api)))
        async with agent.run_stream("Describe a shape.") as result:
            partial = [piece async for piece in result.stream_output(debounce_by=None)]
            return len(partial), await result.get_output()

    count, answer = asyncio.run(stream())
    assert count > 1 and isinstance(answer, answer_type(api))


def test_a_picture_is_shown(api: str) -> None:
    agent = Agent(model_of(api, URL))
    plain = agent.run_sync("Count the shapes.")
    shown = agent.run_sync(["Count the shapes.", BinaryContent(PICTURE.read_bytes(), media_type="image/png")])
    assert shown.output and shown.usage.input_tokens >= plain.usage.input_tokens + 16


def test_settings_arrive(api: str) -> None:
    result = Agent(model_of(api, URL)).run_sync("Hi", model_settings={"max_tokens": 4, "temperature": 0.0})
    assert result.usage.output_tokens <= 4
    assert result.response.finish_reason == "length"


def test_a_usage_limit_ends_an_agent(api: str) -> None:
    from pydantic_ai import UsageLimitExceeded

    _, agent = scripted_agent(api)
    with pytest.raises(UsageLimitExceeded):
        agent.run_sync("How warm is it?", usage_limits=UsageLimits(request_limit=2))


@pytest.mark.parametrize(
    ("options", "words", "status"),
    [({"name": "gpt-4o", "url": VECTORS_URL}, "Hi", 404), ({"key": "wrong"}, "Hi", 401), ({}, "word " * 5000, 400)],
    ids=["another model", "wrong key", "too long"],
)
def test_errors_are_http_errors_of_their_status(api: str, options: dict[str, Any], words: str, status: int) -> None:
    with pytest.raises(ModelHTTPError) as refused:
        Agent(model_of(api, **options)).run_sync(words)
    assert refused.value.status_code == status


def test_agents_run_side_by_side(api: str) -> None:
    async def run() -> None:
        agents = [scripted_agent(api) for _ in range(4)]
        results = await asyncio.gather(*(agent.run("How warm is it?") for _, agent in agents))
        assert [result.output for result in results] == [FINAL_TEXT] * 4
        for calls, _ in agents:
            check_script(calls)

    asyncio.run(run())


def test_texts_become_vectors() -> None:
    model = OpenAIEmbeddingModel("vectors", provider=OpenAIProvider(base_url=VECTORS_URL, api_key=KEY))
    result = Embedder(model).embed_documents_sync(["a cat sat", "the dog ran"])
    assert len(result.embeddings) == 2 and result.usage.input_tokens > 4
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-4 for vector in result.embeddings)
