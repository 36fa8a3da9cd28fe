"""LiteLLM with Galago as an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
import openai
import pydantic
import pytest

from clients.shared import CITIES, KEY, MODEL, PICTURE, SCHEMA, SOUND, URL, VECTORS_URL, check_shape, encoded

HI = [{"role": "user", "content": "Hi"}]
SENSES: dict[str, list[dict[str, Any]]] = {
    "text": [{"type": "text", "text": "Describe a shape."}],
    "picture": [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(PICTURE)}"}},
        {"type": "text", "text": "Count the shapes."},
    ],
    "sound": [
        {"type": "input_audio", "input_audio": {"data": encoded(SOUND), "format": "wav"}},
        {"type": "text", "text": "What was said?"},
    ],
}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get_weather", city={"enum": list(CITIES)}), tool("turn_on", room={"enum": ["hall", "kitchen"]})]
SERVED = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY}


def ask(messages: Any = HI, **options: Any) -> Any:
    return litellm.completion(**{**SERVED, "messages": messages, "max_retries": 0, **options})


@pytest.fixture(params=SENSES)
def messages(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return [{"role": "user", "content": SENSES[request.param]}]


def test_a_plain_answer_with_its_usage(messages: list[dict[str, Any]]) -> None:
    answer = ask(messages)
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert bool(answer.usage.prompt_tokens_details.image_tokens) == ("image_url" in str(messages))
    assert bool(answer.usage.prompt_tokens_details.audio_tokens) == ("input_audio" in str(messages))
    assert not hasattr(answer, "warnings")


def test_a_stream_says_the_same_and_its_usage(messages: list[dict[str, Any]]) -> None:
    whole = ask(messages)
    chunks = list(ask(messages, stream=True, stream_options={"include_usage": True}))
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.usage.total_tokens == whole.usage.total_tokens
    assert built.choices[0].finish_reason == "stop"


def test_a_schema_is_enforced(messages: list[dict[str, Any]]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA, "strict": True}}
    check_shape(json.loads(ask(messages, response_format=form).choices[0].message.content))


def test_a_pydantic_model_may_stand_for_a_schema() -> None:
    class Answer(pydantic.BaseModel):
        count: int = pydantic.Field(ge=0, le=9)
        sure: bool

    Answer.model_validate_json(ask(response_format=Answer).choices[0].message.content)


def test_a_required_call_and_its_result_sent_back() -> None:
    first = ask(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    message = first.choices[0].message
    (call,) = message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "done"}
    for said in (message, message.model_dump()):
        second = ask([*HI, said, result], tools=TOOLS)
        assert not hasattr(second, "warnings")
        assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_named_call_streams_its_arguments() -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    chunks = list(ask(tools=TOOLS, tool_choice=named, stream=True))
    pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert len(pieces) > 3
    (call,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments)["city"] in CITIES


def test_left_to_itself_it_answers_or_calls() -> None:
    message = ask(tools=TOOLS, tool_choice="auto", max_tokens=200).choices[0].message
    assert message.content or message.tool_calls


def test_settings_arrive() -> None:
    options: Any = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "max_tokens": 6, "n": 2, "logprobs": True}
    first, again = (ask(**options, top_logprobs=2, frequency_penalty=0.5, extra_body={"cache": False}) for _ in "ab")
    assert [c.message.content for c in first.choices] == [c.message.content for c in again.choices]
    assert first.usage.completion_tokens <= 12 and len(first.choices[0].logprobs.content[0].top_logprobs) == 2
    whole = ask().choices[0].message.content
    assert ask(stop=[whole[2:4]]).choices[0].message.content == whole[: whole.index(whole[2:4])]


def test_the_asynchronous_calls_work(messages: list[dict[str, Any]]) -> None:
    async def say() -> str:
        stream = await litellm.acompletion(**SERVED, messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(say()) == ask(messages).choices[0].message.content


@pytest.mark.parametrize(
    ("options", "kind", "status"),
    [
        ({"extra_body": {"stop": ["x"] * 300}}, litellm.BadRequestError, 400),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, litellm.ContextWindowExceededError, 400),
        ({"api_key": "wrong"}, litellm.AuthenticationError, 401),
        ({"model": "openai/gpt-4o", "api_base": VECTORS_URL}, litellm.NotFoundError, 404),
        ({"extra_body": {"timeout": 0.001, "ignore_eos": True}}, litellm.Timeout, 504),
    ],
)
def test_errors_are_of_the_class_of_their_status(options: dict[str, Any], kind: Any, status: int) -> None:
    with pytest.raises(kind) as refused:
        ask(**options)
    assert refused.value.status_code == status


def test_an_error_within_a_stream_is_raised_from_it() -> None:
    with pytest.raises(openai.APIError, match=r"not complete within 0\.2 s"):
        list(ask(stream=True, extra_body={"timeout": 0.2, "ignore_eos": True}))


def test_models_are_listed() -> None:
    options: Any = {"check_provider_endpoint": True, "custom_llm_provider": "openai"}
    assert MODEL in litellm.get_valid_models(api_base=URL, api_key=KEY, **options)


def test_a_model_that_makes_no_vectors_says_so() -> None:
    with pytest.raises(openai.BadRequestError, match="load an embedding model"):
        litellm.embedding(**SERVED, input=["red", "blue"])
