"""Selects the files of a model by their names and kinds: weights by quantization, all their parts, likely projectors.

Pure functions of the files in a repository or folder. `pairing.py` decides by metadata which projector belongs to a
model.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import NotFound
from ..gguf.file_name import (
    describe_missing,
    is_gguf,
    name_words,
    part_name,
    pieces,
    quant_of,
    split_name,
    usual_quant,
    without_quant,
)
from ..gguf.kind import DESCRIPTIONS, GGUFKind, kinds_by_name

PREFERRED_QUANTS = (
    "q4_k_m", "q4_k_xl", "q4_k_l", "q4_0", "q4_k_s", "q4_k", "q4_1", "q4", "int4", "iq4_xs", "iq4_nl",
    "mxfp4_moe", "mxfp4", "q5_k_m", "q5_k_s", "q5_0", "q8_0", "q6_k", "q3_k_m", "f16", "bf16", "f32",
)  # fmt: skip
"""Quantizations by preference, if neither the user nor the catalog names one."""

_PROJECTOR_QUANTS = ("q8_0", "f16", "bf16", "f32")


@dataclass(frozen=True, slots=True)
class WeightSet:
    """The files of one set of weights: its `parts` in order, or a single file."""

    parts: tuple[str, ...]
    quant: str

    @property
    def stem(self) -> str:
        """The path in lower case, without part number and extension."""
        return split_name(self.parts[0])[0].lower()

    def matches(self, pattern: str) -> bool:
        """Whether the files match a pattern of file names, with or without their folder."""
        return _matches(self.parts[0], pattern)

    def is_named(self, name: str) -> bool:
        """Whether this is the name of the weights, or of one of their parts, in lower case, with or without folder."""
        stem, _, count = split_name(name)
        return stem in (self.stem, PurePosixPath(self.stem).name) and count in (1, len(self.parts))


@dataclass(frozen=True, slots=True)
class FileSelection:
    """The weights selected for a model, and the projectors that may match them, the likeliest first."""

    weights: WeightSet
    projectors: tuple[str, ...]


def select_files(
    names: Sequence[str], quant: str = "", weights: str = "*.gguf", projector: str | None = "*.gguf",
    default: str = "", where: str = "", kinds: Mapping[str, GGUFKind] | None = None,
) -> FileSelection:  # fmt: skip
    """Selects weights and projectors among the files of a repository or folder, which `where` names in errors.

    `quant` is a quantization, a file name without its extension, or a folder; `default` the quantization if that is
    empty or "latest", Ollama's default tag. `weights` and `projector` are patterns of file names. `kinds` says what the
    files are, by default as their names suggest. Raises `NotFound` with the quantizations that exist.
    """
    where = where or "the folder"
    quant = "" if quant.lower() == "latest" else quant
    kinds = kinds_by_name(names) if kinds is None else kinds
    sets = weight_sets(names, weights, kinds)
    chosen = fitting_sets(sets, quant, default)
    if not chosen and quant:
        drafts = weight_sets(names, weights, kinds, "draft")
        chosen = [group for group in drafts if group.is_named(quant.lower())]
    if not chosen:
        raise NotFound(_why_none(names, kinds, sets, quant, where), "model")
    if len(chosen) > 1:
        stems = ", ".join(group.stem for group in chosen)
        raise NotFound(f"{where} has several models with this quantization; name one of them instead: {stems}", "model")
    return FileSelection(chosen[0], rank_projectors(names, projector, chosen[0], kinds))


def fitting_sets(sets: Sequence[WeightSet], quant: str, default: str = "") -> list[WeightSet]:
    """Returns the sets of weights that `quant` may mean, as for `select_files`: more than one if it does not say which.

    Of several copies of the same weights, returns the best.
    """
    quant = "" if quant.lower() == "latest" else quant
    wanted = [quant] if quant else [q for q in (default, *PREFERRED_QUANTS) if q]
    chosen = next((fit for q in wanted if (fit := _matching_sets(sets, q))), [])
    if not chosen and not quant and len({group.quant for group in sets}) == 1:
        chosen = list(sets)
    return _without_copies(chosen)


def weight_sets(
    names: Iterable[str], pattern: str = "*.gguf", kinds: Mapping[str, GGUFKind] | None = None, kind: GGUFKind = "model"
) -> list[WeightSet]:
    """Groups the files of models, or of another `kind`, into complete sets. Leaves out sets with a missing part."""
    return [
        WeightSet(tuple(numbered[n] for n in range(1, count + 1)), quant_of(stem))
        for (stem, count), numbered in _numbered_parts(names, pattern, kinds, kind)
        if set(numbered) == set(range(1, count + 1))
    ]


def missing_parts(names: Iterable[str], kinds: Mapping[str, GGUFKind] | None = None) -> dict[str, list[str]]:
    """Returns which parts of split models are missing, by the first of the parts that are there."""
    return {
        min(numbered.values()): [part_name(stem, n, count) for n in range(1, count + 1) if n not in numbered]
        for (stem, count), numbered in _numbered_parts(names, "*.gguf", kinds, "model")
        if not set(numbered) >= set(range(1, count + 1))
    }


def _numbered_parts(
    names: Iterable[str], pattern: str, kinds: Mapping[str, GGUFKind] | None, kind: GGUFKind
) -> list[tuple[tuple[str, int], dict[int, str]]]:
    """Returns the files of each set of weights by part number, with the stem and the number of parts."""
    names = list(names)
    kinds = kinds_by_name(names) if kinds is None else kinds
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        stem, number, count = split_name(name)
        if kinds.get(name) in (kind, "part" if count > 1 else kind) and _matches(name, pattern):
            parts.setdefault((stem, count), {})[number] = name
    return sorted(parts.items())


def _matches(name: str, pattern: str) -> bool:
    base = PurePosixPath(name).name.lower()
    return fnmatch.fnmatchcase(base, pattern.lower()) or fnmatch.fnmatchcase(name.lower(), pattern.lower())


def _why_none(
    names: Sequence[str], kinds: Mapping[str, GGUFKind], sets: Sequence[WeightSet], quant: str, where: str
) -> str:
    """Says why no weights were selected: a part is missing, pieces are not joined, or no file is a model."""
    for name, parts in missing_parts(names, kinds).items():
        if not sets or _is_meant(name, quant):
            return f"{where} does not have all parts of {name}: {describe_missing(parts)}"
    for cut in pieces(names):
        if not sets or _is_meant(cut.whole, quant) or quant.lower() in [name.lower() for name in cut.names]:
            if "/" not in where or cut.count > len(cut.names):
                return f"{where} has no whole file: {cut.how_to_join}"
            download = f"hf download {where} {' '.join(map(shlex.quote, cut.names))} --local-dir ."
            return f"{where} has {cut.whole} only in pieces; download and join them: {download} && {cut.join_command}"
    if not sets:
        others = [f"{name} is {DESCRIPTIONS[kind]}" for name, kind in sorted(kinds.items())]
        if not others and any(PurePosixPath(name).name == "adapter_config.json" for name in names):
            return (
                f"{where} is a LoRA adapter, which needs its model: download it, use `galago convert`, and pass the "
                "result as --lora with the model"
            )
        if not others and not any(name.endswith(".safetensors") for name in names):
            if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
                return (
                    f"{where} has no GGUF weights, but pickled ones (.bin, .pt), which can run programs and are not "
                    "read: look for a GGUF version with `galago search --hub`"
                )
        if not others and any(name.endswith(".safetensors") for name in names):
            return (
                f"{where} has no GGUF weights, but safetensors: look for a GGUF version with `galago search --hub`, or "
                "download them and use `galago convert`"
            )
        return f"{where} has no GGUF weights of a model" + (f": {'; '.join(others[:4])}" if others else "")
    wanted = f"quantization {quant}" if quant else "a common quantization, so name one"
    offered = ", ".join(sorted({name for group in sets for name in _names_of_copies(group, sets)}))
    return f"{where} has no weights with {wanted}; it has {offered}{_what_is_named(quant, kinds)}"


def _names_of_copies(group: WeightSet, sets: Sequence[WeightSet]) -> list[str]:
    """Returns the quantization of weights, or their names if several models have that quantization."""
    alike = _without_copies([other for other in sets if other.quant == group.quant])
    return [group.quant] if group.quant and len(alike) == 1 else [other.stem for other in alike]


def _what_is_named(name: str, kinds: Mapping[str, GGUFKind]) -> str:
    """Describes the file that a user named, if it is not a model."""
    stem = split_name(name.lower())[0]
    for other, kind in kinds.items():
        path = split_name(other)[0].lower()
        if kind not in ("model", "part") and stem in (path, PurePosixPath(path).name):
            return f". {PurePosixPath(other).name} is {DESCRIPTIONS[kind]}"
    return ""


def _is_meant(name: str, quant: str) -> bool:
    """Whether `quant` means a file, or a split model that it is a part of, by quantization or name."""
    stem, (asked, _, _), usual = split_name(name)[0].lower(), split_name(quant.lower()), usual_quant(quant)
    return quant != "" and (quant_of(name) in (usual, f"ud-{usual}") or asked in (stem, PurePosixPath(stem).name))


def is_same_model(name: str, other: str) -> bool:
    """Whether weights of two commits have the same name. In another folder, they also have the same quantization."""
    stems = [split_name(each)[0].lower() for each in (name, other)]
    same_file = len({PurePosixPath(stem).name for stem in stems}) == 1
    return stems[0] == stems[1] or (same_file and quant_of(name) == quant_of(other) != "")


def sibling_parts(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Returns all parts of the split weights that `name` belongs to, among `names`, or `name` alone."""
    stem, _, count = split_name(name)
    parts = sorted(n for n in names if is_gguf(n) and (split_name(n)[0], split_name(n)[2]) == (stem, count))
    return tuple(parts) or (name,)


def _matching_sets(sets: Sequence[WeightSet], wanted: str) -> list[WeightSet]:
    """Returns the sets with a quantization, or else with a name.

    The Hub's pages show `Q4_K_XL` for files named `UD-Q4_K_XL`, so that stands for it if there is no other.
    """
    quant, name = usual_quant(wanted), wanted.lower().strip("/")
    for other in (quant, f"ud-{quant}"):
        if exact := [group for group in sets if group.quant == other]:
            return exact
    if named := [group for group in sets if group.is_named(name)]:
        return named
    inside = [group for group in sets if group.stem.startswith(f"{name}/")]
    return next((fit for q in PREFERRED_QUANTS if (fit := [g for g in inside if g.quant == q])), inside)


def _without_copies(sets: list[WeightSet]) -> list[WeightSet]:
    """Returns the best of several copies of the same weights: in the upper folder, and in the fewest files.

    Returns all sets if their file names differ, or if they are in different folders of the same level.
    """
    if len({PurePosixPath(group.stem).name for group in sets}) != 1:
        return sets
    best = min((group.stem.count("/"), len(group.parts)) for group in sets)
    unique: dict[str, WeightSet] = {}  # names that differ only in upper and lower case are copies, too
    for group in sets:
        if (group.stem.count("/"), len(group.parts)) == best:
            unique.setdefault(group.stem, group)
    return [*unique.values()]


def rank_projectors(
    names: Iterable[str], pattern: str | None, weights: WeightSet, kinds: Mapping[str, GGUFKind] | None = None
) -> tuple[str, ...]:
    """Returns the projectors that match a pattern: the nearest to the weights first, then those of their quantization.

    A projector in the folder of the weights is nearer than one in a folder above it, and any other is farther. Among
    equally near ones, the one whose name is most like that of the weights comes first.
    """
    if pattern is None:
        return ()
    order = list(dict.fromkeys((weights.quant, *_PROJECTOR_QUANTS)))
    near = [str(folder) for folder in PurePosixPath(weights.parts[0]).parents]

    def rank(name: str) -> tuple[int, int, int, str]:
        own, folder = quant_of(name), str(PurePosixPath(name).parent)
        distance = near.index(folder) if folder in near else len(near)
        return (distance, name_distance(weights, name), order.index(own) if own in order else len(order), name)

    kinds = kinds_by_name(names) if kinds is None else kinds
    return tuple(
        sorted((name for name, kind in kinds.items() if kind == "projector" and _matches(name, pattern)), key=rank)
    )


def name_distance(weights: WeightSet, projector: str) -> int:
    """Returns how much the file name of a projector differs from that of weights: the words that only one of them has.

    Projectors of several models may have equal widths; the one with the nearest name belongs to the weights.
    """
    return len(_words(weights.parts[0]) ^ _words(projector))


def _words(name: str) -> set[str]:
    return set(name_words(without_quant(PurePosixPath(split_name(name)[0]).name)))
