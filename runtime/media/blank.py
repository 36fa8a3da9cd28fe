"""A gray image and silence, as files: to test a projector, and as a baseline for the effect of real media."""

from __future__ import annotations

import io
import struct
import wave
import zlib

from ..types.messages import Audio, Image


def gray_image(side: int = 256) -> Image:
    """Returns a gray square as a PNG file (PNG specification, third edition: 8 bits of gray, no filter)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return Image(data, "gray image")


def silence(seconds: int = 2, rate: int = 16000) -> Audio:
    """Returns silence as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * rate * seconds))
    return Audio(out.getvalue(), "silence")
