"""Selects the files that make up a model: weights by quantization, all their parts, and a matching projector.

Pure functions of file names and GGUF metadata. File names only suggest which projector belongs to a model; metadata
decides, by the projector's type and embedding width.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import ModelError, NotFound
from ..gguf.header import GGUFHeader, MetadataValue, is_int

PREFERRED_QUANTS = ("q4_k_m", "ud-q4_k_xl", "q4_0", "q4_k_s", "iq4_xs", "q5_k_m", "q8_0", "q6_k", "f16", "bf16", "f32")
"""Quantizations by preference, if neither the user nor the catalog names one."""

_PROJECTOR_QUANTS = ("q8_0", "f16", "bf16", "f32")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(
    r"(?:^|(?<=[-._/]))(?:ud-)?(?:i?q\d(?:_(?:\d|k|nl|x*[sl]|m))*|tq\d_\d|bf16|f16|f32|mxfp4(?:_moe)?|nvfp4)(?=$|[-._])"
)
_UNRELIABLE_WIDTH = ("mlp", "mlp_norm", "ldp", "ldpv2", "resampler", "adapter")
"""Projector types whose files give the width of CLIP as `projection_dim`, not that of the projected embeddings."""

# projector type (tools/mtmd/clip-impl.h) -> prefixes of the architectures (src/llama-arch.cpp) it is made for; types
# that several model families share are not listed
_PROJECTOR_ARCHITECTURES = {
    "gemma3": ("gemma3",), "gemma3nv": ("gemma3n",), "gemma3na": ("gemma3n",), "gemma4v": ("gemma4",),
    "gemma4a": ("gemma4",), "gemma4uv": ("gemma4",), "gemma4ua": ("gemma4",), "lfm2": ("lfm2",), "lfm2a": ("lfm2",),
    "qwen2vl_merger": ("qwen2vl",), "qwen2.5vl_merger": ("qwen2vl",), "qwen3vl_merger": ("qwen3",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeightSet:
    """The files of one set of weights: its `parts` in order, or a single file."""

    parts: tuple[str, ...]
    quant: str

    @property
    def stem(self) -> str:
        """The path in lower case, without part number and extension."""
        return _split_name(self.parts[0])[0].lower()


@dataclass(frozen=True, slots=True)
class FileSelection:
    """The weights selected for a model, and the projectors that may match them, the likeliest first."""

    weights: WeightSet
    projectors: tuple[str, ...]


def select_files(
    names: Sequence[str], quant: str = "", weights: str = "*.gguf", projector: str | None = "*mmproj*",
    default: str = "", where: str = "",
) -> FileSelection:  # fmt: skip
    """Selects weights and projectors among the files of a repository or folder, which `where` names in errors.

    `quant` is a quantization or a file name without its extension, `default` the quantization if that is empty;
    `weights` and `projector` are patterns of file names. Raises `NotFound` with the quantizations that exist.
    """
    sets = weight_sets(names, weights)
    if not sets:
        raise NotFound(f"{where or 'the folder'} has no GGUF weights", "model")
    wanted = [quant.lower()] if quant else [q.lower() for q in (default, *PREFERRED_QUANTS) if q]
    chosen = next((fit for q in wanted if (fit := _matching_sets(sets, q))), None)
    if chosen is None and not quant and len({group.quant for group in sets}) == 1:
        chosen = sets
    if chosen is None:
        wanted_text = f"quantization {quant}" if quant else "a common quantization, so name one"
        offered = ", ".join(sorted({group.quant or group.stem for group in sets}))
        raise NotFound(f"{where} has no weights with {wanted_text}; it has {offered}", "model")
    if len(chosen) > 1:
        stems = ", ".join(group.stem for group in chosen)
        raise NotFound(f"{where} has several models with this quantization; name one of them instead: {stems}", "model")
    return FileSelection(chosen[0], rank_projectors(names, projector, chosen[0].quant))


def weight_sets(names: Iterable[str], pattern: str = "*.gguf") -> list[WeightSet]:
    """Groups file names into complete sets of weights. Leaves out sets with a missing part."""
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        base = PurePosixPath(name).name
        if _is_gguf(name) and not is_projector_name(name):
            if fnmatch.fnmatch(base, pattern) or fnmatch.fnmatch(name, pattern):
                stem, number, count = _split_name(name)
                parts.setdefault((stem, count), {})[number] = name
    return [
        WeightSet(tuple(numbered[n] for n in range(1, count + 1)), quant_of(stem))
        for (stem, count), numbered in sorted(parts.items())
        if set(numbered) == set(range(1, count + 1))
    ]


def quant_of(name: str) -> str:
    """Returns the last quantization in a file name, in lower case, or an empty text."""
    quants = _QUANT.findall(_split_name(PurePosixPath(name).name)[0].lower())
    return quants[-1] if quants else ""


def is_projector_name(name: str) -> bool:
    return "mmproj" in PurePosixPath(name).name.lower()


def projector_mismatch(model: Mapping[str, MetadataValue], projector: Mapping[str, MetadataValue]) -> str:
    """Returns why a projector cannot be used with a model, from the metadata of both, or an empty text if it can."""
    architecture = model.get("general.architecture")
    if projector.get("general.architecture") != "clip" and projector.get("general.type") != "mmproj":
        return "it is not a projector"
    width = model.get(f"{architecture}.embedding_length")
    kinds = {projector.get(f"clip.{modality}projector_type") for modality in ("", "vision.", "audio.")}
    for kind in sorted(kind for kind in kinds if isinstance(kind, str)):
        architectures = _PROJECTOR_ARCHITECTURES.get(kind)
        if architectures and not str(architecture).startswith(architectures):
            return (
                f"its type, {kind}, is for {' and '.join(architectures)} models, but the model is {architecture!s:.40}"
            )
    if kinds & set(_UNRELIABLE_WIDTH) or not is_int(width):
        return ""
    for modality in ("vision", "audio"):
        projected_width = projector.get(f"clip.{modality}.projection_dim")
        if (
            projector.get(f"clip.has_{modality}_encoder") is True
            and is_int(projected_width)
            and projected_width != width
        ):
            return f"it makes {modality} embeddings of width {projected_width}, but the model takes {width}"
    return ""


def pick_projector(model: GGUFHeader, candidates: Sequence[GGUFHeader]) -> GGUFHeader | None:
    """Returns the projector that matches a model best. Raises `ModelError` with the reasons if none does."""
    mismatches = [(header, projector_mismatch(model.metadata, header.metadata)) for header in candidates]
    matching = [header for header, reason in mismatches if not reason]
    if mismatches and not matching:
        why = "; ".join(f"{header.path.name}: {reason}" for header, reason in mismatches)
        raise ModelError(f"no projector matches {model.path.name} ({why})", "mmproj")
    return max(matching, key=lambda header: matching_names(model.metadata, header.metadata), default=None)


def matching_names(model: Mapping[str, MetadataValue], projector: Mapping[str, MetadataValue]) -> int:
    """Counts the `general.*` names that agree, to find the model's own projector among several compatible ones."""
    keys = ("name", "basename", "size_label", "finetune", "base_model.0.name", "base_model.0.repo_url")
    values = [(model.get(f"general.{key}"), projector.get(f"general.{key}")) for key in keys]
    return sum(ours == theirs and ours is not None for ours, theirs in values)


def dominant_type(header: GGUFHeader) -> str:
    """Returns the type of most bytes in a file, in lower case. Stands in for a quantization that the name lacks."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + (tensor.nbytes or 0)
    return max(sizes, key=lambda name: sizes[name]).lower() if sizes else ""


def check_parts(header: GGUFHeader, parts: Sequence[object]) -> None:
    """Raises `ModelError` if a file is part of a split model of which other parts are missing."""
    count = header.get("split.count", 0)
    if is_int(count) and count > 1 and len(parts) != count:
        raise ModelError(
            f"{header.path.name} is one of {count} parts, but only {len(parts)} were found; download the rest", "model"
        )


def sibling_parts(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Returns all parts of the split weights that `name` belongs to, among `names`, or `name` alone."""
    stem, _, count = _split_name(name)
    parts = sorted(n for n in names if _is_gguf(n) and (_split_name(n)[0], _split_name(n)[2]) == (stem, count))
    return tuple(parts) or (name,)


def _matching_sets(sets: Sequence[WeightSet], wanted: str) -> list[WeightSet]:
    """Returns the sets with a quantization, or with a name if none has that quantization."""
    exact = [group for group in sets if group.quant == wanted]
    return exact or [group for group in sets if PurePosixPath(group.stem).name == wanted or group.stem == wanted]


def rank_projectors(names: Iterable[str], pattern: str | None, quant: str) -> tuple[str, ...]:
    """Returns the files that match a projector pattern, those with the quantization of the weights first."""
    if pattern is None:
        return ()
    order = list(dict.fromkeys((quant, *_PROJECTOR_QUANTS)))

    def rank(name: str) -> tuple[int, str]:
        own = quant_of(name)
        return (order.index(own) if own in order else len(order), name)

    base = {name: PurePosixPath(name).name.lower() for name in names if _is_gguf(name)}
    return tuple(sorted((name for name in base if fnmatch.fnmatch(base[name], pattern.lower())), key=rank))


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _split_name(name: str) -> tuple[str, int, int]:
    """Splits a path into the part without extension and part number, the part number, and the number of parts."""
    stem = name[:-5] if _is_gguf(name) else name
    split = _PART.fullmatch(stem)
    return (split[1], int(split[2]), int(split[3])) if split else (stem, 1, 1)
