"""Chats with the built-in model and OpenAI's client: text, images and audio, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from fakes.server import DATA, SAMPLES, Server, audio_part, image_part, media_parts, text_part
from galago.runtime import LocalModel


def content_of(sample: dict[str, str]) -> list[dict[str, Any]]:
    return [*(media_parts(sample["file"]) if "file" in sample else []), text_part(sample["question"])]


def complete(client: openai.OpenAI, content: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="builtin", messages=[{"role": "user", "content": content}], **options)


@pytest.mark.parametrize("sample", SAMPLES, ids=[s["question"][:30] for s in SAMPLES])
def test_the_model_gives_its_recorded_answers(client: openai.OpenAI, sample: dict[str, str]) -> None:
    completion = complete(client, content_of(sample))
    assert completion.choices[0].message.content == sample["answer"]
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("sample", SAMPLES, ids=[s["question"][:30] for s in SAMPLES])
def test_a_stream_has_the_same_answer(client: openai.OpenAI, sample: dict[str, str]) -> None:
    chunks = list(complete(client, content_of(sample), stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == sample["answer"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({c.id for c in chunks}) == 1


def test_a_seed_gives_the_same_answer_streamed_and_whole(client: openai.OpenAI) -> None:
    extra = {"ignore_eos": True, "cache": False}
    options: dict[str, Any] = {"temperature": 1.5, "seed": 7, "max_tokens": 40, "extra_body": extra}
    whole = complete(client, "Spell ehn.", **options).choices[0].message.content
    pieces = complete(client, "Spell ehn.", stream=True, **options)
    assert "".join(c.choices[0].delta.content or "" for c in pieces) == whole
    assert complete(client, "Spell ehn.", **options | {"seed": 8}).choices[0].message.content != whole


def test_text_image_and_audio_in_one_request(client: openai.OpenAI) -> None:
    parts = [image_part(DATA / "picture-5.png"), audio_part(DATA / "sound-1.wav"), text_part("Count the shapes.")]
    completion = complete(client, parts)
    details = completion.usage.prompt_tokens_details
    assert completion.choices[0].message.content
    assert (details.image_tokens, details.audio_tokens) == (16, 26)
    chunks = complete(client, parts, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == completion.choices[0].message.content


def test_usage_counts_text_and_media(client: openai.OpenAI) -> None:
    usage = complete(client, content_of(SAMPLES[0])).usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.image_tokens == 16
    text = complete(client, SAMPLES[0]["question"]).usage
    assert usage.prompt_tokens == text.prompt_tokens + 16


def test_usage_comes_in_a_last_chunk_if_requested(client: openai.OpenAI) -> None:
    chunks = list(complete(client, "Opposite of big?", stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(c.usage is None for c in chunks[:-1])
    assert all(c.choices for c in complete(client, "Opposite of big?", stream=True))


def test_the_answer_depends_on_the_image(client: openai.OpenAI) -> None:
    answers = {
        complete(client, [image_part(DATA / name), text_part("Count the shapes.")]).choices[0].message.content
        for name in ("picture-3.png", "picture-5.png")
    }
    assert len(answers) == 2


def test_max_tokens_cuts_the_answer_and_says_so(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        completion = complete(client, "What day comes after Wednesday?", **{name: 2})
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == 2


def test_an_answer_ends_when_the_context_is_full(client: openai.OpenAI) -> None:
    completion = complete(client, "Tell", extra_body={"ignore_eos": True})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.total_tokens == 2048


def test_a_too_large_max_tokens_is_lowered_with_a_warning(server: Server) -> None:
    answer = server.ask("Opposite of big?", max_tokens=1_000_000).json()
    assert answer["choices"][0]["message"]["content"] == "Small."
    assert "max_tokens" in answer["warnings"][0]


def test_stop_strings_end_the_answer(client: openai.OpenAI) -> None:
    completion = complete(client, "Spell ehn.", stop="-h")
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("e", "stop")
    chunks = complete(client, "Spell ehn.", stop=["x", "-n"], stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "e-h"


def test_several_turns_and_system_messages_are_accepted(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="builtin",
        messages=[
            {"role": "system", "content": "Answer briefly."},
            {"role": "developer", "content": [{"type": "text", "text": "In English."}]},
            {"role": "user", "content": "Opposite of big?"},
            {"role": "assistant", "content": "Small."},
            {"role": "user", "content": "Opposite of big?"},
        ],
    )
    assert completion.choices[0].message.content


def test_an_answer_can_be_sent_back_unchanged(client: openai.OpenAI) -> None:
    first = complete(client, "Opposite of big?").choices[0].message
    messages: Any = [
        {"role": "user", "content": "Opposite of big?"},
        first.model_dump(),
        {"role": "user", "content": "Again"},
    ]
    completion = client.chat.completions.create(model="builtin", messages=messages)
    assert completion.choices[0].message.content
    assert not (completion.model_extra or {}).get("warnings")


def test_a_json_schema_is_enforced(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["count", "sure"],
        "additionalProperties": False,
    }
    for options in ({}, {"temperature": 2.0, "seed": 3}):
        completion = complete(
            client,
            content_of(SAMPLES[4]),
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
            **options,
        )
        answer = json.loads(completion.choices[0].message.content)
        assert set(answer) == {"count", "sure"} and isinstance(answer["sure"], bool)


def test_a_json_object_is_enforced(client: openai.OpenAI) -> None:
    completion = complete(client, "Answer in JSON: what is 0 + 11?", response_format={"type": "json_object"})
    assert json.loads(completion.choices[0].message.content) == {"answer": 11}


def test_models_are_listed(client: openai.OpenAI) -> None:
    (listed,) = client.models.list().data
    assert listed.id == "builtin"
    content = client.models.retrieve("builtin")
    assert (content.model_extra or {})["input_modalities"] == ["text", "image", "audio"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o-mini")


def test_health_is_ok(server: Server) -> None:
    answer = httpx.get(f"{server.url}/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_timings_are_reported(server: Server) -> None:
    times = server.ask("Opposite of big?").json()["timings"]
    assert 0 < times["prepared_ms"] < times["first_token_ms"] <= times["total_ms"]


def test_eight_clients_at_once_get_their_own_answers(server: Server) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(sample: dict[str, str]) -> str:
        return str(server.ask(content_of(sample)).json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, SAMPLES * 3)) == [s["answer"] for s in SAMPLES * 3]


def test_python_and_http_give_the_same_answer(client: openai.OpenAI, model: LocalModel) -> None:
    for sample in SAMPLES:
        options: Any = {}
        if "file" in sample:
            options["image" if sample["file"].endswith(".png") else "audio"] = DATA / sample["file"]
        answer = complete(client, content_of(sample)).choices[0].message.content
        assert model.chat(sample["question"], **options).text == answer


def test_clients_that_leave_v1_out_are_answered(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Opposite of big?"}]}
    assert server.post(body, "/chat/completions").json()["choices"][0]["message"]["content"] == "Small."
    assert httpx.get(f"{server.url}/models").json() == httpx.get(f"{server.url}/v1/models").json()


def test_a_schema_with_json_object_is_enforced(server: Server) -> None:
    answer = server.ask("Hi", response_format={"type": "json_object", "schema": {"const": "42"}}).json()
    assert answer["choices"][0]["message"]["content"] == '"42"'
    assert "warnings" not in answer


def test_a_second_turn_reports_its_cached_tokens(client: openai.OpenAI) -> None:
    content = [image_part(DATA / "picture-5.png"), text_part("Count the shapes.")]
    messages: list[Any] = [{"role": "user", "content": content}]
    first = client.chat.completions.create(model="builtin", messages=messages, extra_body={"cache": False})
    again = client.chat.completions.create(model="builtin", messages=messages, extra_body={"cache": False})
    for answer in (first, again):
        assert answer.usage and answer.usage.prompt_tokens_details
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
    first = client.chat.completions.create(model="builtin", messages=messages)
    text = first.choices[0].message.content
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "What is the background color?"}]
    second = client.chat.completions.create(model="builtin", messages=messages)
    assert first.usage and second.usage and second.usage.prompt_tokens_details
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens - 1
