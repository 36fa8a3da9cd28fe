"""What a GGUF file is: a model, or one of the files that are published with models.

The header decides. The name decides if there is no header, as in a listing of the Hub. Next to a model, the name also
decides which file is a draft model, because the header of a draft model may be that of any small model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from ..errors import GalagoError, ModelError
from .file_name import is_gguf, name_words, split_name, without_quant
from .header import GGUFHeader, MetadataValue, is_int, is_projector
from .reader import read_header

GGUFKind: TypeAlias = Literal[
    "model",
    "projector",
    "draft",
    "adapter",
    "importance matrix",
    "vocabulary",
    "control vector",
    "part",
    "Ollama's form",
]
"""A "draft" proposes tokens to one certain model. A "part" is a part of a split model other than the first. "Ollama's
form" is a model that only Ollama loads, often together with its projector."""

DESCRIPTIONS: Mapping[GGUFKind, str] = {
    "model": "a model",
    "projector": "a projector",
    "draft": "a draft model or multi-token prediction head",
    "adapter": "a LoRA adapter",
    "importance matrix": "an importance matrix",
    "vocabulary": "a vocabulary without weights",
    "control vector": "a control vector",
    "part": "a later part of a split model",
    "Ollama's form": "a model in Ollama's own form, which llama.cpp cannot load",
}
USES: Mapping[GGUFKind, str] = {
    "projector": "pass it as --mmproj with its model",
    "draft": "it works only with the model it was made for, and Galago cannot use it",
    "adapter": "pass it as --lora with its model",
    "importance matrix": "pass it to galago quantize as --calibration",
    "part": "name the first part, and keep all parts in one folder under the names they were published with",
    "Ollama's form": "pull it from the Hub, where its projector (mmproj) is a separate file; see galago search",
}
"""What to do with a file that is not a model, or why it has no use."""

_DRAFT_ARCHITECTURES = re.compile(r"eagle3|dflash|dspark|.*[-_](?:assistant|mtp)")
"""Architectures that only propose tokens, of llama.cpp's src/llama-arch.cpp and of its forks."""

_OLLAMA_ARCHITECTURES = ("gptoss", "mllama", "qwen25vl")
"""Architectures that Ollama's own engine names differently from llama.cpp's src/llama-arch.cpp."""

_SURE_SIGNS: tuple[tuple[GGUFKind, re.Pattern[str]], ...] = (
    ("projector", re.compile(r"(?:.*/)?(?:[^/]*mm[-_]?proj[^/]*|clip[-_.][^/]*)")),
    ("draft", re.compile(r"(?:.*/)?(?:mtp|eagle3|dflash|dspark)[-_.][^/]*")),
    ("draft", re.compile(r"(?:.*/)?(?:mtp|assistant|(?:[^/]*[-_.])?draft(?:er)?)s?/.*")),
    ("vocabulary", re.compile(r"(?:.*/)?(?:ggml-vocab[-_.][^/]*|(?:[^/]*[-_.])?vocab)")),
)
"""Patterns of a path in lower case without its extension. Draft models have the prefixes that llama.cpp looks for
(common/download.cpp). Whole models that have a head for multi-token prediction have MTP elsewhere in their names."""

_WORDS_BESIDE_MODEL: tuple[tuple[GGUFKind, re.Pattern[str]], ...] = (
    ("draft", re.compile(r"(?:^|[-_. ])(?:draft|drafter|eagle3|dflash|dspark|assistant)(?=$|[-_. ])")),
    ("projector", re.compile(r"(?:^|[-_. ])(?:vision|visual|clip|siglip|vit)(?:[-_. ](?:encoder|tower))?(?=$|[-_. ])")),
    ("adapter", re.compile(r"(?:^|[-_. ])(?:q?lora|adapter)(?=$|[-_. ])")),
)
"""Words that also occur in the names of models. They count only next to a model of the same name without the word."""

_DRAFT = re.compile(r"(?:^|[-_. ])draft(?:er)?(?=$|[-_. ])")
"""Counts next to a model of any name, because a draft model may be another, smaller model."""

_MATRIX = re.compile(r"(?:^|.*[-_. /])imatrix(?=$|[-_. ]).*")


def kind_of(metadata: Mapping[str, MetadataValue], tensors: Collection[str] | None = None) -> GGUFKind:
    """Returns what a file is by its header. `tensors` are the names of its tensors, or None if they are unknown."""
    architecture, stated = metadata.get("general.architecture"), metadata.get("general.type")
    if is_projector(metadata):
        return "projector"
    if stated == "adapter":
        return "adapter"
    if stated == "imatrix" or "imatrix.chunk_count" in metadata:
        return "importance matrix"
    if architecture == "controlvector":
        return "control vector"
    if _is_in_ollamas_form(metadata, tensors or ()):
        return "Ollama's form"
    if _number(metadata, "split.no") > 0:
        return "part"
    if isinstance(architecture, str) and _DRAFT_ARCHITECTURES.fullmatch(architecture):
        return "draft"
    if tensors is not None and not tensors and _number(metadata, "split.count") < 2:
        return "vocabulary"
    return "draft" if tensors and _has_only_draft_layers(metadata, tensors) else "model"


def check_is_model(header: GGUFHeader) -> None:
    """Raises `ModelError` for a file that is not a model but, for example, a projector or an adapter."""
    kind = header_kind(header)
    if kind != "model":
        hint = f": {USES[kind]}" if kind in USES else ""
        raise ModelError(f"{header.path.name} is {DESCRIPTIONS[kind]}, not a usable model{hint}", "model")


def header_kind(header: GGUFHeader) -> GGUFKind:
    """Returns what a file is by its whole header."""
    return kind_of(header.metadata, [tensor.name for tensor in header.tensors])


def kinds_by_name(names: Iterable[str]) -> dict[str, GGUFKind]:
    """Returns what the GGUF files of one repository or folder are, by their names alone."""
    paths = {name: split_name(name)[0].lower() for name in names if is_gguf(name)}
    kinds: dict[str, GGUFKind] = {name: _sure_kind(path) for name, path in paths.items()}
    stems = {name: PurePosixPath(paths[name]).name for name, kind in kinds.items() if kind == "model"}
    plain = [without_quant(stem) for stem in stems.values() if not any(s.search(stem) for _, s in _WORDS_BESIDE_MODEL)]
    kinds |= {name: _kind_beside(stem, plain) for name, stem in stems.items()}
    return kinds if "model" in kinds.values() else {n: "model" if k == "draft" else k for n, k in kinds.items()}


def kinds_in_folder(folder: Path, names: Iterable[str]) -> dict[str, GGUFKind]:
    """Returns what GGUF files below a folder are, by their headers and names.

    A file that cannot be read keeps the kind that its name suggests.
    """
    by_name = kinds_by_name(names)
    by_header = {name: _read_kind(folder / name, kind) for name, kind in by_name.items()}
    both = {name: with_header(kind, by_header[name]) for name, kind in by_name.items()}
    return both if "model" in both.values() else by_header


def with_header(by_name: GGUFKind, by_header: GGUFKind) -> GGUFKind:
    """Combines both kinds: the header decides, except that the name may make a model a draft model."""
    return "draft" if (by_name, by_header) == ("draft", "model") else by_header


def _read_kind(path: Path, otherwise: GGUFKind) -> GGUFKind:
    try:
        status = path.stat()
        return _kind_of_file(path, status.st_size, status.st_mtime_ns)
    except (OSError, GalagoError):
        return otherwise


@lru_cache(maxsize=1024)
def _kind_of_file(path: Path, _size: int, _modified_at: int) -> GGUFKind:
    return header_kind(read_header(path))


def _sure_kind(path: str) -> GGUFKind:
    if _MATRIX.fullmatch(path) and without_quant(path) == path:
        return "importance matrix"
    return next((kind for kind, sign in _SURE_SIGNS if sign.fullmatch(path)), "model")


def _kind_beside(stem: str, plain: Collection[str]) -> GGUFKind:
    """Returns the kind of a file next to models whose names, without quantization, are `plain`."""
    if plain and _DRAFT.search(stem):
        return "draft"
    for kind, sign in _WORDS_BESIDE_MODEL:
        if sign.search(stem):
            own = name_words(without_quant(sign.sub("", stem)))
            if any(name_words(other)[: len(own)] == own for other in plain):
                return kind
    return "model"


def _is_in_ollamas_form(metadata: Mapping[str, MetadataValue], tensors: Iterable[str]) -> bool:
    """Whether a file has an architecture of Ollama's own engine, or a projector with the layers of a text model."""
    architecture = metadata.get("general.architecture")
    has_projector = f"{architecture}.vision.block_count" in metadata or f"{architecture}.audio.block_count" in metadata
    return has_projector or architecture in _OLLAMA_ARCHITECTURES or any(n.startswith(("v.", "mm.")) for n in tensors)


def _has_only_draft_layers(metadata: Mapping[str, MetadataValue], tensors: Iterable[str]) -> bool:
    """Whether a file has the layers that predict further tokens, but not those of the model they belong to."""
    architecture = metadata.get("general.architecture")
    layers = _number(metadata, f"{architecture}.block_count")
    extra = _number(metadata, f"{architecture}.nextn_predict_layers")
    numbers = {int(match[1]) for name in tensors if (match := re.match(r"blk\.(\d{1,4})\.", name))}
    return extra > 0 and bool(numbers) and min(numbers) >= max(layers - extra, 1)


def _number(metadata: Mapping[str, MetadataValue], key: str) -> int:
    value = metadata.get(key)
    return value if is_int(value) else 0
