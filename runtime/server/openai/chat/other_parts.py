"""Brings the parts of a message's content in the forms of other programs' clients into the documented form.

A part that is left out is replaced by an empty text, so that the numbers of the others stay the same in messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....types.warnings import Warnings
from ...http import shown_values
from ...http.media_forms import TYPES, medium_of
from ...http.text_forms import as_text

_TEXT_FIELDS = ("text", "content", "refusal", "thinking", "reasoning")
"""Fields that hold the text of parts of other types."""
_TEXTS = frozenset(("text", "input_text", "output_text"))
_CALLS = frozenset(("tool_use", "tool_call"))
_THOUGHTS = frozenset(("thinking", "reasoning", "reasoning_text"))


def adapt_parts(parts: list[Any], message: dict[str, Any], path: str, warnings: Warnings) -> list[Any]:
    """A copy of the parts. An assistant's thoughts and calls move from the content to the fields for them."""
    return [_part(part, message, f"{path}[{i}]", warnings) for i, part in enumerate(parts)]


def is_known_part(value: Any) -> bool:
    kind = value.get("type") if isinstance(value, dict) else None
    return isinstance(kind, str) and (
        kind in _TEXTS or kind in _MEDIA or kind in TYPES and medium_of(value) is not None
    )


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _part(part: Any, message: dict[str, Any], path: str, warnings: Warnings) -> Any:
    if isinstance(part, str):
        return text_part(part)
    if part is None:
        return _left_out(f"{path} is null", path, warnings)
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and kind is None:
        kind = next((name for name in part if name == "text" or name in _MEDIA), None)
        part = part if kind is None else {**part, "type": kind}
    if not isinstance(part, dict) or not isinstance(kind, str):
        return text_part(as_text(part, path, warnings))
    resource = part.get("resource")
    texts = resource if kind == "resource" and isinstance(resource, dict) else part
    text = next((texts[name] for name in _TEXT_FIELDS if isinstance(texts.get(name), str)), None)
    if message.get("role") == "assistant":
        if kind in _THOUGHTS and isinstance(part.get("thinking"), list):  # Mistral's parts inside
            pieces = [one.get("text") for one in part["thinking"] if isinstance(one, dict)]
            text = "".join(piece for piece in pieces if isinstance(piece, str))
        if kind in _THOUGHTS and text is not None:
            message["reasoning_content"] = "\n".join(filter(None, (message.get("reasoning_content"), text)))
            return text_part("")
        if kind in _CALLS and "name" in part:
            message["tool_calls"] = [*(message.get("tool_calls") or ()), part]
            return text_part("")
        if kind == "refusal" and text is not None:
            return {**part, "type": kind}
    if kind in _TEXTS:
        return _text(part, text, path, warnings)
    if (adapted := media_part(part)) is not None:
        return _with_cache_control(part, adapted)
    adapt_media = _MEDIA.get(kind)
    if adapt_media is not None:
        return adapt_media({**part, "type": kind}) or _left_out(f"{path} is a part without data", path, warnings)
    problem = f"{path} has the type {kind!r:.60}, which is not supported here"
    instead = "its fields are shown as text" if text is None else "its text is used"
    warnings.add_unless_strict(problem, path, instead=instead)
    return text_part(shown_values.as_text(kind, part, ("type", "id", "cache_control")) if text is None else text)


def media_part(part: dict[str, Any]) -> dict[str, Any] | None:
    """The documented form of a medium in the forms of MCP and frameworks; `None` for other parts."""
    medium = medium_of(part)
    match medium:
        case None:
            return None
        case ("image", uri, _):
            return {"type": "image_url", "image_url": {"url": uri}}
        case ("audio" | "video" as kind, uri, _):
            return {"type": f"input_{kind}", f"input_{kind}": {"data": uri}}
    file = {"file_data": medium.uri, "filename": medium.name}
    return {"type": "file", "file": {name: value for name, value in file.items() if value is not None}}


def _left_out(reason: str, path: str, warnings: Warnings) -> dict[str, Any]:
    warnings.add_unless_strict(reason, path, instead="it is left out")
    return text_part("")


def _text(part: dict[str, Any], text: str | None, path: str, warnings: Warnings) -> dict[str, Any]:
    if text is None:
        given = next((part[name] for name in _TEXT_FIELDS if part.get(name) is not None), None)
        if given is None:
            return _left_out(f"{path} has no text", path, warnings)
        text = as_text(given, f"{path}.text", warnings)
    others = {name: value for name, value in part.items() if name not in _TEXT_FIELDS}
    others.pop("annotations", None)
    return {**others, "type": "text", "text": text}


def _image(part: dict[str, Any]) -> dict[str, Any] | None:
    """OpenAI's `image_url` and `input_image`, Anthropic's `image` with a source, and `image` with a URI or data."""
    source = part.get("source")
    if isinstance(source, dict):
        url = source.get("url") or f"data:{source.get('media_type', 'image/png')};base64,{source.get('data', '')}"
    else:
        url = part.get("image_url") or part.get("image") or part.get("url")
    image = {"url": url} if isinstance(url, str) else url
    if image is None and part.get("file_id") is not None:
        image = {"file_id": part["file_id"]}
    if image is None:
        return None
    if isinstance(image, dict) and "detail" in part:
        image = {**image, "detail": part["detail"]}
    return _with_cache_control(part, {"type": "image_url", "image_url": image})


def _audio(part: dict[str, Any]) -> dict[str, Any] | None:
    """OpenAI's `input_audio`, and `audio_url` and `audio` with a data URI or base64."""
    return _recording(part, ("input_audio", "audio_url", "audio"), "input_audio")


def _video(part: dict[str, Any]) -> dict[str, Any] | None:
    return _recording(part, ("input_video", "video_url", "video"), "input_video")


def _recording(part: dict[str, Any], names: tuple[str, ...], name: str) -> dict[str, Any] | None:
    given = next((part[one] for one in names if part.get(one) is not None), None)
    if isinstance(given, dict) and "url" in given:
        given = {**{key: value for key, value in given.items() if key != "url"}, "data": given["url"]}
    elif isinstance(given, str):
        given = {"data": given}
    return None if given is None else _with_cache_control(part, {"type": name, name: given})


def _file(part: dict[str, Any]) -> dict[str, Any] | None:
    """OpenAI's `file`, and the Responses API's `input_file`, which has no object inside."""
    given = part.get("file")
    if given is None:
        given = {name: part[name] for name in ("file_id", "file_data", "filename") if part.get(name) is not None}
    return _with_cache_control(part, {"type": "file", "file": given}) if given else None


def _with_cache_control(part: dict[str, Any], adapted: dict[str, Any]) -> dict[str, Any]:
    return {**adapted, "cache_control": part["cache_control"]} if "cache_control" in part else adapted


_MEDIA: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
    "image_url": _image,
    "input_image": _image,
    "image": _image,
    "input_audio": _audio,
    "audio_url": _audio,
    "audio": _audio,
    "input_video": _video,
    "video_url": _video,
    "video": _video,
    "file": _file,
    "input_file": _file,
}
