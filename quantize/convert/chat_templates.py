"""Reads a checkpoint's chat templates: one, or several under names, from each of the places where they are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models.regular_file import read_text
from .checkpoint import Checkpoint
from .gguf_content import GGUFValue
from .safetensors import file_error, quoted

MAX_TEMPLATE_BYTES = 1 << 20  # real templates have up to 100 KiB

_DEFAULT = "default"
_KEY = "tokenizer.chat_template"


def read_templates(checkpoint: Checkpoint) -> dict[str, GGUFValue]:
    """Returns GGUF metadata: the default template, and the others under their names.

    Files with Jinja source replace the entries of tokenizer_config.json, as in transformers, except for a default
    template that only the entries have. Raises `ModelError` for a template that is too long.
    """
    templates: dict[str, Any] = _from_files(checkpoint.folder)
    if _DEFAULT not in templates:
        entries = _from_entries(checkpoint)
        kept = [_DEFAULT] if templates else list(entries)
        templates |= {name: entries[name] for name in kept if name in entries}
    metadata: dict[str, GGUFValue] = {}
    names: list[str] = []
    for name, source in templates.items():
        key = re.sub(r"[^A-Za-z0-9]", "_", name)  # as the gguf library writes names
        if not isinstance(source, str) or not key or key in names:
            checkpoint.left_out.append(
                f"the chat template {quoted(name)}, which is not a text or has no name of its own"
            )
        elif name == _DEFAULT:
            metadata[_KEY] = source
        else:
            names.append(key)
            metadata[f"{_KEY}.{key}"] = source
    if names:
        metadata[f"{_KEY}s"] = names
    if names and _KEY not in metadata:
        checkpoint.left_out.append(f"a default chat template: the checkpoint only has {', '.join(names)}")
    return metadata


def _from_files(folder: Path) -> dict[str, Any]:
    default, others = folder / "chat_template.jinja", folder / "additional_chat_templates"
    paths = {_DEFAULT: default} if default.is_file() else {}
    paths |= {path.stem: path for path in sorted(others.glob("*.jinja")) if path.is_file()}
    for path in paths.values():
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise file_error(path, f"is larger than {MAX_TEMPLATE_BYTES >> 10} KiB")
    sources = {name: read_text(path, "replace") for name, path in paths.items()}
    return {name: source for name, source in sources.items() if source.strip()}


def _from_entries(checkpoint: Checkpoint) -> Mapping[str, Any]:
    entry = checkpoint.read("tokenizer_config.json").get("chat_template")
    entry = entry or checkpoint.read("chat_template.json").get("chat_template")
    if isinstance(entry, list):  # [{"name": ..., "template": ...}]
        items = [item if isinstance(item, dict) else {} for item in entry]
        return {str(item.get("name", "")): item.get("template") for item in items}
    if isinstance(entry, dict):
        return {str(name): source for name, source in entry.items()}
    return {_DEFAULT: entry} if entry else {}
