"""Media parts of a message: images, audio and video that stand in the request or name an uploaded file."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from .....models.errors import InvalidRequest, MediaError
from ....media.sniff import describe, kind_of
from ....types import messages
from ....types.messages import Audio, Image, Part, Text
from . import schema

_DATA_URI = re.compile(r'\s*data:(?:[^",]|"[^"]{0,999}"){0,999},', re.IGNORECASE)
_BASE64 = re.compile(r";\s*base64\s*,$", re.IGNORECASE)
_WHITESPACE, _URL_SAFE = b" \t\r\n\f", bytes.maketrans(b"-_", b"+/")

ReadFile: TypeAlias = Callable[[str, str], bytes]
"""Returns the bytes of an uploaded file, given its id and the field that names it."""
DecodeMedia: TypeAlias = Callable[[str, str], bytes]
"""Returns the bytes that a field holds as text, given the text and the field's path."""


def to_part(part: schema.TextPart | schema.RefusalPart | schema.MediaPart, path: str, read_file: ReadFile) -> Part:
    match part:
        case schema.TextPart(text=text):
            return Text(text)
        case schema.RefusalPart(refusal=text):
            return Text(text)
        case schema.ImagePart(image_url=image):
            path = f"{path}.image_url"
            if isinstance(image, str):
                return Image(from_data_uri(image, path), path)
            return Image(*media_bytes(image.url, image.file_id, path, "url", from_data_uri, read_file))
        case schema.AudioPart(input_audio=audio):
            return audio_part(audio, path, read_file)
        case schema.VideoPart(input_video=video):
            path = f"{path}.input_video"
            frames = messages.DEFAULT_VIDEO_FRAMES if video.frames is None else video.frames
            data = media_bytes(video.data, video.file_id, path, "data", from_data_uri_or_base64, read_file)
            return messages.Video(*data, frames)
        case schema.FilePart(file=file):
            path = f"{path}.file"
            data = media_bytes(file.file_data, file.file_id, path, "file_data", from_data_uri_or_base64, read_file)
            return text_file(data[0], file.filename) or file_part(*data)


def audio_part(audio: schema.InputAudio, path: str, read_file: ReadFile) -> Audio:
    path = f"{path}.input_audio"
    return Audio(*media_bytes(audio.data, audio.file_id, path, "data", from_data_uri_or_base64, read_file))


def media_bytes(
    text: str | None, file_id: str | None, path: str, field: str, decode: DecodeMedia, read_file: ReadFile
) -> tuple[bytes, str]:
    """The bytes of media that stand in the field or in an uploaded file, and the path of the field that gave them."""
    if file_id is not None and text is None:
        return read_file(file_id, f"{path}.file_id"), f"{path}.file_id"
    if text is None or file_id is not None:
        problem = "missing; give it or a file_id" if text is None else "there is also a file_id; give only one of them"
        raise InvalidRequest(f"{path}.{field}: {problem}", f"{path}.{field}")
    return decode(text, f"{path}.{field}"), f"{path}.{field}"


def text_file(data: bytes, name: str | None) -> Text | None:
    """The text of a text file with the file's name, or `None` for other files."""
    if not data or b"\0" in data or data.startswith(b"%PDF") or kind_of(data) is not None:
        return None
    try:
        return Text(f"[file {name or 'without a name'}]\n{data.decode()}")
    except UnicodeDecodeError:
        return None


def file_part(data: bytes, source: str) -> Part:
    """An image, audio or video part, by the first bytes of the file. Raises `MediaError` for other files."""
    match kind_of(data):
        case "image":
            return Image(data, source)
        case "audio":
            return Audio(data, source)
        case "video":
            return messages.Video(data, source)
    raise MediaError(f"{source} is {describe(data)}; only image, audio and video files are supported", source)


def from_data_uri(url: str, source: str) -> bytes:
    """The bytes in a data URI (RFC 2397), in base64 or percent-encoded; `source` names the field."""
    head = _DATA_URI.match(url)
    if head is None:
        raise MediaError(
            f"{source} is not a data URI but {url[:40]!r}; this server never fetches media, "
            "send it as data:image/png;base64,...",
            source,
        )
    data = url[head.end() :]
    if _BASE64.search(head[0]) is None:
        return unquote_to_bytes(data)
    return from_base64(unquote_to_bytes(data) if "%" in data else data, source)


def from_base64(data: str | bytes, source: str) -> bytes:
    """The bytes that the field `source` holds in base64.

    Accepts both alphabets of RFC 4648, whitespace anywhere, and missing padding.
    """
    try:
        encoded = data.encode("ascii") if isinstance(data, str) else data
        encoded = encoded.translate(_URL_SAFE, _WHITESPACE)
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{source} is not valid base64: {error}", source) from error


def from_data_uri_or_base64(data: str, source: str) -> bytes:
    return from_data_uri(data, source) if data[:5].lower() == "data:" else from_base64(data, source)
