"""Media parts of a message: images, audio and video that are in the request or in an uploaded file."""

from __future__ import annotations

import binascii
import io
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from .....models.errors import InvalidRequest, MediaError, NotFound
from ....media.sniff import describe, is_medium, kind_of
from ....types import messages
from ....types.messages import Audio, Image, Part, Text, Unreadable
from . import schema

_DATA_URI = re.compile(r'\s*data:(?:[^",]|"[^"]{0,999}"){0,999},', re.IGNORECASE)
_BASE64 = re.compile(r";\s*base64\s*,$", re.IGNORECASE)
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:")
_WHITESPACE, _URL_SAFE = b" \t\r\n\f", bytes.maketrans(b"-_", b"+/")

_PIECE_CHARACTERS = 1 << 16

MAX_NAME_CHARACTERS = 200
_NAMES: dict[type, str] = {
    schema.ImagePart: "picture",
    schema.AudioPart: "sound",
    schema.VideoPart: "video",
    schema.FilePart: "file",
}

ReadFile: TypeAlias = Callable[[str, str], bytes]
"""Returns the bytes of an uploaded file, given its id and the field that names it."""
DecodeMedia: TypeAlias = Callable[[str, str], bytes]
"""Returns the bytes that a field holds as text, given the text and the field's path."""


def readable(name: str, path: str, read: Callable[[], Part]) -> Part:
    """The part that `read` returns, or one that says why it cannot be read. Its place decides whether it is refused."""
    try:
        return read()
    except (InvalidRequest, NotFound) as error:
        error.param = error.param or path
        return Unreadable(name, error)


def to_part(part: schema.TextPart | schema.RefusalPart | schema.MediaPart, path: str, read_file: ReadFile) -> Part:
    name = _NAMES.get(type(part), "")
    return readable(name, path, lambda: _read_part(part, path, read_file))


def _read_part(part: schema.TextPart | schema.RefusalPart | schema.MediaPart, path: str, read_file: ReadFile) -> Part:
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
            return file_part(file.file_data, file.file_id, f"{path}.file", file.filename, read_file)


def audio_part(audio: schema.InputAudio, path: str, read_file: ReadFile) -> Audio:
    path = f"{path}.input_audio"
    return Audio(*media_bytes(audio.data, audio.file_id, path, "data", from_data_uri_or_base64, read_file))


def media_bytes(
    text: str | None, file_id: str | None, path: str, field: str, decode: DecodeMedia, read_file: ReadFile
) -> tuple[bytes, str]:
    """The bytes of media in the field or in an uploaded file, and the path of the field that they come from."""
    if file_id is not None and text is None:
        return read_file(file_id, f"{path}.file_id"), f"{path}.file_id"
    if text is None or file_id is not None:
        problem = "missing; give it or a file_id" if text is None else "there is also a file_id; give only one of them"
        raise InvalidRequest(f"{path}.{field}: {problem}", f"{path}.{field}")
    return decode(text, f"{path}.{field}"), f"{path}.{field}"


def file_part(text: str | None, file_id: str | None, path: str, filename: str | None, read_file: ReadFile) -> Part:
    """An image, audio or video part, by the first bytes of the file, the text of a text file, or the file's name."""
    name = f"file {(filename or file_id or 'without a name')[:MAX_NAME_CHARACTERS]}"
    if text is not None and _is_address(text):
        return unfetched_file(name, f"{path}.file_data")
    data, source = media_bytes(text, file_id, path, "file_data", from_data_uri_or_base64, read_file)
    return medium_part(data, source) or _text_file(data, name) or _other_file(data, source, name)


def medium_part(data: bytes, source: str) -> Part | None:
    """An image, audio or video part, by the first bytes of the file; `None` for other files."""
    match kind_of(data):
        case "image":
            return Image(data, source)
        case "audio":
            return Audio(data, source)
        case "video":
            return messages.Video(data, source)
    return None


def unfetched_file(name: str, source: str) -> Unreadable:
    return Unreadable(name, MediaError("this server fetches no files; send its data", source), required=False)


def _text_file(data: bytes, name: str) -> Text | None:
    if data and b"\0" not in data and not data.startswith(b"%PDF"):
        with suppress(UnicodeDecodeError):
            return Text(f"[{name}]\n{data.decode()}")
    return None


def _other_file(data: bytes, source: str, name: str) -> Unreadable:
    """A file that is named to the model, or refused in the question if it is a medium."""
    problem = f"it is {describe(data)}; only image, audio, video and text files can be shown to a model"
    return Unreadable(name, MediaError(problem, source), required=is_medium(data))


def _is_address(text: str) -> bool:
    """Whether a text is a URI other than a data URI."""
    return _SCHEME.match(text) is not None and text.lstrip()[:5].lower() != "data:"


def from_data_uri(url: str, source: str) -> bytes:
    """The bytes in a data URI (RFC 2397), in base64 or percent-encoded; `source` names the field."""
    head = _DATA_URI.match(url)
    if head is None:
        raise MediaError(
            f"{source} is not a data URI but {url[:40]!r}; this server never fetches media, "
            "send it as data:image/png;base64,...",
            source,
        )
    if _BASE64.search(head[0]) is None:
        return _unquoted(url, head.end())
    if url.find("%", head.end()) < 0:
        return from_base64(url, source, head.end())
    return from_base64(_unquoted(url, head.end()).decode("latin-1"), source)


def _unquoted(text: str, start: int) -> bytes:
    """The bytes of a percent-encoded text after `start`, decoded piece by piece as quoted-printable.

    `unquote_to_bytes` takes ten times as long and fifty times the text's memory.
    """
    decoded = io.BytesIO()
    while start < len(text):
        end = start + _PIECE_CHARACTERS
        cut = text.find("%", end - 2, end)  # an escape that goes on in the next piece
        end = end if cut < 0 else cut
        decoded.write(binascii.a2b_qp(text[start:end].replace("=", "%3D").replace("%", "=").encode()))
        start = end
    return decoded.getvalue()


def from_base64(text: str, source: str, start: int = 0) -> bytes:
    """The bytes in a base64 text after `start`, decoded piece by piece without a copy of it; `source` names the field.

    Accepts both alphabets of RFC 4648, whitespace anywhere, and missing padding.
    """
    decoded, left, is_padded = io.BytesIO(), b"", False
    try:
        for i in range(start, len(text), _PIECE_CHARACTERS):
            left += text[i : i + _PIECE_CHARACTERS].encode("ascii").translate(_URL_SAFE, _WHITESPACE)
            is_last = i + _PIECE_CHARACTERS >= len(text)
            left += b"=" * (-len(left) % 4) if is_last else b""
            whole = len(left) // 4 * 4
            if is_padded and left:
                raise binascii.Error("there is data after the padding")
            decoded.write(binascii.a2b_base64(left[:whole], strict_mode=True))
            is_padded, left = left[:whole].endswith(b"="), left[whole:]
    except ValueError as error:
        raise MediaError(f"{source} is not valid base64: {error}", source) from error
    return decoded.getvalue()


def from_data_uri_or_base64(data: str, source: str) -> bytes:
    return from_data_uri(data, source) if _SCHEME.match(data) else from_base64(data, source)
