"""Reads input items in the forms that clients send, and rewrites them to those that `item_schema.py` declares.

Items that only another service can run or read are shown to the model as text, or skipped; both with a warning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ....types.warnings import Warnings
from ...http import media_forms, message_forms, shown_values, text_forms
from . import compaction, tools
from .tools import JsonObject

FindItems: TypeAlias = Callable[[Sequence[str]], Mapping[str, JsonObject | None]]
"""Returns kept items by their ids, and `None` for items that are in the conversation already."""
_ROLES = ("user", "system", "developer", "assistant", "tool")
_TEXT_PARTS = ("text", "summary_text", "reasoning_text")
_IMAGE_PARTS = ("input_image", "image_url", "image", "computer_screenshot")
_KNOWN_PARTS = ("input_text", "output_text", "refusal", "input_audio", "input_file")
_COMPACTIONS = ("compaction", "compaction_summary", "context_compaction")
_SILENT = ("compaction_trigger", "configuration_update")
"""Items that are not shown to the model: they concern the request itself."""
_CALLS = ("local_shell_call", "shell_call", "apply_patch_call", "computer_call", "tool_search_call")
"""Calls of other services' tools whose results are items of their own."""
_CHAT_FIELDS = ("tool_calls", "function_call", "reasoning_content", "reasoning")
"""Fields of an assistant's message in the Chat Completions API that are items here."""
_UNSEEN = ("id", "status", "type", "created_by", "phase")


def rewritten(items: Sequence[Any], path: str, warnings: Warnings) -> list[JsonObject | None]:
    """The items in the declared forms, one for each; `None` for an item that is skipped."""
    rewriter = _Rewriter(path, warnings)
    return [rewriter.item(item, f"{path}[{i}]", i) for i, item in enumerate(items)]


def spread(items: Sequence[Any], path: str, warnings: Warnings) -> list[Any]:
    """The items, with the calls and the reasoning in an assistant's message of a chat as items of their own."""
    spread_items: list[Any] = []
    for i, item in enumerate(items):
        is_answer = isinstance(item, dict) and _kind(item) == "message" and any(map(item.get, _CHAT_FIELDS))
        spread_items += _spread(item, f"{path}[{i}]", warnings) if is_answer else (item,)
    return spread_items


def _spread(message: JsonObject, path: str, warnings: Warnings) -> Iterator[JsonObject]:
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        yield {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text_or_json(reasoning)}]}
    fields = {name: value for name, value in message.items() if name not in _CHAT_FIELDS}
    calls = message_forms.calls(message, path, warnings)
    if fields.get("content") or not calls:
        yield {"role": "assistant"} | fields
    for call in calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def with_kept_items(items: Sequence[Any], path: str, find: FindItems, warnings: Warnings) -> Sequence[Any]:
    """The items, with references replaced by the kept items; `None` for an item that the conversation has already."""
    ids = {i: item["id"] for i, item in enumerate(items) if _is_reference(item)}
    if not ids:
        return items
    referred = dict.fromkeys(ids.values())
    given = [item.get("id") for i, item in enumerate(items) if isinstance(item, dict) and i not in ids]
    kept_items = {**find(list(referred)), **{i: None for i in given if isinstance(i, str) and i in referred}}
    with_items = list(items)
    for i, item_id in ids.items():
        if item_id in kept_items:
            with_items[i], kept_items[item_id] = kept_items[item_id], None
            if with_items[i] is None:
                warnings.append(f"{path}[{i}] refers to an item that is in the conversation already; it is shown once")
    return with_items


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str) and _kind(item) == "item_reference"


class _Rewriter:
    """Rewrites items in order, and gives ids to calls and outputs that have none."""

    def __init__(self, path: str, warnings: Warnings) -> None:
        self._warnings = warnings
        self._unanswered: list[str] = []
        """Ids of calls without an output, oldest first."""

    def item(self, raw: Any, path: str, index: int) -> JsonObject | None:
        if raw is None:
            return None
        if isinstance(raw, str):
            return {"type": "message", "role": "user", "content": raw}
        if not isinstance(raw, dict):
            raw = {"type": "message", "role": "user", "content": raw}
        fields = {name: value for name, value in raw.items() if value is not None}
        kind = fields["type"] = _kind(fields)
        if kind == "message":
            fields["role"] = message_forms.nearest_role(fields, _ROLES, path, self._warnings)
            fields = message_forms.with_content(fields)
            if fields["role"] == "tool":
                kind, fields = "function_call_output", _tool_message(fields)
        match kind:
            case "message":
                return fields | {"content": self._content(fields.get("content"), f"{path}.content")}
            case "reasoning":
                return self._reasoning(fields, path)
            case "function_call" | "custom_tool_call":
                return self._call(fields, index)
            case "function_call_output" | "custom_tool_call_output":
                return self._output(fields, f"{path}.output")
            case "additional_tools":
                given = fields.get("tools")
                return {"type": kind, "tools": tools.kept(given if isinstance(given, list) else [], self._warnings)}
        if kind in _COMPACTIONS:
            return self._compaction(fields, path)
        return None if kind in _SILENT else self._foreign(fields, kind, path, index)

    def _foreign(self, fields: JsonObject, kind: Any, path: str, index: int) -> JsonObject | None:
        """An item of a kind that belongs to another service."""
        call_id = fields.get("call_id") or fields.get("id")
        if kind == "item_reference":
            problem = "input items of the type 'item_reference' refer to items that this server has not stored"
            self._warnings.add_unless_strict(problem, path, instead="they are left out")
            return None
        if kind in _CALLS and call_id:
            self._warn(kind, "shown to the model as function calls", path)
            arguments = fields.get("action") or fields.get("operation") or fields.get("arguments") or {}
            name = kind.removesuffix("_call")
            return self._call(
                {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}, index
            )
        if str(kind).endswith("_output") and call_id:
            self._warn(kind, "shown to the model as outputs of function calls", path)
            output = fields["output"] if "output" in fields else _json(fields.get("tools"))
            return self._output({"type": "function_call_output", "call_id": call_id, "output": output}, path)
        self._warn(kind, "shown to the model as text", path)
        role = "assistant" if str(kind).endswith("_call") else "user"
        return {"type": "message", "role": role, "content": shown_values.as_text(kind, fields, _UNSEEN)}

    def _warn(self, kind: Any, done: str, path: str) -> None:
        self._warnings.add_unless_strict(f"input items of the type {str(kind)[:60]!r} are {done}", path)

    def _call(self, fields: JsonObject, index: int) -> JsonObject:
        call_id = str(fields.get("call_id") or fields.get("id") or f"call_{index}")
        self._unanswered.append(call_id)
        field = "input" if fields["type"] == "custom_tool_call" else "arguments"
        given = fields.get(field, "")
        return fields | {"call_id": call_id, "name": fields.get("name") or "function", field: text_or_json(given)}

    def _output(self, fields: JsonObject, path: str) -> JsonObject:
        call_id = fields.get("call_id") or (self._unanswered[0] if self._unanswered else "")
        if call_id in self._unanswered:
            self._unanswered.remove(call_id)
        return fields | {"call_id": str(call_id), "output": self._result(fields.get("output"), path)}

    def _result(self, output: Any, path: str) -> str | list[JsonObject | None]:
        """The output of a call: a text, or parts. Other JSON is shown as it is."""
        if isinstance(output, dict) and output.get("type") in (
            *_KNOWN_PARTS,
            *_IMAGE_PARTS,
            *_TEXT_PARTS,
            *media_forms.TYPES,
        ):
            output = [output]
        if isinstance(output, dict) and isinstance(output.get("content"), str | list):
            output = output["content"]
        if output is None or isinstance(output, str):
            return output or ""
        if isinstance(output, list) and all(isinstance(part, dict) and "type" in part for part in output):
            return self._parts(output, path)
        return _json(output)

    def _content(self, content: Any, path: str) -> Any:
        if isinstance(content, dict):
            content = [content]
        if isinstance(content, list):
            return self._parts(content, path)
        return "" if content is None else text_forms.as_text(content, path, self._warnings)

    def _parts(self, parts: list[Any], path: str) -> list[JsonObject | None]:
        return [self._part(part, f"{path}[{i}]") for i, part in enumerate(parts)]

    def _part(self, raw: Any, path: str) -> JsonObject | None:
        if not isinstance(raw, dict):
            return None if raw is None else _text_part(raw)
        fields = {name: value for name, value in raw.items() if value is not None}
        kind = fields.get("type") or ("text" if "text" in fields else "image_url" if "image_url" in fields else None)
        if kind in _TEXT_PARTS:
            return _text_part(fields.get("text", ""))
        if (medium := media_forms.medium_of(fields)) is not None:
            return _media_part(medium)
        if kind in ("input_text", "output_text"):
            fields = {name: value for name, value in fields.items() if name not in ("annotations", "logprobs")}
            return fields | _text_part(fields.get("text", "")) | {"type": kind}
        if kind in _IMAGE_PARTS:
            return self._image(fields, path)
        if kind == "input_video" and isinstance(fields.get("video_url"), str):
            return {"type": "input_file", "file_data": fields["video_url"]}
        if kind == "input_audio" and "input_audio" not in fields:
            self._warnings.add_unless_strict(f"{path} is audio without data", path, instead="it is left out")
            return None
        if kind in _KNOWN_PARTS:
            return fields
        problem = f"content parts of the type {str(kind)[:60]!r} are not supported here"
        self._warnings.add_unless_strict(problem, path, instead="they are shown to the model as text")
        return _text_part(shown_values.as_text(kind, fields, _UNSEEN))

    def _image(self, fields: JsonObject, path: str) -> JsonObject | None:
        url = fields.get("image_url")
        url, detail = (url.get("url"), url.get("detail")) if isinstance(url, dict) else (url, fields.get("detail"))
        given = {"image_url": url, "file_id": fields.get("file_id"), "detail": detail}
        if url is None and given["file_id"] is None:
            self._warnings.add_unless_strict(f"{path} is an image without data", path, instead="it is left out")
            return None
        return {"type": "input_image"} | {name: value for name, value in given.items() if value is not None}

    def _reasoning(self, fields: JsonObject, path: str) -> JsonObject | None:
        """Reasoning with its text, or else with its summary."""
        parts = fields.get("content") or fields.get("summary") or []
        parts = parts if isinstance(parts, list) else [parts]
        texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | dict)]
        content = [{"type": "reasoning_text", "text": text} for text in texts if isinstance(text, str)]
        if not content and "encrypted_content" in fields:
            self._warnings.add_unless_strict(
                "only the service that wrote encrypted reasoning can decrypt it", path, instead="it is left out"
            )
        return fields | {"content": content}

    def _compaction(self, fields: JsonObject, path: str) -> JsonObject | None:
        content = fields.get("encrypted_content")
        if compaction.text_of(content) is None:
            problem = f"only the service that wrote input items of the type {fields['type']!r} can read them"
            self._warnings.add_unless_strict(problem, path, instead="they are left out")
            return None
        return {"type": "compaction", "encrypted_content": content}


def _kind(fields: JsonObject) -> Any:
    """The type of an item; the API lets messages and references leave it out."""
    if fields.get("type"):
        return fields["type"]
    if "call_id" in fields:
        return "function_call_output" if "output" in fields else "function_call"
    return "message" if "role" in fields or "content" in fields or "id" not in fields else "item_reference"


def _tool_message(fields: JsonObject) -> JsonObject:
    """A tool's message of the Chat Completions API as an output."""
    output, call_id = fields.get("content"), fields.get("tool_call_id")
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _media_part(medium: media_forms.Medium) -> JsonObject:
    match medium.kind:
        case "image":
            return {"type": "input_image", "image_url": medium.uri}
        case "audio":
            return {"type": "input_audio", "input_audio": {"data": medium.uri}}
    return {"type": "input_file", "file_data": medium.uri} | ({"filename": medium.name} if medium.name else {})


def _text_part(text: Any) -> JsonObject:
    return {"type": "input_text", "text": text_or_json(text)}


def text_or_json(value: Any) -> str:
    """A text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
