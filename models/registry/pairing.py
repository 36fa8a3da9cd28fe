"""Which files make a model: weights by quant, all their parts, and the projector that fits them.

Pure functions of file names and GGUF metadata. What names suggest, metadata decides: a projector is refused where its
width or kind is not the model's. Opens no file and asks no Hub.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import ModelError, NotFound
from ..gguf.header import GGML_TYPES, GGUFHeader, MetadataValue, is_int

PREFERRED_QUANTS = ("q4_k_m", "ud-q4_k_xl", "q4_0", "q4_k_s", "iq4_xs", "q5_k_m", "q8_0", "q6_k", "f16", "bf16", "f32")
"""Quants in the order of choice where neither the user nor the catalogue names one."""

_PROJECTOR_QUANTS = ("q8_0", "f16", "bf16", "f32")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(
    r"(?:^|(?<=[-._/]))(?:ud-)?(?:i?q\d(?:_(?:\d|k|nl|x*[sl]|m))*|tq\d_\d|bf16|f16|f32|mxfp4(?:_moe)?|nvfp4)(?=$|[-._])"
)
_UNRELIABLE_WIDTH = ("mlp", "mlp_norm", "ldp", "ldpv2", "resampler", "adapter")
"""Projector kinds whose files give CLIP's own width as `projection_dim`, not that of what they make."""

# projector kind (tools/mtmd/clip-impl.h) -> beginnings of the architectures (src/llama-arch.cpp) it is made for; where
# several families share a kind, it is not listed
_PROJECTOR_ARCHITECTURES = {
    "gemma3": ("gemma3",), "gemma3nv": ("gemma3n",), "gemma3na": ("gemma3n",), "gemma4v": ("gemma4",),
    "gemma4a": ("gemma4",), "gemma4uv": ("gemma4",), "gemma4ua": ("gemma4",), "lfm2": ("lfm2",), "lfm2a": ("lfm2",),
    "qwen2vl_merger": ("qwen2vl",), "qwen2.5vl_merger": ("qwen2vl",), "qwen3vl_merger": ("qwen3",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Files that are one set of weights: `parts` in order, one where it is not split."""

    parts: tuple[str, ...]
    quant: str

    @property
    def stem(self) -> str:
        return _split_name(self.parts[0])[0].lower()


@dataclass(frozen=True, slots=True)
class FileSelection:
    """A model's weights, and the projectors that may go with them, likeliest first."""

    weights: WeightSet
    projectors: tuple[str, ...]


def select_files(
    names: Sequence[str], quant: str = "", weights: str = "*.gguf", projector: str | None = "*mmproj*",
    default: str = "", where: str = "",
) -> FileSelection:  # fmt: skip
    """Chooses among a repository's or folder's files. `quant` is a quant, or a file's name without its ending.

    `weights` and `projector` are patterns of file names, `default` the quant to take where none is asked for.
    Raises `NotFound` with what there is.
    """
    found = weight_sets(names, weights)
    if not found:
        raise NotFound(f"{where or 'the folder'} holds no GGUF weights", "model")
    wanted = [quant.lower()] if quant else [q.lower() for q in (default, *PREFERRED_QUANTS) if q]
    chosen = next((fit for q in wanted if (fit := _matching_sets(found, q))), None)
    if chosen is None and not quant and len({group.quant for group in found}) == 1:
        chosen = found
    if chosen is None:
        offered = ", ".join(sorted({group.quant or group.stem for group in found}))
        raise NotFound(f"{where} has no weights of {quant or 'a usual quant'}; it has {offered}", "model")
    if len(chosen) > 1:
        stems = ", ".join(group.stem for group in chosen)
        raise NotFound(f"{where} has several models of this quant; name one in place of the quant: {stems}", "model")
    return FileSelection(chosen[0], rank_projectors(names, projector, chosen[0].quant))


def weight_sets(names: Iterable[str], pattern: str = "*.gguf") -> list[WeightSet]:
    """The complete sets of weights among files, by the names they have; those that lack a part are left out."""
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        base = PurePosixPath(name).name
        if _is_gguf(name) and not is_projector_name(name):
            if fnmatch.fnmatch(base, pattern) or fnmatch.fnmatch(name, pattern):
                stem, number, count = _split_name(name)
                parts.setdefault((stem, count), {})[number] = name
    return [
        WeightSet(tuple(found[n] for n in range(1, count + 1)), quant_of(stem))
        for (stem, count), found in sorted(parts.items())
        if set(found) == set(range(1, count + 1))
    ]


def quant_of(name: str) -> str:
    """The last quant that a file's name mentions, in small letters; empty where it mentions none."""
    found = _QUANT.findall(_split_name(PurePosixPath(name).name)[0].lower())
    return found[-1] if found else ""


def is_projector_name(name: str) -> bool:
    return "mmproj" in PurePosixPath(name).name.lower()


def projector_mismatch(model: Mapping[str, MetadataValue], projector: Mapping[str, MetadataValue]) -> str:
    """Why this projector cannot go with this model, from the metadata of both; empty where it can."""
    architecture = model.get("general.architecture")
    if projector.get("general.architecture") != "clip" and projector.get("general.type") != "mmproj":
        return "it is no projector"
    width = model.get(f"{architecture}.embedding_length")
    kinds = {projector.get(f"clip.{sense}projector_type") for sense in ("", "vision.", "audio.")}
    for kind in sorted(kind for kind in kinds if isinstance(kind, str)):
        made_for = _PROJECTOR_ARCHITECTURES.get(kind)
        if made_for and not str(architecture).startswith(made_for):
            return f"its kind, {kind}, is for {' and '.join(made_for)} models, and the model is {architecture!s:.40}"
    if kinds & set(_UNRELIABLE_WIDTH) or not is_int(width):
        return ""
    for sense in ("vision", "audio"):
        made = projector.get(f"clip.{sense}.projection_dim")
        if projector.get(f"clip.has_{sense}_encoder") is True and is_int(made) and made != width:
            return f"it makes {sense} embeddings of width {made}, and the model takes {width}"
    return ""


def pick_projector(model: GGUFHeader, candidates: Sequence[GGUFHeader]) -> GGUFHeader | None:
    """The projector that goes with a model. Raises `ModelError` with the reasons where there are some and none fits."""
    judged = [(header, projector_mismatch(model.metadata, header.metadata)) for header in candidates]
    fitting = [header for header, reason in judged if not reason]
    if judged and not fitting:
        why = "; ".join(f"{header.path.name}: {reason}" for header, reason in judged)
        raise ModelError(f"no projector here goes with {model.path.name} ({why})", "mmproj")
    return max(fitting, key=lambda header: matching_names(model.metadata, header.metadata), default=None)


def matching_names(model: Mapping[str, MetadataValue], projector: Mapping[str, MetadataValue]) -> int:
    """How many of their `general.*` names agree: which of several fitting projectors is the model's own."""
    keys = ("name", "basename", "size_label", "finetune", "base_model.0.name", "base_model.0.repo_url")
    values = [(model.get(f"general.{key}"), projector.get(f"general.{key}")) for key in keys]
    return sum(ours == theirs and ours is not None for ours, theirs in values)


def dominant_type(header: GGUFHeader) -> str:
    """The type of most of a file's bytes, in small letters: its quant where the name does not say."""
    sizes: dict[int, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + (tensor.nbytes or 0)
    return GGML_TYPES[max(sizes, key=lambda kind: sizes[kind])][0].lower() if sizes else ""


def check_parts(header: GGUFHeader, parts: Sequence[str]) -> None:
    """Raises `ModelError` where a file says that it is part of a larger whole than there is."""
    count = header.get("split.count", 0)
    if is_int(count) and count > 1 and len(parts) != count:
        raise ModelError(f"{header.path.name} is one of {count} parts, {len(parts)} are here: get the rest", "model")


def sibling_parts(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """All parts, among files of one folder, of the weights that `name` is a part of; itself where it is not split."""
    stem, _, count = _split_name(name)
    found = sorted(n for n in names if _is_gguf(n) and (_split_name(n)[0], _split_name(n)[2]) == (stem, count))
    return tuple(found) or (name,)


def _matching_sets(found: Sequence[WeightSet], wanted: str) -> list[WeightSet]:
    """The groups of a quant; those of which it is the stem where none is."""
    exact = [group for group in found if group.quant == wanted]
    return exact or [group for group in found if PurePosixPath(group.stem).name == wanted or group.stem == wanted]


def rank_projectors(names: Iterable[str], pattern: str | None, quant: str) -> tuple[str, ...]:
    """The files that a pattern calls projectors, those of the weights' own quant first."""
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
    """A file's path without its ending and part number, the number, and how many parts there are."""
    stem = name[:-5] if _is_gguf(name) else name
    split = _PART.fullmatch(stem)
    return (split[1], int(split[2]), int(split[3])) if split else (stem, 1, 1)
