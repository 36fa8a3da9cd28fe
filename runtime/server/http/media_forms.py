"""Pictures, sounds, videos and files in the forms of MCP, LangChain and Vercel's AI SDK."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple, TypeAlias

MediumKind: TypeAlias = Literal["image", "audio", "video", "file"]

TYPES = frozenset(
    ("image", "audio", "video", "file", "media", "resource", "image-data", "file-data", "image-url", "file-url")
)
"""The types of parts that may be media in these forms."""
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:")
_DATA_FIELDS = ("data", "base64", "blob", "image", "audio", "video", "file", "url")
_MIME_FIELDS = ("mimeType", "mediaType", "mime_type", "media_type")


class Medium(NamedTuple):
    """A medium and its file's name. `uri` is a data URI, or an address that this server does not fetch."""

    kind: MediumKind
    uri: str
    name: str | None


def medium_of(part: dict[str, Any]) -> Medium | None:
    """The medium in a part, if the part has one of these forms."""
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        return None
    if kind == "resource" and isinstance(part.get("resource"), dict):
        part = part["resource"]
    field, given = next(((name, part[name]) for name in _DATA_FIELDS if isinstance(part.get(name), str)), ("", ""))
    if not field:
        return None
    mime = next((part[name] for name in _MIME_FIELDS if isinstance(part.get(name), str)), "")
    name = next((part[name] for name in ("filename", "name", "uri") if isinstance(part.get(name), str)), None)
    is_uri = field == "url" or _SCHEME.match(given)
    uri = given if is_uri else f"data:{mime};base64,{given}"
    return Medium(_medium_kind(kind, mime), uri, name)


def _medium_kind(kind: str, mime: str) -> MediumKind:
    family = mime.partition("/")[0].lower()
    kinds: tuple[MediumKind, ...] = ("image", "audio", "video")
    return next((one for one in kinds if one in (family, kind.partition("-")[0])), "file")
