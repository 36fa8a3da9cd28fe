"""Plans, writes and checks a quantized variant of a text model or a projector.

Knows which tensors of a projector must keep their type. Runs llama.cpp only in a child process, and leaves either a
complete new file or the old one.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...models import units
from ...models.errors import ConfigError, ModelError
from ...models.gguf.header import GGUFHeader, TensorInfo
from ...models.gguf.reader import read_header
from ...runtime.config import default_threads
from ...runtime.process.job import run_job
from ..calibrate.imatrix import ImportanceMatrix
from ..jobs import QuantizationJob
from ..output_file import check_target, output_file
from ..progress import Progress, no_progress
from .schemes import BLOCKS, TYPE_NUMBERS, Scheme
from .source import SourceModel, check_not_quantized, padded_bytes, sha256, typed_nbytes

_KEEP_TYPE = re.compile(r"mm\.input_projection|mm\.soft_emb_norm|patch_embd|position_embd|pos_embd|class_embd|img_")
"""Tensors of a projector that must keep their type. The process crashes in `mtmd` if gemma3's `mm.input_projection` is
quantized (siglip.cpp transposes it); embeddings and tokens of images are small, and read as F16 or F32."""

_OUTPUT = "output.weight"
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

_NAMED = 3
"""Tensors that a warning names at most."""

_LARGEST_IMPORTANCE = 1e30
"""Larger values overflow when llama.cpp multiplies them by weights, which then become zero."""

FTYPE_FOR_TYPES = 7
"""Q8_0: an ftype with which llama.cpp accepts types for single tensors, and whose own recipe changes no others."""


@dataclass(frozen=True)
class Recipe:
    """How to make a variant: a scheme, types of single tensors, and an importance matrix.

    `gptq` rounds again with GPTQ, if the matrix has the products of inputs. `metadata` is written into the file.
    """

    scheme: Scheme
    types: Mapping[str, str] = field(default_factory=dict)
    matrix: ImportanceMatrix | None = None
    gptq: bool = False
    metadata: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantPlan:
    """A recipe applied to a source: the type of every tensor, in the order of the file."""

    source: SourceModel
    recipe: Recipe
    types: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the file, accurate to a few kilobytes."""
        tensor_bytes = padded_bytes(t.nbytes or 0 for t in self._tensors)
        header_bytes = sum(path.stat().st_size for path in self.source.parts) - tensor_bytes
        return max(0, header_bytes) + padded_bytes(self.nbytes.values())

    @property
    def _tensors(self) -> tuple[TensorInfo, ...]:
        return self.source.tensors

    @property
    def nbytes(self) -> dict[str, int]:
        return {tensor.name: typed_nbytes(tensor, self.types[tensor.name]) for tensor in self._tensors}

    @property
    def bits_per_weight(self) -> float:
        """The mean over all tensors."""
        return 8 * sum(self.nbytes.values()) / self.source.parameters

    @property
    def type_counts(self) -> Counter[str]:
        """The number of tensors of each type, the most common type first."""
        return Counter(dict(Counter(self.types.values()).most_common()))

    @property
    def fallbacks(self) -> dict[str, str]:
        """Tensors whose rows do not fill the blocks of their intended type, and the type they get instead."""
        scheme = self.recipe.scheme
        asked = table_types(self.source, scheme) | dict(self.recipe.types)
        intended = {tensor.name: asked.get(tensor.name, scheme.type) for tensor in self._tensors}
        return {
            tensor.name: self.types[tensor.name]
            for tensor in self._tensors
            if _is_matrix(tensor) and tensor.shape[0] % BLOCKS[intended[tensor.name]][0]
            if self.types[tensor.name] not in (intended[tensor.name], "F32")
        }

    @property
    def without_importance(self) -> tuple[str, ...]:
        """Quantized tensors that the importance matrix does not cover, or with no data for any of their experts."""
        return tuple(t.name for t in self._importance_users if self._unvisited(t) == _experts(t))

    @property
    def unvisited_experts(self) -> dict[str, int]:
        """Quantized tensors with experts for which the importance matrix has no data, and the number of these."""
        counts = {t: self._unvisited(t) for t in self._importance_users}
        return {t.name: count for t, count in counts.items() if 0 < count < _experts(t)}

    def _unvisited(self, tensor: TensorInfo) -> int:
        """Returns the number of experts (1 is all of a tensor without them) that the importance matrix lacks."""
        entry = self.recipe.matrix.entries.get(tensor.name) if self.recipe.matrix else None
        return entry.unvisited(_experts(tensor)) if entry else _experts(tensor)

    @property
    def _importance_users(self) -> list[TensorInfo]:
        """Tensors that get a type for which llama.cpp uses the importance of columns."""
        coarse = (t for t in self._tensors if BLOCKS[self.types[t.name]][0] > 1 and self.types[t.name] != "Q8_0")
        return [tensor for tensor in coarse if self.types[tensor.name] != tensor.type_name]

    @property
    def warnings(self) -> list[str]:
        """A sentence for each way in which the importance matrix does not fit the model."""
        return list(_matrix_warnings(self)) if self.recipe.matrix else []


def plan(source: SourceModel, recipe: Recipe, requantize: bool = False) -> VariantPlan:
    """Returns what would be written, by asking llama.cpp's own recipe in a dry run.

    Raises `GalagoError` if `write` would, and if the source is already quantized, unless `requantize`.
    """
    check_not_quantized(source, requantize)
    table_types(source, recipe.scheme)
    if recipe.matrix is not None:
        _check_matrix(source, recipe.matrix)
    if source.header.is_projector:
        recipe = replace(recipe, types={**_projector_types(source, recipe.scheme), **recipe.types})
    names = _quantize(source, recipe, Path(os.devnull), True, no_progress)
    current = {tensor.name: tensor.type_name for tensor in source.tensors}
    types = {name: type_name or current[name] for name, type_name in names.items()}
    if set(types) != set(current):
        raise ModelError(
            f"llama.cpp finds {len(types)} tensors in {source.path.name}, which has {len(current)}", "model"
        )
    return VariantPlan(source, recipe, types)


def table_types(source: SourceModel, scheme: Scheme) -> dict[str, str]:
    """Returns the types that a scheme gives the output and the token embeddings, where it differs from llama.cpp.

    Raises `ConfigError` if the source has neither, or has one table for both and the scheme a type for each.
    """
    if scheme.output_type is None and scheme.embedding_type is None:
        return {}
    names = {tensor.name for tensor in source.tensors}
    embedding_type = scheme.embedding_type
    if _OUTPUT not in names:
        asked = {scheme.output_type, scheme.embedding_type} - {None}
        if len(asked) == 2:
            raise ConfigError(
                f"{source.path.name} has one table for output and token embeddings, which cannot be both "
                f"{scheme.output_type} and {scheme.embedding_type}; give one type",
                "output-tensor-type",
            )
        embedding_type = next(iter(asked))
    asked_types = {_OUTPUT: scheme.output_type, **dict.fromkeys(_EMBEDDINGS, embedding_type)}
    types = {name: type_name for name, type_name in asked_types.items() if name in names and type_name is not None}
    if not types:
        raise ConfigError(f"{source.path.name} has no output and no token embeddings that could have a type", "scheme")
    return types


def numbered(types: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Returns types by tensor name in the form that a job takes."""
    return tuple((name, TYPE_NUMBERS[type_name]) for name, type_name in types.items())


def _projector_types(source: SourceModel, scheme: Scheme) -> dict[str, str]:
    """Returns the type of every matrix of a projector; llama.cpp's recipes are made for text models."""
    matrices = [tensor for tensor in source.tensors if _is_matrix(tensor)]
    return {t.name: t.type_name if _KEEP_TYPE.search(t.name) or len(_dims(t)) > 2 else scheme.type for t in matrices}


def _dims(tensor: TensorInfo) -> tuple[int, ...]:
    """Returns the dimensions as llama.cpp counts them, without trailing ones."""
    count = max((i + 1 for i, n in enumerate(tensor.shape) if n > 1), default=1)
    return tensor.shape[:count]


def _experts(tensor: TensorInfo) -> int:
    """Returns the number of experts whose weights a tensor holds; 1 for a tensor without experts."""
    return math.prod(tensor.shape[2:])


def _is_matrix(tensor: TensorInfo) -> bool:
    return len(_dims(tensor)) >= 2 and tensor.name.endswith("weight")


def _check_matrix(source: SourceModel, matrix: ImportanceMatrix) -> None:
    """Raises `ModelError` if the matrix does not fit; llama.cpp would fail midway, or ignore it."""
    tensors = {tensor.name: tensor for tensor in source.tensors}
    known = [name for name in matrix.entries if name in tensors]
    if not known:
        raise ModelError(f"the importance matrix covers no tensor of {source.path.name}", "calibration")
    for name in known:
        columns, expected = matrix.entries[name].sums.size, tensors[name].shape[0] * _experts(tensors[name])
        if columns != expected:
            raise ModelError(
                f"the importance matrix is of another model: it has {columns} columns for {name}, not {expected}",
                "calibration",
            )
        if matrix.entries[name].means().max() > _LARGEST_IMPORTANCE:
            raise ModelError(
                f"the importance matrix has values for {name} that are too large to be means of squared inputs; "
                "download or collect it again",
                "calibration",
            )


def _matrix_warnings(plan: VariantPlan) -> Iterator[str]:
    assert plan.recipe.matrix is not None
    names = {tensor.name for tensor in plan.source.tensors}
    file, entries = plan.source.path.name, plan.recipe.matrix.entries
    if unknown := [name for name in entries if name not in names]:
        yield f"the importance matrix has data for {listed(unknown)}, which {file} lacks; it may be of another model"
    if missing := [name for name in plan.without_importance if name.startswith("blk.")]:
        yield f"the importance matrix has no data for {listed(missing)}; they are quantized as without calibration"
    if unvisited := plan.unvisited_experts:
        yield (
            f"the importance matrix has no data for some experts of {listed(list(unvisited))} "
            f"({sum(unvisited.values())} in all), since no token of its data reached them; they are quantized as "
            "without calibration; calibrate with more data"
        )


def listed(names: Sequence[str]) -> str:
    """Names the first ones, and the number of all others."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def write(plan: VariantPlan, out: Path, force: bool = False, progress: Progress = no_progress) -> Path:
    """Writes and checks the planned file. Returns its path. Waits while another program is writing the same file.

    Raises `ConfigError` if `out` cannot be written or the disk is too full, and `ModelError` if llama.cpp fails. An
    existing file then stays as it is.
    """
    check_target(out, True, plan.source.original.parts)
    with output_file(out, force) as part:
        free = shutil.disk_usage(part.parent).free
        if plan.size > free:
            raise ConfigError(
                f"{out.name} needs {units.format_bytes(plan.size)}, but only {units.format_bytes(free)} are free in "
                f"{part.parent}",
                "output",
            )
        _quantize(plan.source, _with_provenance(plan), part, False, progress)
        _check_written(plan, read_header(part))
    return out


def _quantize(
    source: SourceModel, recipe: Recipe, target: Path, dry_run: bool, progress: Progress
) -> dict[str, str | None]:
    """Runs llama.cpp. Returns the types of all tensors, `None` for those that keep their own."""
    typed = bool(recipe.types)
    file_metadata = dict(recipe.metadata)
    if typed:
        file_metadata["general.file_type"] = recipe.scheme.ftype
    job = QuantizationJob(
        source=source.path,
        target=target,
        ftype=FTYPE_FOR_TYPES if typed else recipe.scheme.ftype,
        pure=typed,
        types=numbered(recipe.types or table_types(source, recipe.scheme)),
        threads=default_threads(),
        metadata=file_metadata,
        dry_run=dry_run,
        gptq=recipe.gptq,
    )
    arrays: dict[str, NDArray[np.float32]] = {}
    if recipe.matrix is not None:
        arrays = recipe.matrix.arrays() if recipe.gptq and not dry_run else recipe.matrix.means()
    sizes = [tensor.nbytes or 0 for tensor in source.tensors]
    total = sum(sizes) or 1

    def on_report(report: tuple[int, int, str]) -> None:
        number, _count, name = report
        progress(name, sum(sizes[: number - 1]) / total)

    return dict(run_job("galago.quantize.variants.quantize_job", job, source.path.name, arrays, on_report))


def _with_provenance(plan: VariantPlan) -> Recipe:
    """Adds metadata on how the file was made. llama.cpp cuts texts to 127 bytes."""
    recipe, source = plan.recipe, plan.source.original
    provenance: dict[str, str | int] = {
        "galago.quantize.scheme": recipe.scheme.name,
        "galago.quantize.source": source.path.name,
        "galago.quantize.source_sha256": sha256(source),
        "galago.quantize.made_by": f"galago {metadata.version('galago')}, "
        f"llama-cpp-python {metadata.version('llama-cpp-python')}",
    }
    if recipe.matrix is not None:
        provenance |= {
            "galago.quantize.calibration_sha256": recipe.matrix.digest,
            "quantize.imatrix.dataset": ", ".join(recipe.matrix.datasets),
            "quantize.imatrix.entries_count": len(recipe.matrix.entries),
            "quantize.imatrix.chunks_count": recipe.matrix.chunks,
        }
    return replace(recipe, metadata=provenance | dict(recipe.metadata))


def _check_written(plan: VariantPlan, written: GGUFHeader) -> None:
    """Compares the file's tensors with the plan. Their blocks were checked when they were written."""
    actual = {tensor.name: (_dims(tensor), tensor.type_name) for tensor in written.tensors}
    expected = {tensor.name: (_dims(tensor), plan.types[tensor.name]) for tensor in plan.source.tensors}
    for name in expected:
        if actual.get(name) != expected[name]:
            raise ModelError(f"llama.cpp wrote {name} as {actual.get(name)} instead of {expected[name]}", "model")
    if len(actual) != len(expected) or written.architecture != plan.source.header.architecture:
        raise ModelError(f"llama.cpp wrote a model other than {plan.source.path.name}", "model")
