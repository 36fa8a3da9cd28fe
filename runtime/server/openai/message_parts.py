"""The parts of a message, from wire shapes to values: texts, and media that stand in the request or are named there."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from ....models.errors import InvalidRequest, MediaError
from ...media.sniff import describe, kind_of
from ...types import messages
from ...types.messages import Audio, Image, Part, Text
from . import schema

_DATA_URI = re.compile(r'\s*data:(?:[^",]|"[^"]{0,999}"){0,999},', re.IGNORECASE)
_BASE64 = re.compile(r";\s*base64\s*,$", re.IGNORECASE)
_WHITE, _URL_SAFE = b" \t\r\n\f", bytes.maketrans(b"-_", b"+/")

Files: TypeAlias = Callable[[str, str], bytes]
"""The bytes of an uploaded file, by its id and the field that names it."""
Read: TypeAlias = Callable[[str, str], bytes]
"""The bytes that stand in a field, by its text and its path."""


def of_content(content: Any, path: str, files: Files) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(part, f"{path}[{i}]", files) for i, part in enumerate(content))


def _part(part: schema.TextPart | schema.RefusalPart | schema.MediaPart, path: str, files: Files) -> Part:
    match part:
        case schema.TextPart(text=text):
            return Text(text)
        case schema.RefusalPart(refusal=text):
            return Text(text)
        case schema.ImagePart(image_url=image):
            path = f"{path}.image_url"
            if isinstance(image, str):
                return Image(data_uri(image, path), path)
            return Image(*media(image.url, image.file_id, path, "url", data_uri, files))
        case schema.AudioPart(input_audio=audio):
            return sound(audio, path, files)
        case schema.VideoPart(input_video=video):
            path = f"{path}.input_video"
            frames = messages.FRAMES if video.frames is None else video.frames
            return messages.Video(*media(video.data, video.file_id, path, "data", either, files), frames)
        case schema.FilePart(file=file):
            return of_any_kind(*media(file.file_data, file.file_id, f"{path}.file", "file_data", either, files))


def sound(audio: schema.InputAudio, path: str, files: Files) -> Audio:
    return Audio(*media(audio.data, audio.file_id, f"{path}.input_audio", "data", either, files))


def media(given: str | None, file_id: str | None, path: str, field: str, read: Read, files: Files) -> tuple[bytes, str]:
    """The bytes of a picture, sound or film that stands in the request or is named there, and the field that did it."""
    if file_id is not None and given is None:
        return files(file_id, f"{path}.file_id"), f"{path}.file_id"
    if given is None or file_id is not None:
        wrong = "missing; give it or a file_id" if given is None else "there is a file_id, too; give one of them"
        raise InvalidRequest(f"{path}.{field}: {wrong}", f"{path}.{field}")
    return read(given, f"{path}.{field}"), f"{path}.{field}"


def of_any_kind(data: bytes, source: str) -> Part:
    """A picture, sound or film, as its bytes begin. Raises `MediaError` for anything else."""
    match kind_of(data):
        case "picture":
            return Image(data, source)
        case "sound":
            return Audio(data, source)
        case "film":
            return messages.Video(data, source)
    raise MediaError(f"{source} is {describe(data)}; a picture, a sound or a film can be shown to a model", source)


def data_uri(url: str, source: str) -> bytes:
    """The bytes in a data URI (RFC 2397), in base64 or percent-encoded; `source` names the field."""
    head = _DATA_URI.match(url)
    if head is None:
        shown = url[:40]
        raise MediaError(
            f"{source} is not a data URI but {shown!r}; media is never fetched from elsewhere, send "
            "data:image/png;base64,...",
            source,
        )
    data = url[head.end() :]
    if _BASE64.search(head[0]) is None:
        return unquote_to_bytes(data)
    return base64_bytes(unquote_to_bytes(data) if "%" in data else data, source)


def base64_bytes(data: str | bytes, source: str) -> bytes:
    """The bytes that stand in base64 in the field `source`.

    In either alphabet of RFC 4648; white space may stand anywhere, and the padding be missing.
    """
    try:
        given = data.encode("ascii") if isinstance(data, str) else data
        given = given.translate(_URL_SAFE, _WHITE)
        return base64.b64decode(given + b"=" * (-len(given) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{source} is not valid base64: {error}", source) from error


def either(data: str, source: str) -> bytes:
    """The bytes that stand in a field as a data URI or in base64 alone."""
    return data_uri(data, source) if data[:5].lower() == "data:" else base64_bytes(data, source)
