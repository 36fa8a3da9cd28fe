"""Finds the files of a model by its name, and checks them.

The headers of untrusted files are checked before llama.cpp reads them, because it aborts the process on some malformed
ones.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ..errors import ConfigError, GalagoError, ModelError, NotFound
from ..files import AdapterFile, ModelFiles, weight_parts
from ..gguf.file_name import describe_missing, part_name, pieces, split_name
from ..gguf.header import GGUFHeader
from ..gguf.kind import DESCRIPTIONS, check_is_model, header_kind
from ..gguf.reader import read_header
from . import catalog, installed, pairing
from .name import BUILTIN, ModelRef, is_builtin, parse_ref

MAX_ADAPTERS = 16


def resolve(
    model: str | Path,
    projector: str | Path | None = None,
    name: str | None = None,
    lora: Sequence[str | Path] = (),
    draft: str | Path | None = None,
) -> ModelFiles:
    """Finds and checks a model's files on this machine.

    `model` is a name as in `name.parse_ref`, `lora` are adapters as FILE[:SCALE], `draft` is a smaller model for
    speculative decoding. Raises `NotFound`, `ModelError` or `ConfigError` with what to do.
    """
    trusted = is_builtin(model) and projector is None and not lora
    model_id, weights, own_projector = _find(model)
    projector_path = Path(projector).expanduser() if projector else own_projector
    header = read_header(weights)
    check_is_model(header)
    parts = weight_parts(weights)
    pairing.check_parts(header, parts)
    for part in parts[1:]:
        read_header(part)
    if projector_path is not None:
        _check_projector(projector_path, header)
    if name == "":
        raise ConfigError("the model's name in the API cannot be empty", "name")
    draft_files = None if draft is None else replace(resolve(draft), projector=None)
    return ModelFiles(
        name or model_id, weights, header, projector_path, trusted, _parse_adapters(lora, header), draft_files
    )


def refers_to(name: str, files: ModelFiles) -> bool:
    """Whether a name, in any spelling, refers to these files."""
    if name == files.id:
        return True
    try:
        ref = parse_ref(name)
        return ref.kind != "path" and _find(str(ref))[1].samefile(files.weights)
    except (GalagoError, OSError):
        return False


def _find(model: str | Path) -> tuple[str, Path, Path | None]:
    """Returns a model's name in the API, its weights or the first part of them, and its projector."""
    if is_builtin(model):
        return BUILTIN, builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"
    path = Path(model).expanduser()
    if path.is_file():
        return path.stem, first_part(path), None
    ref = parse_ref(model) if isinstance(model, str) else ModelRef("path", str(model))
    if ref.kind == "path":
        if path.is_dir():
            raise NotFound(about_folder(path), "model")
        if path.exists():
            return path.stem, path, None  # a pipe or device, which the reader rejects with a clear message
        if path.is_symlink():
            raise NotFound(f"{model} is a link to a file that is not there, or to itself; link it again", "model")
        raise NotFound(
            f"there is no model {model}: {_similar_files(path)}use `{BUILTIN}` or the path of a GGUF file", "model"
        )
    try:
        model_on_disk = installed.find(ref)
    except NotFound:
        if path.is_dir() and not (ref.kind == "name" and catalog.find(ref.name)):
            raise NotFound(about_folder(path), "model") from None
        raise
    return str(ref), model_on_disk.weights[0], model_on_disk.projector


def about_folder(path: Path) -> str:
    """Says what to give instead of a folder."""
    names = sorted(other.name for other in path.glob("*.[gG][gG][uU][fF]"))
    if names:
        return f"{path} is a folder; give a file in it, such as {path / names[0]}, or use galago import {path}"
    if (path / "config.json").is_file():
        return f"{path} is a folder with a checkpoint; make a GGUF file of it: galago convert {path} -o FILE.gguf"
    return f"{path} is a folder without GGUF files; give the path of a GGUF file"


def _similar_files(path: Path) -> str:
    """Asks whether another GGUF file in the folder of a path was meant, if one has a similar name."""
    names = [other.name for other in path.parent.glob("*.[gG][gG][uU][fF]")] if path.parent.is_dir() else []
    similar = difflib.get_close_matches(path.name, names, 2, 0.6)
    return f"did you mean {' or '.join(str(path.with_name(name)) for name in similar)}? " if similar else ""


def first_part(path: Path) -> Path:
    """Returns the first part of the split model that a file belongs to, or the file itself.

    Raises `NotFound` if the first part is missing, or for a piece of a file that was cut.
    """
    stem, number, count = split_name(path.name)
    first = path.with_name(part_name(stem, 1, count))
    if number > 1 and not first.is_file():
        raise NotFound(f"{path.name} is not the beginning of a model: {describe_missing([first.name])}", "model")
    if pieces([path.name]):
        siblings = pieces(other.name for other in path.parent.iterdir())
        cut = next(cut for cut in siblings if path.name in cut.names)
        raise NotFound(f"{path.name} is not a whole model: {cut.how_to_join}", "model")
    return first if number > 1 else path


def _check_projector(path: Path, model: GGUFHeader) -> None:
    if not path.exists():
        raise NotFound(f"there is no projector file {path}", "mmproj")
    header = read_header(path)
    if not header.is_projector:
        raise ModelError(f"{path.name} is not a projector but {DESCRIPTIONS[header_kind(header)]}", "mmproj")
    reason = pairing.projector_mismatch(model.metadata, header.metadata)
    if reason:
        raise ModelError(f"{path.name} does not match {model.path.name}: {reason}", "mmproj")


def _parse_adapters(lora: Sequence[str | Path], model: GGUFHeader) -> tuple[AdapterFile, ...]:
    if len(lora) > MAX_ADAPTERS:
        raise ConfigError(f"{len(lora)} LoRA adapters were given, but at most {MAX_ADAPTERS} are allowed", "lora")
    return tuple(_parse_adapter(str(given), model) for given in lora)


def _parse_adapter(given: str, model: GGUFHeader) -> AdapterFile:
    path, scale = Path(given).expanduser(), 1.0
    if not path.exists():
        name, _, number = given.rpartition(":")
        try:
            path, scale = Path(name).expanduser(), float(number)
        except ValueError:
            raise NotFound(f"there is no LoRA adapter {given}", "lora") from None
    if not path.exists():
        raise NotFound(f"there is no LoRA adapter {path}", "lora")
    if not math.isfinite(scale):
        raise ConfigError(f"the scale of a LoRA adapter must be a finite number, not {scale}", "lora")
    _check_adapter(read_header(path), model)
    return AdapterFile(path, scale)


def _check_adapter(header: GGUFHeader, model: GGUFHeader) -> None:
    """Raises `ModelError` for an adapter that llama.cpp cannot load. It aborts the process if such a key is wrong."""
    name = header.path.name
    if (header.get("general.type"), header.get("adapter.type")) != ("adapter", "lora"):
        kind = header_kind(header)
        reason = "its adapter.type is not lora" if kind == "adapter" else f"it is {DESCRIPTIONS[kind]}"
        raise ModelError(f"{name} is not a LoRA adapter: {reason}", "lora")
    if header.architecture != model.architecture:
        architectures = f"{header.architecture!r:.40}, but {model.path.name} is {model.architecture!r:.40}"
        raise ModelError(f"the adapter {name} is made for {architectures}", "lora")
    if not isinstance(header.get("adapter.lora.alpha", 0.0), float):
        raise ModelError(f"{name}: adapter.lora.alpha is not a floating-point number", "lora")
    if header.get("adapter.alora.invocation_tokens") is not None:
        raise ModelError(f"{name} is an activated LoRA (aLoRA), which is not supported", "lora")


def builtin_folder() -> Path:
    """Returns the folder with the weights, samples and held-out questions that ship with Galago."""
    return Path(str(resources.files("galago.models.builtin")))


def builtin_model() -> installed.InstalledModel:
    """Returns the model that ships with Galago as an installed model."""
    _, weights, projector = _find(BUILTIN)
    return installed.InstalledModel(ModelRef("builtin", BUILTIN), (weights,), projector, "galago")
