"""Media in every encoding that clients use: the same bytes reach the model, and the answer is the same."""

from __future__ import annotations

import base64
import io
import tracemalloc
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
import soundfile

from fakes.server import DATA, Server, text_part
from galago.models.errors import MediaError
from galago.runtime.server.openai.chat import message_parts

PICTURE, SOUND = (DATA / "picture-5.png").read_bytes(), (DATA / "sound-1.wav").read_bytes()
ODD = bytes(range(256)) + b"\xfb\xff\xbf?"


def wrapped(text: str, newline: str) -> str:
    return newline.join(text[i : i + 76] for i in range(0, len(text), 76))


def uris(data: bytes) -> Iterator[str]:
    """Data URIs (RFC 2397) of some bytes, with the variants of base64 in RFC 4648 and MIME."""
    plain = base64.b64encode(data).decode()
    for head in (
        "data:image/png;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:;base64,",
        "data:base64;base64,",
        "data:image/png;charset=utf-8;name=x.png;base64,",
        'data:image/png;name="a, b;base64,c";base64,',
        "data:image/png; base64 ,",
    ):
        yield head + plain
    for text in (
        plain.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        wrapped(plain, "\n"),
        wrapped(plain, "\r\n") + "\r\n",
        quote(plain, safe=""),
        " " + plain,
    ):
        yield "data:image/png;base64," + text
    yield " \n" + "data:image/png;base64," + plain
    yield "data:image/png," + quote_from_bytes(data)
    yield "data:," + quote_from_bytes(data, safe="")


@pytest.mark.parametrize("data", [ODD, PICTURE, b"a", b"ab", b"abc"], ids=["odd", "picture", "1", "2", "3"])
def test_every_form_of_a_data_uri_has_the_same_bytes(data: bytes) -> None:
    for uri in uris(data):
        assert message_parts.from_data_uri(uri, "x") == data, uri[:60]
        assert message_parts.from_data_uri_or_base64(uri.lstrip(), "x") == data


@pytest.mark.parametrize("piece", [4, 5, 7, 64])
def test_a_data_uri_has_the_same_bytes_in_whichever_pieces_it_is_decoded(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_parts, "_PIECE_CHARACTERS", piece)
    for data in (ODD, b"a", b"ab"):
        for uri in uris(data):
            assert message_parts.from_data_uri(uri, "x") == data, uri[:60]
    with pytest.raises(MediaError, match="after the padding|padding"):
        message_parts.from_base64("YWI=" + "YWJj" * 20, "x")


def test_a_large_data_uri_is_decoded_without_a_copy_of_it() -> None:
    size_bytes = 8_000_000
    uri = "data:image/png;base64," + base64.b64encode(bytes(size_bytes)).decode()
    tracemalloc.start()
    message_parts.from_data_uri(uri, "x")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1.5 * size_bytes


@pytest.mark.parametrize("data", ["a", "ab=c", "====", "a===", "ab\u00e4c", "ab$c", "data:,x"])
def test_invalid_base64_is_refused(data: str) -> None:
    with pytest.raises(MediaError, match="x is not valid base64"):
        message_parts.from_base64(data, "x")


@pytest.mark.parametrize("uri", ["", "data:", "data:image/png;base64", "http://localhost/x,y", "x data:,", "d,"])
def test_invalid_data_uris_are_refused(uri: str) -> None:
    with pytest.raises(MediaError, match="x is not a data URI"):
        message_parts.from_data_uri(uri, "x")


def test_an_endless_data_uri_is_refused_quickly() -> None:
    for filling in ("a", '"', '"a', ";", "\n"):
        with pytest.raises(MediaError):
            message_parts.from_data_uri("data:" + filling * 5_000_000, "x")


def seen(server: Server, part: dict[str, Any], question: str = "Count the shapes.") -> str:
    answer = server.ask([part, text_part(question)], max_tokens=8)
    assert answer.status_code == 200, answer.text
    assert "warnings" not in answer.json()
    return str(answer.json()["choices"][0]["message"]["content"])


def test_an_image_is_accepted_in_every_form(server: Server) -> None:
    uri = next(uris(PICTURE))
    expected = seen(server, {"type": "image_url", "image_url": {"url": uri}})
    for other in (*uris(PICTURE),):
        assert seen(server, {"type": "image_url", "image_url": {"url": other}}) == expected
    assert seen(server, {"type": "image_url", "image_url": uri}) == expected
    cached = {"type": "image_url", "image_url": {"url": uri}, "cache_control": {"type": "ephemeral"}}
    assert seen(server, cached) == expected


@pytest.mark.parametrize("form", ["MP3", "FLAC", "OGG", "AIFF"])
def test_audio_is_accepted_in_every_format(server: Server, form: str) -> None:
    samples, rate = soundfile.read(io.BytesIO(SOUND))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form)
    plain = base64.b64encode(SOUND).decode()
    expected = seen(server, {"type": "input_audio", "input_audio": {"data": plain, "format": "wav"}}, "Repeat.")
    other = base64.b64encode(buffer.getvalue()).decode()
    for data in (other, wrapped(plain, "\n"), f"data:audio/wav;base64,{plain}"):
        assert seen(server, {"type": "input_audio", "input_audio": {"data": data}}, "Repeat.") == expected
