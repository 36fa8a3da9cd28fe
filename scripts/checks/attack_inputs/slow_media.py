"""Media that take long to decode, also from clients that leave at once."""

from __future__ import annotations

import base64
import functools
import io
import threading
from typing import Any

import numpy as np
from PIL import Image

from .target import CHAT, Target, head

_DATA_URI = "data:image/jpeg;base64,"


@functools.cache
def progressive_jpeg(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG of noise whose last scan is repeated."""
    out = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(out, "JPEG", progressive=True, quality=5)
    data = out.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * scans + data[-2:]


@functools.cache
def _body(data: bytes) -> bytes:
    uri = _DATA_URI.encode() + base64.b64encode(data)
    part = b'{"type": "image_url", "image_url": {"url": "%s"}}' % uri
    return b'{"messages": [{"role": "user", "content": [%s]}], "max_tokens": 1}' % part


def _leave(target: Target, data: bytes) -> list[int | str]:
    """Sends a picture and closes the connection without waiting for the answer."""
    body = _body(data)
    with target.open(head(CHAT, f"content-length: {len(body)}") + b"\r\n" + body):
        threading.Event().wait(0.2)
    return ["left"]


def picture_of_5000_scans(target: Target) -> list[int]:
    return [target.post(CHAT, _body(progressive_jpeg(256, 256, 5000)))]


def large_picture_of_many_scans(target: Target) -> list[int]:
    return [target.post(CHAT, _body(progressive_jpeg(1500, 1500, 500)))]


def clients_that_leave_their_pictures(target: Target) -> list[Any]:
    return _leave(target, progressive_jpeg(256, 256, 5000))


def small_pictures_beside_slow_ones(target: Target) -> list[int]:
    slow = threading.Thread(target=target.post, args=(CHAT, _body(progressive_jpeg(256, 256, 5000))))
    slow.start()
    statuses = [target.post(CHAT, _body(progressive_jpeg(32, 32, 1))) for _ in range(5)]
    slow.join()
    return statuses


def picture_of_the_most_pixels(target: Target) -> list[int]:
    out = io.BytesIO()
    Image.new("L", (8000, 8000)).save(out, "PNG", compress_level=1)
    return [target.post(CHAT, _body(out.getvalue()))]


def compressed_silence(target: Target) -> list[int]:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, np.zeros((192_000 * 60, 8), np.int16), 192_000, format="FLAC")
    audio = {"data": base64.b64encode(out.getvalue()).decode(), "format": "flac"}
    return [target.chat({"type": "input_audio", "input_audio": audio})]
