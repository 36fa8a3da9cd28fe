"""The Python API: `load`, `chat` and streams."""

from __future__ import annotations

import gc
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from fakes.server import DATA
from galago.models.errors import ConfigError, EngineError, GalagoError, InvalidRequest, NotReady, PromptTooLong
from galago.runtime import LocalModel, load
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.request import Request

PICTURE, SOUND = DATA / "picture-5.png", DATA / "sound-1.wav"


def test_a_reply_is_a_text_with_usage_and_timings(model: LocalModel) -> None:
    reply = model.chat("Opposite of big?")
    assert (reply, str(reply), reply.text, reply.finish_reason) == ("Small.", "Small.", "Small.", "stop")
    assert type(reply.text) is str and "mall" in reply
    assert reply.usage.completion_tokens > 1 and reply.warnings == ()
    assert 0 < reply.timings.prompt_seconds < reply.timings.first_token_seconds <= reply.timings.total_seconds


@pytest.mark.parametrize(
    "image", [PICTURE, str(PICTURE), PICTURE.read_bytes(), [PICTURE]], ids=["path", "str", "bytes", "list"]
)
def test_chat_takes_an_image_as_path_or_bytes(model: LocalModel, image: Any) -> None:
    assert model.chat("Count the shapes.", image=image).text == "Four."


@pytest.mark.parametrize("audio", [SOUND, SOUND.read_bytes()], ids=["path", "bytes"])
def test_chat_takes_audio_as_path_or_bytes(model: LocalModel, audio: Any) -> None:
    assert model.chat("What was said?", audio=audio).text == "Red diamond."


def test_a_stream_yields_text_and_then_has_the_reply(model: LocalModel) -> None:
    with model.chat("Spell ehn.", stream=True) as stream:
        pieces = list(stream)
        assert len(pieces) > 2 and "".join(pieces) == stream.reply.text == "e-h-n"


def test_leaving_a_loop_over_a_stream_cancels_the_request(model: LocalModel) -> None:
    def running() -> int:
        return sum(stats.running for _, stats in model._service.stats())

    gc.disable()  # a collection could close the stream, too
    try:
        for _ in model.chat("Tell", stream=True, ignore_eos=True):
            break
        begin = time.monotonic()
        while running() and time.monotonic() < begin + 30:
            time.sleep(0.01)
        assert not running()
    finally:
        gc.enable()


def test_a_closed_stream_has_no_reply_and_cancels_the_request(model: LocalModel) -> None:
    stream = model.chat("Tell", stream=True, ignore_eos=True)
    assert next(stream)
    stream.close()
    with pytest.raises(EngineError, match="not finished"):
        _ = stream.reply
    engine = cast(Any, model._service)._given[0].loaded._engine
    assert model.chat("Opposite of big?").text == "Small."
    assert engine.stats().running == engine.stats().waiting == 0


def test_chat_takes_a_list_of_messages(model: LocalModel) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count the shapes."}]
    assert model.chat(chat, image=PICTURE).usage.image_tokens == 16


def test_stream_takes_a_request_value(model: LocalModel) -> None:
    stream = model.stream(Request((Message("user", (Text("Opposite of big?"),)),)))
    assert "".join(stream) == "Small."


def test_an_answer_follows_a_json_schema(model: LocalModel) -> None:
    assert json.loads(model.chat("What is 8 - 2?", json_schema={"type": "integer"}).text) == 6


def test_threads_can_share_a_model(model: LocalModel) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: model.chat("Count the shapes.", image=PICTURE).text, range(24)))
    assert answers == ["Four."] * 24


def test_info_describes_the_model(model: LocalModel) -> None:
    info = model.info
    assert (info.id, info.context_length, info.vision, info.audio) == ("builtin", 2048, True, True)
    assert info.parameters > 1_000_000


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"image": "none.png"}, "none.png"),
        ({"image": b"text"}, "image"),
        ({"audio": b""}, "audio"),
        ({"json_schema": {"type": "x"}}, "json_schema"),
        ({"json_schema": {"enum": {1}}}, "json_schema"),
        ({"image": 5}, "image"),
        ({"audio": [None]}, "audio"),
    ],
)
def test_an_invalid_value_is_reported_with_its_field(model: LocalModel, options: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model.chat("Hi", **options)
    assert caught.value.param == param


def test_an_unknown_option_is_a_type_error(model: LocalModel) -> None:
    with pytest.raises(TypeError, match="temprature"):
        model.chat("Hi", temprature=1)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "chat",
    [[], [{"role": "wizard", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": "x", "name": "y"}]],
)
def test_malformed_messages_are_refused(model: LocalModel, chat: Any) -> None:
    with pytest.raises(InvalidRequest):
        model.chat(chat)


def test_a_closed_model_refuses_requests() -> None:
    with load("builtin", slots=1) as closed:
        stream = closed.chat("Tell", stream=True, ignore_eos=True)
        next(stream)
    with pytest.raises(NotReady, match="closed"):
        closed.chat("Hi")
    with pytest.raises(GalagoError):
        list(stream)


def test_two_models_can_be_loaded_at_once(model: LocalModel) -> None:
    with load("builtin", ctx=128, slots=1, threads=1) as other:
        assert other.info.context_length == 128
        assert other.chat("Opposite of big?").text == model.chat("Opposite of big?").text


def test_a_small_context_serves_many_long_answers() -> None:
    with load("builtin", ctx=256, slots=4) as small, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: small.chat("Tell", ignore_eos=True, max_tokens=150), range(8)))
        assert {r.usage.completion_tokens for r in replies} == {150}
        assert len({r.text for r in replies}) <= 3


def test_a_prompt_too_long_is_refused_before_its_images_are_encoded(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[object] = []
    monkeypatch.setattr("galago.runtime.llamacpp.projector.Projector.encode_first", encoded.append)
    with pytest.raises(PromptTooLong, match="2048"):
        model.chat("word " * 3000, image=PICTURE)
    assert encoded == []


def test_close_waits_for_prompts_being_prepared() -> None:
    loaded = load("builtin", slots=2)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(loaded.chat, "Count the shapes.", image=[PICTURE] * 20) for _ in range(4)]
        time.sleep(0.1)
        loaded.close()
        for future in futures:
            error = future.exception(20)
            assert error is None or isinstance(error, GalagoError)


def test_a_json_schema_ends_an_answer_that_ignores_eos(model: LocalModel) -> None:
    reply = model.chat("Hi", json_schema={"enum": [1]}, ignore_eos=True)
    assert (reply.text, reply.finish_reason) == ("1", "stop")
    assert "ignore_eos" in reply.warnings[0]


def test_the_description_has_parameters_and_type(model: LocalModel) -> None:
    assert model.info.description.endswith("3.67M parameters, Q8_0")


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_every_kv_type_answers(kv_type: Any) -> None:
    with load("builtin", ctx=512, slots=1, kv_type=kv_type) as small:
        assert small.chat("Count the shapes.", image=PICTURE).text == "Four."
        assert small.chat("Opposite of big?").text == "Small."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_type": "q8_0", "flash_attention": "off"}, "needs flash attention"),
        ({"kv_type": "q5_1"}, "use f16, q8_0, q4_0"),
        ({"flash_attention": "yes"}, "use auto, on, off"),
    ],
)
def test_impossible_kv_cache_settings_are_refused(options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load("builtin", **options)
