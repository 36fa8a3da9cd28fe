"""The parts of a message, from wire shapes to values: texts, and media that stand in the request or are named there."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from ...models.errors import InvalidRequest, MediaError
from .. import films, values
from ..prompt.kinds import describe, kind_of
from . import wire

_DATA_URI = re.compile(r"data:[^,;]*(?:;[^,;]+)*;base64,", re.IGNORECASE)

Files: TypeAlias = Callable[[str, str], bytes]
"""The bytes of an uploaded file, by its id and the field that names it."""
Read: TypeAlias = Callable[[str, str], bytes]
"""The bytes that stand in a field, by its text and its path."""


def of_content(content: Any, path: str, files: Files) -> tuple[values.Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (values.Text(content),)
    return tuple(_part(part, f"{path}[{i}]", files) for i, part in enumerate(content))


def _part(part: wire.TextPart | wire.MediaPart, path: str, files: Files) -> values.Part:
    match part:
        case wire.TextPart(text=text):
            return values.Text(text)
        case wire.ImagePart(image_url=image):
            return values.Image(*media(image.url, image.file_id, f"{path}.image_url", "url", data_uri, files))
        case wire.AudioPart(input_audio=audio):
            return sound(audio, path, files)
        case wire.VideoPart(input_video=video):
            path = f"{path}.input_video"
            frames = films.FRAMES if video.frames is None else video.frames
            return films.Video(*media(video.data, video.file_id, path, "data", base64_bytes, files), frames)
        case wire.FilePart(file=file):
            return of_any_kind(*media(file.file_data, file.file_id, f"{path}.file", "file_data", _either, files))


def sound(audio: wire.InputAudio, path: str, files: Files) -> values.Audio:
    return values.Audio(*media(audio.data, audio.file_id, f"{path}.input_audio", "data", base64_bytes, files))


def media(given: str | None, file_id: str | None, path: str, field: str, read: Read, files: Files) -> tuple[bytes, str]:
    """The bytes of a picture, sound or film that stands in the request or is named there, and the field that did it."""
    if file_id is not None and given is None:
        return files(file_id, f"{path}.file_id"), f"{path}.file_id"
    if given is None or file_id is not None:
        wrong = "missing; give it or a file_id" if given is None else "there is a file_id, too; give one of them"
        raise InvalidRequest(f"{path}.{field}: {wrong}", f"{path}.{field}")
    return read(given, f"{path}.{field}"), f"{path}.{field}"


def of_any_kind(data: bytes, source: str) -> values.Part:
    """A picture, sound or film, as its bytes begin. Raises `MediaError` for anything else."""
    match kind_of(data):
        case "picture":
            return values.Image(data, source)
        case "sound":
            return values.Audio(data, source)
        case "film":
            return films.Video(data, source)
    raise MediaError(f"{source} is {describe(data)}; a picture, a sound or a film can be shown to a model", source)


def data_uri(url: str, source: str) -> bytes:
    """The bytes in a data URI; `source` names the field."""
    head = _DATA_URI.match(url)
    if head is None:
        shown = url[:40]
        raise MediaError(
            f"{source} is not a base64 data URI but {shown!r}; media is never fetched from elsewhere, send "
            "data:image/png;base64,...",
            source,
        )
    return base64_bytes(url[head.end() :], source)


def base64_bytes(data: str, source: str) -> bytes:
    """The bytes that stand in base64 in the field `source`."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{source} is not valid base64: {error}", source) from error


def _either(data: str, source: str) -> bytes:
    return data_uri(data, source) if data.startswith("data:") else base64_bytes(data, source)
