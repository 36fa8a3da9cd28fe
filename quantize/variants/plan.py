"""Makes a smaller variant of a GGUF file, a text model or a projector: planned, written by llama.cpp, checked, named.

Knows which tensors of a projector stay as they are. Runs llama.cpp in a child process only, and leaves either a whole
file or the one that was there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...models import units
from ...models.errors import ConfigError, ModelError
from ...models.gguf.header import GGUFHeader, TensorInfo
from ...models.gguf.reader import read_header
from ...models.registry.name import BUILTIN
from ...models.registry.pairing import check_parts, sibling_parts
from ...models.registry.resolve import builtin_folder, resolve
from ...runtime.config import default_threads
from ...runtime.process.job import run_job
from ..calibrate.imatrix import ImportanceMatrix
from ..jobs import QuantizationJob
from .schemes import BLOCKS, TYPE_NUMBERS, Scheme

Progress = Callable[[int, int, str], None]
"""Called with a tensor's number, from 1, how many there are, and its name, when work on it begins."""

_KEPT = re.compile(r"mm\.input_projection|mm\.soft_emb_norm|patch_embd|position_embd|pos_embd|class_embd|img_")
"""Tensors of a projector that must keep their type: the process dies in `mtmd` where gemma3's `mm.input_projection` is
quantized (siglip.cpp transposes it); embeddings and tokens of images are few, and read as F16 or F32."""

_ALIGNMENT = 32
_TYPES_FTYPE = 7  # Q8_0: any ftype that llama.cpp takes types of tensors with, and whose recipe asks for nothing else


@dataclass(frozen=True)
class Source:
    """A GGUF file to make variants of: all its parts, and the tensors of all of them."""

    header: GGUFHeader
    parts: tuple[Path, ...]
    tensors: tuple[TensorInfo, ...]
    origin: Source | None = None
    """What it was made from, where that is not what the user has."""

    @property
    def path(self) -> Path:
        return self.parts[0]

    @property
    def original(self) -> Source:
        """What the user has."""
        return self.origin or self

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.parts)

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def quantized(self) -> str | None:
        """A type of few bits that weights are in already."""
        blocks = ((t.type_name, BLOCKS[t.type_name][0]) for t in self.tensors)
        return next((name for name, block in blocks if block > 1), None)


@dataclass(frozen=True)
class Recipe:
    """How to make a variant: a scheme, the types of single tensors where they are chosen, and an importance matrix.

    `anew`: rounded once more (`rounding.py`), where the matrix has what that needs.
    """

    scheme: Scheme
    types: Mapping[str, str] = field(default_factory=dict)
    matrix: ImportanceMatrix | None = None
    anew: bool = False
    about: Mapping[str, str | int] = field(default_factory=dict)
    """More metadata for the file."""


@dataclass(frozen=True)
class VariantPlan:
    """What a recipe makes of a source: the type of every tensor, in the order of the file."""

    source: Source
    recipe: Recipe
    types: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the file, but for a few kilobytes."""
        header = sum(path.stat().st_size for path in self.source.parts) - padded(t.nbytes or 0 for t in self._tensors)
        return max(0, header) + padded(self.nbytes.values())

    @property
    def _tensors(self) -> tuple[TensorInfo, ...]:
        return self.source.tensors

    @property
    def nbytes(self) -> dict[str, int]:
        return {tensor.name: nbytes(tensor, self.types[tensor.name]) for tensor in self._tensors}

    @property
    def bits(self) -> float:
        """Per weight, of all tensors."""
        return 8 * sum(self.nbytes.values()) / self.source.parameters

    @property
    def counts(self) -> Counter[str]:
        """How many tensors have a type, the commonest first."""
        return Counter(dict(Counter(self.types.values()).most_common()))

    @property
    def fallbacks(self) -> dict[str, str]:
        """Tensors whose rows do not fill the blocks of the type they should have had, and what they get instead."""
        wanted = {t.name: self.recipe.types.get(t.name, self.recipe.scheme.type) for t in self._tensors}
        return {
            tensor.name: self.types[tensor.name]
            for tensor in self._tensors
            if _is_matrix(tensor) and tensor.shape[0] % BLOCKS[wanted[tensor.name]][0]
            if self.types[tensor.name] not in (wanted[tensor.name], "F32")
        }

    @property
    def without_importance(self) -> tuple[str, ...]:
        """Tensors that become types of few bits, and on which the importance matrix has nothing."""
        known = self.recipe.matrix.entries if self.recipe.matrix else {}
        coarse = (t for t in self._tensors if BLOCKS[self.types[t.name]][0] > 1 and self.types[t.name] != "Q8_0")
        return tuple(t.name for t in coarse if t.name not in known and self.types[t.name] != t.type_name)


def open_source(model: str) -> Source:
    """The files of MODEL, a name or a path; of the built-in model, those in F16. Raises `NotFound` or `ModelError`."""
    if model == BUILTIN and (exact := builtin_folder() / "text-F16.gguf").exists():
        path = exact
    else:
        given = Path(model).expanduser()
        path = given if given.is_file() else resolve(model).weights
    header = read_header(path)
    if not header.tensors:
        raise ModelError(f"{path.name} holds no weights", "model")
    parts = sibling_parts(path.name, [other.name for other in path.parent.iterdir()])
    check_parts(header, parts)
    headers = [read_header(path.with_name(name)) for name in parts]
    tensors = tuple(tensor for each in headers for tensor in each.tensors)
    unknown = next((tensor for tensor in tensors if tensor.nbytes is None), None)
    if unknown is not None:
        raise ModelError(f"{path.name}: tensor {unknown.name} is of {unknown.type_name}, which is not known", "model")
    return Source(headers[0], tuple(each.path for each in headers), tensors)


def projector_of(model: str) -> Path | None:
    """The projector of a model by name; of the built-in one, that in F16. A path names its model alone."""
    if model == BUILTIN and (exact := builtin_folder() / "mmproj-F16.gguf").exists():
        return exact
    return None if Path(model).expanduser().is_file() else resolve(model).projector


def nbytes(tensor: TensorInfo, kind: str) -> int:
    """Bytes of the tensor in a type. Its rows must fill the type's blocks."""
    weights, size = BLOCKS[kind]
    return math.prod(tensor.shape) // weights * size


def padded(sizes: Iterable[int]) -> int:
    """Bytes of tensors of these sizes, one after another in a file."""
    return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)


def plan(source: Source, recipe: Recipe, requantize: bool = False) -> VariantPlan:
    """What would be made, without making it: llama.cpp's own recipe is asked.

    Raises `ModelError` where `make` would, and where the source is quantized already, unless `requantize`.
    """
    check_exact(source, requantize)
    if recipe.matrix is not None:
        _check_matrix(source, recipe.matrix)
    if source.header.is_projector:
        recipe = replace(recipe, types={**_projector_types(source, recipe.scheme), **recipe.types})
    names = _quantize(source, recipe, Path(os.devnull), True, lambda *_: None)
    own = {tensor.name: tensor.type_name for tensor in source.tensors}
    types = {name: kind or own[name] for name, kind in names.items()}
    if set(types) != set(own):
        raise ModelError(f"llama.cpp reads {len(types)} tensors of {source.path.name}, which has {len(own)}", "model")
    return VariantPlan(source, recipe, types)


def _projector_types(source: Source, scheme: Scheme) -> dict[str, str]:
    """For every matrix of a projector; llama.cpp's recipes are made for text models."""
    matrices = [tensor for tensor in source.tensors if _is_matrix(tensor)]
    return {t.name: t.type_name if _KEPT.search(t.name) or len(_dims(t)) > 2 else scheme.type for t in matrices}


def _dims(tensor: TensorInfo) -> tuple[int, ...]:
    """As llama.cpp counts them: those of 1 at the end are none."""
    count = max((i + 1 for i, n in enumerate(tensor.shape) if n > 1), default=1)
    return tensor.shape[:count]


def _is_matrix(tensor: TensorInfo) -> bool:
    return len(_dims(tensor)) >= 2 and tensor.name.endswith("weight")


def _check_matrix(source: Source, matrix: ImportanceMatrix) -> None:
    """llama.cpp refuses some of this halfway through, and passes over the rest."""
    tensors = {tensor.name: tensor for tensor in source.tensors}
    known = [name for name in matrix.entries if name in tensors]
    if not known:
        raise ModelError(f"the importance matrix names no tensor of {source.path.name}", "calibration")
    for name in known:
        size, shape = matrix.entries[name].sums.size, tensors[name].shape
        if size != shape[0] * math.prod(shape[2:]):
            raise ModelError(f"the importance matrix is of another model: {size} columns of {name}, which has "
                             f"{shape[0] * math.prod(shape[2:])}", "calibration")  # fmt: skip


def make(plan: VariantPlan, out: Path, force: bool = False, progress: Progress = lambda *_: None) -> Path:
    """Writes and checks the planned file; returns its path.

    Raises `ConfigError` where `out` is in the way or the disk too small, and `ModelError` where llama.cpp cannot do it;
    whatever was there before is then still there.
    """
    source = plan.source.original
    check_target(source, out, force)
    part = out.with_name(f"{out.name}.part")
    with _claimed(part):
        free = shutil.disk_usage(part.parent).free
        if plan.size > free:
            needs = f"{out.name} needs {units.format_bytes(plan.size)}"
            raise ConfigError(f"{needs}, and {units.format_bytes(free)} are free in {part.parent}", "output")
        _quantize(plan.source, _told(plan), part, False, progress)
        _check(plan, read_header(part))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        check_target(source, out, force)
        part.replace(out)
    return out


def check_exact(source: Source, requantize: bool) -> None:
    """Raises `ModelError` where the source is quantized already, unless that is to be overlooked."""
    if source.quantized and not requantize:
        raise ModelError(
            f"{source.path.name} is quantized already ({source.quantized}): begin with a file in F16, BF16 or F32, or "
            "lose quality twice with --requantize",
            "model",
        )


def check_target(source: Source, out: Path, force: bool) -> None:
    """Raises `ConfigError` where the file cannot be `out`."""
    if out.exists():
        if any(out.samefile(part) for part in source.parts):
            raise ConfigError(f"{out} is the model itself; give another file", "output")
        if not out.is_file():
            raise ConfigError(f"{out} is no file", "output")
        if not force:
            raise ConfigError(f"{out} exists already; --force replaces it", "output")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent}", "output")


@contextlib.contextmanager
def _claimed(part: Path) -> Iterator[None]:
    """Holds the unfinished file against another run, and deletes it in the end if it is still there."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another program is writing {part}", "output") from None
        try:
            yield
        finally:
            part.unlink(missing_ok=True)


def _quantize(source: Source, recipe: Recipe, target: Path, dry_run: bool, progress: Progress) -> dict[str, str | None]:
    """Runs llama.cpp; the types of all tensors, None for those that keep their own."""
    typed = bool(recipe.types)
    about = dict(recipe.about)
    if typed:
        about["general.file_type"] = recipe.scheme.ftype
    job = QuantizationJob(
        source=source.path,
        target=target,
        ftype=_TYPES_FTYPE if typed else recipe.scheme.ftype,
        pure=typed,
        types=tuple((name, TYPE_NUMBERS[kind]) for name, kind in recipe.types.items()),
        threads=default_threads(),
        metadata=about,
        dry_run=dry_run,
        gptq=recipe.anew,
    )
    arrays: dict[str, NDArray[np.float32]] = {}
    if recipe.matrix is not None:
        arrays = recipe.matrix.arrays() if recipe.anew and not dry_run else recipe.matrix.means()
    module = "galago.quantize.variants.quantize_job"
    return dict(run_job(module, job, source.path.name, arrays, lambda report: progress(*report)))


def _told(plan: VariantPlan) -> Recipe:
    """The recipe with what the file says of how it was made; texts of more than 127 bytes are cut."""
    recipe, source = plan.recipe, plan.source.original
    about: dict[str, str | int] = {
        "galago.quantize.scheme": recipe.scheme.name,
        "galago.quantize.source": source.path.name,
        "galago.quantize.source_sha256": digest(source),
        "galago.quantize.made_by": f"galago {metadata.version('galago')}, "
        f"llama-cpp-python {metadata.version('llama-cpp-python')}",
    }
    if recipe.matrix is not None:
        about |= {
            "galago.quantize.calibration_sha256": recipe.matrix.digest,
            "quantize.imatrix.dataset": ", ".join(recipe.matrix.datasets),
            "quantize.imatrix.entries_count": len(recipe.matrix.entries),
            "quantize.imatrix.chunks_count": recipe.matrix.chunks,
        }
    return replace(recipe, about=about | dict(recipe.about))


def digest(source: Source) -> str:
    """SHA-256 of a file, or of its parts one after another."""
    total = hashlib.sha256()
    for path in source.parts:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _check(plan: VariantPlan, written: GGUFHeader) -> None:
    """Compares the file with the plan; its blocks were checked when it was written."""
    found = {tensor.name: (_dims(tensor), tensor.type_name) for tensor in written.tensors}
    wanted = {tensor.name: (_dims(tensor), plan.types[tensor.name]) for tensor in plan.source.tensors}
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise ModelError(f"llama.cpp wrote {name} as {found.get(name)}, and not as {wanted[name]}", "model")
    if len(found) != len(wanted) or written.architecture != plan.source.header.architecture:
        raise ModelError(f"llama.cpp wrote another model than {plan.source.path.name}", "model")
