"""What is as large as a limit allows is done, and what exceeds it is refused with an error that names the limit."""

from __future__ import annotations

import io
import multiprocessing
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from galago.models.errors import EngineError, InvalidRequest, MediaError, TemplateError
from galago.runtime.media.audio import decode_audio
from galago.runtime.media.image import decode_image
from galago.runtime.media.limits import MediaLimits
from galago.runtime.output.grammar_order import GrammarOrder
from galago.runtime.output.grammar_process import GrammarProcesses, TrialFailed, describe_model
from galago.runtime.output.tool_formats.hermes import HERMES
from galago.runtime.process.channel import BufferedChannel, encode
from galago.runtime.process.messages import TaskDone
from galago.runtime.prompt.template import RENDERERS, ChatTemplate
from galago.runtime.types.messages import Message, Text
from galago.runtime.types.request import Request
from galago.runtime.types.tasks import Vectors

# result_bytes


def test_a_result_may_be_as_large_as_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    result, larger = (TaskDone(0, Vectors(bytes(size), 1, 1)) for size in (1000, 1001))
    monkeypatch.setenv("GALAGO_LIMIT_RESULT_BYTES", str(len(encode(result)) + 5))  # a list of messages
    here, there = multiprocessing.Pipe()
    channel = BufferedChannel(here)
    assert channel.encode(result)
    with pytest.raises(EngineError, match="result_bytes"):
        channel.encode(larger)
    channel.close()
    there.close()


# template_characters, template_memory, template_seconds


def test_a_template_may_be_as_long_as_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAGO_LIMIT_TEMPLATE_CHARACTERS", "100")
    assert ChatTemplate("x" * 100).render([]) == "x" * 100
    with pytest.raises(TemplateError, match="template_characters"):
        ChatTemplate("x" * 101)


@pytest.mark.parametrize(
    ("name", "value", "fits", "exceeds"),
    [
        ("template_memory", "64MiB", "{{ ('x' * n * 10 ** 6) | length }}", "{{ ('x' * n * 10 ** 8) | length }}"),
        ("template_seconds", "1", "{% for i in range(9) %}{% endfor %}", "{{ range(99999) | slice(10 ** 12) | list }}"),
    ],
)
def test_a_template_may_use_what_its_limits_allow(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fits: str, exceeds: str
) -> None:
    monkeypatch.setenv(f"GALAGO_LIMIT_{name.upper()}", value)
    RENDERERS.close()  # renderers that run have other limits
    assert ChatTemplate(fits).render([], n=1) is not None
    with pytest.raises(TemplateError, match=name):
        ChatTemplate(exceeds).render([], n=1)
    RENDERERS.close()


# schema_bytes, schema_depth, grammar_characters


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def order(**form: Any) -> GrammarOrder:
    return GrammarOrder.of(Request((Message("user", (Text("x"),)),), **form))


@pytest.mark.parametrize(
    ("name", "at_limit", "beyond"),
    [
        ("schema_bytes", {"json_schema": {"title": "x" * 87}}, {"json_schema": {"title": "x" * 88}}),
        ("schema_depth", {"json_schema": _nested(100)}, {"json_schema": _nested(101)}),
        ("grammar_characters", {"grammar": "start: " + "x" * 93}, {"grammar": "start: " + "x" * 94}),
        ("grammar_characters", {"regex": "x" * 100}, {"regex": "x" * 101}),
    ],
)
def test_schemas_and_grammars_have_a_size_and_a_depth(
    monkeypatch: pytest.MonkeyPatch, name: str, at_limit: dict[str, Any], beyond: dict[str, Any]
) -> None:
    monkeypatch.setenv(f"GALAGO_LIMIT_{name.upper()}", "100")
    order(**at_limit).check_size()
    with pytest.raises(InvalidRequest, match=f"--limit {name}=") as caught:
        order(**beyond).check_size()
    assert caught.value.param == next(iter(beyond))


# grammar_seconds, grammar_memory


_SLOW: dict[str, Any] = {"allOf": [{"type": "string", "pattern": f"^(a|b)*a(a|b){{{i}}}$"} for i in range(60)]}
_LARGE = "start: " + " | ".join(f'"word {i}"' for i in range(10000))


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [("grammar_seconds", "1", {"json_schema": _SLOW}), ("grammar_memory", "150MiB", {"grammar": _LARGE})],
)
def test_a_grammar_has_limited_time_and_memory(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, form: dict[str, Any]
) -> None:
    monkeypatch.setenv(f"GALAGO_LIMIT_{name.upper()}", value)
    tokens = [bytes([i]) for i in range(256)] + [b"\xff<end>"]
    processes = GrammarProcesses(lambda: describe_model(tokens, [256], HERMES.name, {}))
    usual, beyond = order(regex="a+").to_json(), order(**form).to_json()
    assert usual and beyond
    with pytest.raises(TrialFailed) as caught:
        processes.write(beyond, lambda: False)
    assert f"--limit {name}=" in caught.value.error("grammar").message
    assert processes.write(usual, lambda: False)[1] == "regex"
    processes.close()


# media_bytes, media_pixels, audio_seconds; decoding_seconds is in media/test_decoding.py


@pytest.mark.parametrize(
    ("name", "value", "fits", "exceeds"),
    [
        ("media_bytes", "1000", "10x10.bmp", "30x30.bmp"),
        ("media_pixels", "100", "10x10.bmp", "10x11.bmp"),
        ("audio_seconds", "1", "1.wav", "2.wav"),
    ],
)
def test_media_may_be_as_large_as_their_limits(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, fits: str, exceeds: str
) -> None:
    monkeypatch.setenv(f"GALAGO_LIMIT_{name.upper()}", value)
    decode_file(fits)
    with pytest.raises(MediaError, match=name):
        decode_file(exceeds)


def decode_file(name: str) -> None:
    """Decodes a black image or silent audio; the name is its size or its seconds."""
    out = io.BytesIO()
    size, _, kind = name.partition(".")
    if kind == "wav":
        soundfile.write(out, np.zeros(8000 * int(size)), 8000, format="WAV")
        decode_audio(out.getvalue(), 8000, MediaLimits())
    else:
        width, _, height = size.partition("x")
        Image.new("RGB", (int(width), int(height))).save(out, "BMP")
        decode_image(out.getvalue(), MediaLimits())
