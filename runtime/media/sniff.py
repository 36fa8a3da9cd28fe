"""What kind of file some bytes are, by how they begin. Decodes nothing and vouches for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

FileKind: TypeAlias = Literal["picture", "sound", "film"]
Table: TypeAlias = Iterable[tuple[bytes, str]]

# What the first bytes of a file are, as patterns. The first that fits counts.
_PICTURES = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (rb"\xff\xd8\xff", "a JPEG picture"),
    (rb"RIFF....WEBP", "a WebP picture"),
    (rb"GIF8[79]a", "a GIF picture"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF picture"),
    (rb"BM", "a BMP picture"),
)
_SOUNDS = (
    (rb"RIFF....WAVE", "a WAV sound"),
    (rb"FORM....AIF[FC]", "an AIFF sound"),
    (rb"fLaC", "a FLAC sound"),
    (rb"OggS", "an OGG sound"),
    (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "an MP3 sound"),
)
_FILMS = (
    (rb"....ftyp(?!hei|hev|mif1|msf1|avi|M4A)", "an MP4 film or sound (convert its sound to WAV or MP3)"),
    (rb"\x1a\x45\xdf\xa3", "a WebM or Matroska file (convert its sound to WAV or MP3)"),
    (rb"RIFF....AVI ", "an AVI film"),
)
_OTHERS = (
    (rb"$", "an empty file"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC picture (convert it to JPEG or PNG)"),
    (rb"....ftypavi", "an AVIF picture (convert it to JPEG or PNG)"),
    (rb"....ftypM4A", "an M4A sound (AAC; convert it to WAV or MP3)"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "an AAC sound (convert it to WAV or MP3)"),
    (rb"#!AMR", "an AMR sound (convert it to WAV or MP3)"),
    (rb"\xff\x0a|....JXL ", "a JPEG XL picture (convert it to JPEG or PNG)"),
    (rb"8BPS", "a Photoshop file (convert it to JPEG or PNG)"),
    (rb"%PDF", "a PDF document (convert its pages to PNG)"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"#EXTM3U", "an HLS playlist"),
    (rb"ffconcat", "an ffmpeg playlist"),
    (rb"(?i)\s*<(!doctype html|html)", "an HTML page"),
    (rb"\s*<(svg|\?xml)", "an SVG drawing or other XML text (convert it to PNG)"),
    (rb"data:", "a data: URL, not its decoded bytes,"),
    (rb"https?://|file:", "a URL, not what it points to,"),
)


def kind_of(data: bytes) -> FileKind | None:
    """Which decoder is to read these bytes; `None`: none of them can."""
    tables: dict[FileKind, Table] = {"picture": _PICTURES, "sound": _SOUNDS, "film": _FILMS}
    return next((kind for kind, table in tables.items() if _find(table, data)), None)


def container_of(film: bytes) -> str:
    """What FFmpeg calls the container of a film."""
    return next(name for name, row in zip(("mov", "matroska", "avi"), _FILMS, strict=True) if _find((row,), film))


def describe(data: bytes) -> str:
    """What the bytes look like, with what to do about it: "a HEIC picture (convert it to JPEG or PNG)"."""
    found = _find((*_PICTURES, *_SOUNDS, *_FILMS, *_OTHERS), data)
    return found or f"what begins with the bytes {data[:8].hex(' ')}"


def _find(table: Table, data: bytes) -> str | None:
    start = data[:64].removeprefix(b"\xef\xbb\xbf")
    return next((name for pattern, name in table if re.match(pattern, start, re.DOTALL)), None)
