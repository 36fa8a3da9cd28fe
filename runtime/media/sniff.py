"""Detects the format of a file by its first bytes. Decodes and validates nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

FileKind: TypeAlias = Literal["image", "audio", "video"]
SignatureTable: TypeAlias = Iterable[tuple[bytes, str]]

# Patterns of the first bytes of a file. The first match counts.
_IMAGES = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"RIFF....WEBP", "a WebP image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF image"),
    (rb"BM", "a BMP image"),
)
_AUDIO = (
    (rb"RIFF....WAVE", "a WAV file"),
    (rb"FORM....AIF[FC]", "an AIFF file"),
    (rb"fLaC", "a FLAC file"),
    (rb"OggS", "an OGG file"),
    (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "an MP3 file"),
)
_VIDEO = (
    (rb"....ftyp(?!hei|hev|mif1|msf1|avi|M4A)", "an MP4 video or audio file (convert its audio to WAV or MP3)"),
    (rb"\x1a\x45\xdf\xa3", "a WebM or Matroska file (convert its audio to WAV or MP3)"),
    (rb"RIFF....AVI ", "an AVI video"),
)
_UNSUPPORTED_MEDIA = (
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC image (convert it to JPEG or PNG)"),
    (rb"....ftypavi", "an AVIF image (convert it to JPEG or PNG)"),
    (rb"....ftypM4A", "an M4A audio file (AAC; convert it to WAV or MP3)"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "an AAC audio file (convert it to WAV or MP3)"),
    (rb"#!AMR", "an AMR audio file (convert it to WAV or MP3)"),
    (rb"\xff\x0a|....JXL ", "a JPEG XL image (convert it to JPEG or PNG)"),
    (rb"8BPS", "a Photoshop file (convert it to JPEG or PNG)"),
)
_OTHER = (
    (rb"$", "an empty file"),
    (rb"%PDF", "a PDF document (convert its pages to PNG)"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"#EXTM3U", "an HLS playlist"),
    (rb"ffconcat", "an ffmpeg playlist"),
    (rb"(?i)\s*<(!doctype html|html)", "an HTML page"),
    (rb"\s*<(svg|\?xml)", "an SVG drawing or other XML text (convert it to PNG)"),
    (rb"data:", "a data: URL, not its decoded bytes,"),
    (rb"https?://|file:", "a URL, not the file it points to,"),
)


def kind_of(data: bytes) -> FileKind | None:
    """The kind of decoder for these bytes, or `None` if none can read them."""
    tables: dict[FileKind, SignatureTable] = {"image": _IMAGES, "audio": _AUDIO, "video": _VIDEO}
    return next((kind for kind, table in tables.items() if _find(table, data)), None)


def is_medium(data: bytes) -> bool:
    """Whether these bytes are an image, audio or video file, even of a format that cannot be read."""
    return kind_of(data) is not None or _find(_UNSUPPORTED_MEDIA, data) is not None


def container_of(video: bytes) -> str:
    """FFmpeg's name for the container of a video."""
    containers = zip(("mov", "matroska", "avi"), _VIDEO, strict=True)
    return next(name for name, signature in containers if _find((signature,), video))


def describe(data: bytes) -> str:
    """The format that the bytes look like, with advice: "a HEIC image (convert it to JPEG or PNG)"."""
    known = _find((*_IMAGES, *_AUDIO, *_VIDEO, *_UNSUPPORTED_MEDIA, *_OTHER), data)
    return known or f"a file that starts with the bytes {data[:8].hex(' ')}"


def _find(table: SignatureTable, data: bytes) -> str | None:
    start = data[:64].removeprefix(b"\xef\xbb\xbf")
    return next((name for pattern, name in table if re.match(pattern, start, re.DOTALL)), None)
