"""`galago show`: describes a model or GGUF file, from its header and the catalog."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models import units
from ...models.errors import ModelError, NotFound
from .ui import report

if TYPE_CHECKING:
    from ...models.gguf.header import GGUFHeader
    from ...models.registry.catalog import CatalogEntry
    from ...models.registry.installed import InstalledModel
    from ...models.registry.receipt import Receipt


_LABELS = {
    "catalogue": "catalog",
    "from": "source",
    "how": "note",
    "licence": "license",
    "quants": "quantizations",
    "senses": "input",
    "unverified": "not confirmed",
    "version": "galago version",
}
"""Printed names of fields whose names in JSON are not clear enough."""


def show(
    model: Annotated[str, typer.Argument(help="an installed model, a catalog model, or a GGUF file", metavar="MODEL")],
    as_json: report.Json = False,
) -> None:
    """Describe a model or a GGUF file."""
    from ...models.registry import catalog, installed
    from ...models.registry.name import parse_ref
    from ...models.registry.resolve import about_folder, builtin_model
    from ..pool.presets import find_preset

    path = Path(model).expanduser()
    if path.is_file():
        fields = _file(path)
    else:
        ref = parse_ref(model)
        if ref.kind == "path":
            raise NotFound(about_folder(path) if path.is_dir() else f"there is no file {model}", "model")
        entry = catalog.find(ref.name) if ref.kind == "name" else None
        try:
            fields = _model(builtin_model() if ref.kind == "builtin" else installed.find(ref))
        except NotFound as error:
            if entry is None and path.is_dir():
                raise NotFound(about_folder(path), "model") from None
            if find_preset(model) is not None:
                raise NotFound(f"{model} is a preset; galago preset show {model} shows it", "model") from None
            if entry is None:
                raise
            fields = {"model": str(ref), "installed": False, "how": error.message}
        if entry is not None:
            fields["catalogue"] = _entry(entry)
    if as_json:
        report.emit_json(fields)
    else:
        print("\n".join(_lines(fields)))


def _file(path: Path) -> dict[str, Any]:
    from ...models.gguf.kind import header_kind
    from ...models.gguf.reader import read_header
    from ...models.registry import pairing
    from ...models.registry.receipt import conversion_receipt

    header = read_header(path)
    return {
        "file": str(path),
        "kind": header_kind(header),
        "problem": _problem(header),
        "title": header.name,
        "architecture": header.architecture,
        "parameters": header.parameters,
        "type": pairing.dominant_type(header),
        "context": header.context_length,
        "width": header.embedding_length,
        "tensors": len(header.tensors),
        "chat_template": header.chat_template is not None,
        **_further(header),
        "vision": header.get("clip.has_vision_encoder") is True,
        "audio": header.get("clip.has_audio_encoder") is True,
        "licence": header.get("general.license"),
        "size": header.file_size,
        "gguf_version": header.version,
        "conversion": _receipt(conversion_receipt(header)),
    }


def _problem(header: GGUFHeader) -> str | None:
    """Says which other parts of the same model are missing, if any are."""
    from ...models.files import weight_parts
    from ...models.registry import pairing

    try:
        pairing.check_parts(header, weight_parts(header.path))
    except ModelError as error:
        return error.message
    return None


def _further(header: GGUFHeader) -> dict[str, Any]:
    """Returns the fields that files and installed models have in common."""
    experts = None if header.experts is None else dataclasses.asdict(header.experts)
    return {"chat_templates": header.chat_template_names, "experts": experts}


def _model(model: InstalledModel) -> dict[str, Any]:
    from ...models.gguf.reader import read_header
    from ...models.hub import mirrors
    from ...models.registry import installed

    summary, header = installed.summarize(model), read_header(model.weights[0])
    return {
        "model": str(model.ref),
        "installed": True,
        "title": summary.title,
        "architecture": summary.architecture,
        "parameters": summary.parameters,
        "quant": summary.quant,
        "context": summary.context,
        **_further(header),
        "vision": summary.vision,
        "audio": summary.audio,
        "licence": summary.licence,
        "size": model.size,
        "from": model.origin,
        "repository": model.repository or None,
        "commit": model.commit or None,
        "hub": mirrors.source_of(model.repository, model.commit) or None,
        "weights": [str(path) for path in model.weights],
        "projector": str(model.projector) if model.projector else None,
        "import": _receipt(model.receipt),
        "conversion": _receipt(summary.conversion),
    }


def _receipt(receipt: Receipt | None) -> dict[str, Any] | None:
    if receipt is None:
        return None
    return {"made_from": receipt.made_from, "left_out": [*receipt.left_out], "version": receipt.version}


def _entry(entry: CatalogEntry) -> dict[str, Any]:
    return {
        "repository": entry.repository,
        "task": entry.task,
        "senses": [*entry.modalities],
        "parameters": entry.parameters,
        "licence": entry.licence,
        "conditions": entry.conditions,
        "minimum_build": entry.minimum_build,
        "quants": [{"name": q.name, "weights": q.weights, "total": q.total} for q in entry.quants],
        "notes": entry.notes,
        "unverified": [*entry.unverified],
    }


def _lines(fields: dict[str, Any], indent: str = "") -> list[str]:
    """Returns a line for each field that is not empty."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines += [f"{indent}{_LABELS.get(name, name)}", *_lines(value, indent + "  ")]
        elif value not in (None, "", []):
            label = f"{indent}{_LABELS.get(name, name.replace('_', ' ')):<{16 - len(indent)}} "
            lines += textwrap.wrap(
                _text(name, value),
                _width(),
                initial_indent=label,
                subsequent_indent=" " * len(label),
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


def _width() -> int:
    """Returns the width to wrap at. Paths are longer, and are not broken, so that they can be copied."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "size":
        return units.format_bytes(value)
    if name == "parameters":
        return report.count(value)
    if name == "quants":
        return ", ".join(q["name"] + (f" ({units.format_bytes(q['total'])})" if q["total"] else "") for q in value)
    if name == "unverified":
        return ", ".join(_LABELS.get(fact, fact).removeprefix("quants.") for fact in value)
    if isinstance(value, list):
        return ", ".join(map(report.printable_line, map(str, value)))
    return report.printable_line(str(value))
