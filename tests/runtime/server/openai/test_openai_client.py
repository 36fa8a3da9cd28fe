"""What the official Python client offers beyond plain requests: parsing, streaming helpers, asyncio, errors by class.

`test_chat_api.py`, `test_choices.py` and `test_tools.py` ask by the same client.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import socket
import time
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from PIL import Image

from fakes.server import DATA, Server, audio_part, image_part, serving, text_part
from fakes.waiting import wait_until
from galago.runtime.server.galago import metrics

KEY = "open-sesame"
ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Anna?"}]
SEEN = [image_part(DATA / "picture-5.png"), text_part("Count the shapes.")]
HEARD = [audio_part(DATA / "sound-1.wav"), text_part("What was said?")]


class Shape(pydantic.BaseModel):
    color: Literal["red", "blue"]
    size: int = pydantic.Field(ge=0, le=99)


class Seen(pydantic.BaseModel):
    shapes: list[Shape] = pydantic.Field(min_length=1, max_length=2)
    background: Literal["white", "black"] | None
    sure: bool


class GetWeather(pydantic.BaseModel):
    city: Literal["Bern", "Rom"]
    days: Literal[1, 2]


WEATHER = openai.pydantic_function_tool(GetWeather)


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with serving(GALAGO_API_KEY=KEY) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("content", ["Describe a shape.", SEEN, HEARD], ids=["text", "picture", "sound"])
def test_an_answer_is_parsed_into_a_pydantic_model(client: openai.OpenAI, content: Any) -> None:
    answer = client.chat.completions.parse(model="builtin", messages=user(content), response_format=Seen)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Seen) and 1 <= len(parsed.shapes) <= 2
    assert answer.usage and answer.usage.completion_tokens > 10
    sent: Any = [*user(content), answer.choices[0].message.model_dump(warnings=False), *user("Again")]
    again = client.chat.completions.create(model="builtin", messages=sent)
    assert again.choices and not (again.model_extra or {}).get("warnings")


def test_a_truncated_answer_is_not_parsed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="builtin", messages=user("Hi"), response_format=Seen, max_tokens=3)


@pytest.mark.parametrize("content", ["Describe a shape.", SEEN, HEARD], ids=["text", "picture", "sound"])
def test_the_streaming_helper_yields_text_and_parsed_content(client: openai.OpenAI, content: Any) -> None:
    options: Any = {"stream_options": {"include_usage": True}, "response_format": Seen}
    with client.chat.completions.stream(model="builtin", messages=user(content), **options) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = [event.delta for event in events if event.type == "content.delta"]
    (done,) = (event for event in events if event.type == "content.done")
    assert len(deltas) > 1 and "".join(deltas) == done.content == final.choices[0].message.content
    assert isinstance(done.parsed, Seen) and final.choices[0].message.parsed == done.parsed
    assert final.usage and final.usage.total_tokens == final.usage.prompt_tokens + final.usage.completion_tokens
    whole = client.chat.completions.create(model="builtin", messages=user(content))
    assert final.choices[0].finish_reason == "stop" and final.usage.prompt_tokens == whole.usage.prompt_tokens  # type: ignore[union-attr]


def test_the_streaming_helper_yields_tool_calls_and_arguments(client: openai.OpenAI) -> None:
    options: Any = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.stream(model="builtin", messages=ASKED, **options) as stream:
        events = list(stream)
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    (done,) = (event for event in events if event.type == "tool_calls.function.arguments.done")
    assert "".join(event.arguments_delta for event in deltas) == done.arguments == call.function.arguments
    assert isinstance(done.parsed_arguments, GetWeather) and done.name == "GetWeather"
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    sent: Any = [*ASKED, {"role": "assistant", "tool_calls": [call.model_dump()]}, result]
    answer = client.chat.completions.create(model="builtin", messages=sent, tools=[WEATHER])
    assert answer.choices and not (answer.model_extra or {}).get("warnings")


def test_the_streaming_helper_yields_logprobs(client: openai.OpenAI) -> None:
    options: Any = {"logprobs": True, "top_logprobs": 2}
    with client.chat.completions.stream(model="builtin", messages=user("Spell ehn."), **options) as stream:
        events = list(stream)
    tokens = [token for event in events if event.type == "logprobs.content.delta" for token in event.content]
    (done,) = (event for event in events if event.type == "content.done")
    assert "".join(token.token for token in tokens) == done.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def cancelled(server: Server) -> float:
    (stats,) = metrics.parse(httpx.get(f"{server.url}/metrics").text).values()
    return stats["cancelled"]


def test_closing_a_stream_cancels_the_answer(server: Server, client: openai.OpenAI) -> None:
    before, requests = cancelled(server), user("Hi")
    with client.chat.completions.create(
        model="builtin", messages=requests, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
    deadline = time.monotonic() + 10
    while cancelled(server) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert cancelled(server) == before + 1


def test_the_asynchronous_client_answers_several_at_once(server: Server) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(content: Any) -> str | None:
                async with client.chat.completions.stream(model="builtin", messages=user(content)) as stream:
                    return (await stream.get_final_completion()).choices[0].message.content

            whole = [client.chat.completions.create(model="builtin", messages=user(c)) for c in (SEEN, HEARD)]
            texts = [answer.choices[0].message.content for answer in await asyncio.gather(*whole)]
            assert list(await asyncio.gather(one(SEEN), one(HEARD))) == texts
            return texts

    assert all(asyncio.run(ask()))


def test_every_response_has_a_request_id(client: openai.OpenAI) -> None:
    answers = [client.chat.completions.create(model="builtin", messages=user("Hi")) for _ in range(2)]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="builtin", messages=[])
    raw = client.chat.completions.with_raw_response.create(model="builtin", messages=user("Hi"), stream=True)
    ids = [*(answer._request_id for answer in answers), refused.value.request_id, raw.headers["x-request-id"]]
    assert all(ids) and len(set(ids)) == 4


def test_400_is_a_bad_request_that_names_its_field(client: openai.OpenAI) -> None:
    for options, param in (
        ({"messages": user([{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}])}, "messages"),
        ({"messages": user("word " * 5000)}, "messages"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{"model": "builtin", "messages": user("Hi")} | options)
        assert refused.value.param and refused.value.param.startswith(param)
        assert refused.value.type == "invalid_request_error" and refused.value.code


def test_401_is_an_authentication_error(guarded: Server) -> None:
    with guarded.client() as unauthorized, pytest.raises(openai.AuthenticationError) as refused:
        unauthorized.chat.completions.create(model="builtin", messages=user("Hi"))
    assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY) as right:
        assert right.chat.completions.create(model="builtin", messages=user("Hi")).choices


def test_403_is_a_denied_permission(client: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.models.list(extra_headers={"Host": "evil.example"})
    assert (refused.value.status_code, refused.value.code) == (403, "forbidden")


def test_404_is_a_model_or_route_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-4o")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing", cast_to=object)


def test_405_is_an_error_with_its_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.get("/chat/completions", cast_to=object)
    assert (refused.value.status_code, refused.value.code) == (405, "method_not_allowed")


def test_413_is_an_error_with_its_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="builtin", messages=user("x" * (65 << 20)))
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")


def test_503_while_loading_is_retried_until_the_model_answers() -> None:
    with serving() as starting:
        starting.worker().suspend()  # or the model might be ready before the request
        wait_until(lambda: bool(starting.url))
        with starting.client() as client, pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model="builtin", messages=user("Hi"))
        assert (refused.value.status_code, refused.value.code) == (503, "not_ready")
        starting.worker().resume()
        with openai.OpenAI(base_url=f"{starting.url}/v1", api_key="none", max_retries=30) as patient:
            assert patient.chat.completions.create(model="builtin", messages=user("Hi")).choices


def test_504_is_not_retried(server: Server) -> None:
    requests: list[httpx.Request] = []
    transport: Any = httpx.Client(event_hooks={"request": [requests.append]})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5, http_client=transport) as client:
        with pytest.raises(openai.InternalServerError) as refused:
            extra = {"timeout": 0.001, "ignore_eos": True}
            client.chat.completions.create(model="builtin", messages=user("Hi"), extra_body=extra)
    assert (refused.value.status_code, refused.value.code, len(requests)) == (504, "deadline_exceeded", 1)


def test_an_error_within_a_stream_is_raised_from_it(client: openai.OpenAI) -> None:
    extra = {"timeout": 0.2, "ignore_eos": True}
    pieces = []
    with pytest.raises(openai.APIError) as refused:
        for chunk in client.chat.completions.create(
            model="builtin", messages=user("Tell"), stream=True, extra_body=extra
        ):
            pieces.append(chunk)
    assert pieces and refused.value.code == "deadline_exceeded"


def test_no_server_is_a_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_a_client_side_timeout_cancels_the_answer(server: Server) -> None:
    noise = io.BytesIO()
    Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).save(noise, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(noise.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": picture}}, text_part("Tell")]
    with server.client(timeout=0.3) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="builtin", messages=user(content), extra_body={"ignore_eos": True})
    with server.client() as client:
        assert client.chat.completions.create(model="builtin", messages=user("Opposite of big?")).choices
