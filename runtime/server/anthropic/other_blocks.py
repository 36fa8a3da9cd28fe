"""Converts content blocks that the schema does not have to blocks that it has. Pure: no I/O.

A conversation that began at Anthropic holds results of tools that run there, PDF files, addresses, and types that are
newer than this server. Their readable parts are shown to the model as text, so that the conversation can go on.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, TypeAlias

from ...types.warnings import Warnings
from ..http.media_forms import medium_of
from ..http.text_forms import as_text

Block: TypeAlias = dict[str, Any]

SYSTEM_TYPES = frozenset({"text"})
USER_TYPES = frozenset({"text", "image", "document", "tool_result"})
ASSISTANT_TYPES = frozenset({"text", "thinking", "tool_use"})
RESULT_TYPES = frozenset({"text", "image", "document"})

_NO_CONTENT = frozenset(
    {"type", "id", "tool_use_id", "cache_control", "citations", "signature", "caller", "retrieved_at"}
)
_MAX_WORD = 500
"""A longer value without spaces is data, not text."""


def adapt_content(content: object, types: frozenset[str], path: str, warnings: Warnings) -> object:
    """The content of a message, of a tool result or of `system`, with blocks of these types only."""
    if content is None:
        return ""
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        return [_adapt_block(block, types, f"{path}[{i}]", warnings) for i, block in enumerate(content)]
    if types is RESULT_TYPES and not isinstance(content, str):
        return json.dumps(content)
    return as_text(content, path, warnings)


def _adapt_block(block: object, types: frozenset[str], path: str, warnings: Warnings) -> object:
    if block is None or isinstance(block, str):
        return _text_block(block or "")
    if not isinstance(block, dict):
        return _text_block(json.dumps(block) if types is RESULT_TYPES else as_text(block, path, warnings))
    if block.get("type") == "image_url":  # as in OpenAI's API
        url = block.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        block = _image_at(url)
    elif not isinstance(block.get("source"), dict) and (medium := medium_of(block)) and medium.kind != "file":
        block = _image_at(medium.uri)
    default = "text" if isinstance(block.get("text"), str) else None
    kind = str(block["type"]) if block.get("type") else default
    if kind and kind in types and not _is_unreadable(block):
        return _completed(block, kind, path, warnings)
    reader = _Reader()
    text = reader.read(block)
    if kind not in _READERS and not str(kind).endswith("_tool_result") and not (kind is None and types is RESULT_TYPES):
        reader.losses.append(f"the type {kind!r:.60} is not known here")
    for loss in reader.losses:
        warnings.add_unless_strict(f"{path}: {loss}", path, instead="the rest is shown as text")
    return _text_block(text)


def _image_at(url: object) -> Block:
    """A block with a picture. Sounds and videos use it too, because the schema has no other block for them."""
    return {"type": "image", "source": {"type": "url", "url": url}}


def _text_block(text: str) -> Block:
    return {"type": "text", "text": text}


def _completed(block: Block, kind: str, path: str, warnings: Warnings) -> Block:
    """A block of a known type, with the fields that clients leave out or write as null."""
    completed = block | {"type": kind}
    if kind in ("text", "thinking"):
        completed[kind] = "" if block.get(kind) is None else as_text(block[kind], f"{path}.{kind}", warnings)
    elif kind == "tool_result":
        content_path = f"{path}.content"
        completed["content"] = adapt_content(block.get("content"), RESULT_TYPES, content_path, warnings)
    elif kind == "document":
        completed["source"] = _document_source(block["source"], path, warnings)
    return completed


def _document_source(source: Block, path: str, warnings: Warnings) -> Block:
    if source.get("type") == "content":
        content = adapt_content(source.get("content"), RESULT_TYPES, f"{path}.source.content", warnings)
        return source | {"content": content}
    return _plain_text(source) or source


def _is_unreadable(block: Block) -> bool:
    """Whether this is a picture without a source, a document that the request does not hold, or a nameless call."""
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    match block.get("type"):
        case "image":
            return kind not in ("base64", "url", "file")
        case "document":
            return kind not in ("text", "content") and _plain_text(source) is None
        case "tool_use":
            return not isinstance(block.get("name"), str)
    return False


def _plain_text(source: Any) -> Block | None:
    """The source of a text file in base64 as one of plain text."""
    if not isinstance(source, dict) or not str(source.get("media_type")).startswith("text/"):
        return None
    try:
        data = base64.b64decode(str(source.get("data")), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return {"type": "text", "data": data}


class _Reader:
    """Reads the text of a block. `losses` are sentences about parts that could not be read."""

    def __init__(self) -> None:
        self.losses: list[str] = []

    def read(self, value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return "\n".join(filter(None, map(self.read, value)))
        if value is None:
            return ""
        if not isinstance(value, dict):
            return json.dumps(value)
        reader = _READERS.get(str(value.get("type")))
        return self._read_fields(value) if reader is None else reader(self, value)

    def _read_fields(self, block: Block) -> str:
        """The text of a block of an unknown type: its other fields as JSON, its `text` and its `content`."""
        fields = {name: value for name, value in block.items() if name not in (*_NO_CONTENT, "text", "content")}
        fields = self._without_data(fields)
        texts = (json.dumps(fields, ensure_ascii=False) if fields else "", block.get("text"), block.get("content"))
        return self.read(list(texts))

    def _without_data(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._without_data(item) for item in value]
        if isinstance(value, dict):
            if any(name.startswith("encrypted_") for name in value):
                self._lose("it holds data that only Anthropic can read")
            return {
                name: self._without_data(item)
                for name, item in value.items()
                if name != "cache_control" and not name.startswith("encrypted_")
            }
        if isinstance(value, str) and len(value) > _MAX_WORD and " " not in value[:_MAX_WORD]:
            self._lose("it holds data that cannot be read here")
            return "..."
        return value

    def _lose(self, sentence: str) -> None:
        if sentence not in self.losses:
            self.losses.append(sentence)

    def image(self, block: Block) -> str:
        source = block.get("source")
        if isinstance(source, dict) and source.get("type") == "base64":
            self._lose("an image cannot be shown in this place; send it in a message of the user")
            return "[image]"
        self._lose("the image is not part of the request, and this server fetches nothing; send it in base64")
        return f"[image {_address(block)} was not fetched]"

    def document(self, block: Block) -> str:
        names = [str(block[name]) for name in ("title", "context") if block.get(name)]
        source = block.get("source")
        if isinstance(source, dict) and source.get("type") in ("text", "content"):
            return "\n".join([*names, self.read(source.get("data")), self.read(source.get("content"))]).strip()
        self._lose("only text documents can be read here; send the document's text")
        return "\n".join([*names, f"[document {_address(block)} was not read]"])

    def search_result(self, block: Block) -> str:
        return "\n".join(filter(None, (self.read(block.get(name)) for name in ("title", "source", "content"))))

    def tool_reference(self, block: Block) -> str:
        return f"The tool {block.get('tool_name') or block.get('name')} can be used."

    def call(self, block: Block) -> str:
        return f"[call of {block.get('name')}: {json.dumps(block.get('input'), ensure_ascii=False)}]"

    def compaction(self, block: Block) -> str:
        return self.read(block.get("content"))

    def container_upload(self, block: Block) -> str:
        self._lose("this server has no containers, so the file cannot be read")
        return f"[file {block.get('file_id')} was not read]"

    def thinking(self, block: Block) -> str:
        return self.read(block.get("thinking"))

    def redacted_thinking(self, block: Block) -> str:
        self._lose("only Anthropic can decrypt these thoughts")
        return ""

    def nothing(self, block: Block) -> str:
        return ""


def _address(block: Block) -> str:
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    return str(source.get("url") or source.get("file_id") or source.get("media_type") or "")[:200]


_READERS: dict[str, Callable[[_Reader, Block], str]] = {
    "image": _Reader.image,
    "document": _Reader.document,
    "search_result": _Reader.search_result,
    "tool_reference": _Reader.tool_reference,
    "server_tool_use": _Reader.call,
    "mcp_tool_use": _Reader.call,
    "compaction": _Reader.compaction,
    "container_upload": _Reader.container_upload,
    "redacted_thinking": _Reader.redacted_thinking,
    "thinking": _Reader.thinking,
    "fallback": _Reader.nothing,  # Anthropic does not show it to the model either
}
