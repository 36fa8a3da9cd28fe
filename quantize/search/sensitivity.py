"""How much divergence each group of tensors causes in each type: measured, or interpolated from measurements.

Knows no budget and chooses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ...models.gguf.header import TensorInfo
from ..calibrate.calibration import CalibrationData, select_data
from ..calibrate.imatrix import ImportanceMatrix
from ..jobs import VariantSpec
from ..progress import Progress, no_progress
from ..variants import variant
from ..variants.schemes import BLOCKS, TYPE_NUMBERS, find
from ..variants.source import SourceModel, open_source, padded_bytes, typed_nbytes
from ..variants.variant import Recipe, VariantPlan
from .divergence import DivergenceMeter, mean_divergence

WIDE_TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
NARROW_TYPES = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types for rows that fill blocks of 256 and of 32 weights, smallest first."""
TYPES = frozenset((*WIDE_TYPES, *NARROW_TYPES))
FOUR_BIT_TYPES: Mapping[int, str] = {256: "Q4_K", 32: "IQ4_NL"}
"""By block size: the type in which the sensitivity of single tensors is measured."""
_BANDS = 3
_CHUNKS = 8


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that get the same type: those of one kind in a third of the layers, or a single tensor."""

    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def block(self) -> int:
        """256 if all rows fill such blocks, otherwise 32."""
        return 256 if all(tensor.shape[0] % 256 == 0 for tensor in self.tensors) else 32

    @property
    def types(self) -> tuple[str, ...]:
        """All possible types, smallest first. The last is the current type, which costs no quality."""
        return (*self.quantized_types, self.current_type)

    @property
    def quantized_types(self) -> tuple[str, ...]:
        return WIDE_TYPES if self.block == 256 else NARROW_TYPES

    @property
    def current_type(self) -> str:
        return self.tensors[0].type_name

    def nbytes(self, type_name: str) -> int:
        return padded_bytes(typed_nbytes(tensor, type_name) for tensor in self.tensors)

    def as_type(self, type_name: str) -> dict[str, str]:
        return {tensor.name: type_name for tensor in self.tensors}


TypeChoice: TypeAlias = Mapping[TensorGroup, str]
"""The type of every group."""


def quantizable(source: SourceModel, matrix: ImportanceMatrix | None) -> tuple[VariantPlan, set[str]]:
    """Returns a plan in which everything possible has a 4-bit type, and the names of those tensors."""
    plan = variant.plan(source, Recipe(find("Q4_0"), matrix=matrix))
    return plan, {t.name for t in source.tensors if BLOCKS[plan.types[t.name]][0] > 1}


def tensor_groups(source: SourceModel, names: Iterable[str], effort: str) -> list[TensorGroup]:
    """Groups the named tensors by kind and third of the layers; if `effort` is `thorough`, each on its own."""
    layers: dict[str, int] = {}
    for tensor in source.tensors:
        if match := _LAYER.match(tensor.name):
            layers[match[1]] = max(layers.get(match[1], 0), int(match[2]) + 1)
    by_name: dict[str, list[TensorInfo]] = {}
    selected = set(names)
    for tensor in source.tensors:
        if tensor.name in selected:
            name = _group_name(tensor.name, layers, effort)
            group_type = by_name.get(name, [tensor])[0].type
            by_name.setdefault(name if tensor.type == group_type else tensor.name, []).append(tensor)
    return [TensorGroup(name, tuple(tensors)) for name, tensors in by_name.items()]


_LAYER = re.compile(r"(|.*\.)blk\.(\d+)\.(.*)")


def _group_name(name: str, layers: Mapping[str, int], effort: str) -> str:
    match = _LAYER.match(name)
    if match is None or effort == "thorough":
        return name
    third = int(match[2]) * _BANDS // layers[match[1]]
    return f"{match[1]}{match[3]} of {('the first', 'the middle', 'the last')[third]} layers"


def tensor_types(choice: TypeChoice) -> dict[str, str]:
    return {tensor.name: type_name for group, type_name in choice.items() for tensor in group.tensors}


def mixture_spec(types: Mapping[str, str], gptq: bool = True) -> VariantSpec:
    numbers = tuple((name, TYPE_NUMBERS[type_name]) for name, type_name in types.items())
    return VariantSpec(variant.FTYPE_FOR_TYPES, numbers, pure=True, gptq=gptq)


def uniform_choices(groups: Sequence[TensorGroup]) -> dict[str, TypeChoice]:
    """Returns the whole model as each type. Groups that cannot have it get the type with the nearest bit width."""
    type_names = dict.fromkeys(type_name for group in groups for type_name in group.quantized_types)
    return {name: {group: _nearest(name, group.quantized_types) for group in groups} for name in type_names}


def _nearest(type_name: str, types: Iterable[str]) -> str:
    """Returns the same type if possible, otherwise the one with the nearest bit width."""
    return min(types, key=lambda other: (other != type_name, abs(_bits(other) - _bits(type_name))))


def _bits(type_name: str) -> float:
    weights, block_bytes = BLOCKS[type_name]
    return 8 * block_bytes / weights


class TypeCosts:
    """The cost in divergence of each group in each type.

    A cost that was not measured is interpolated: the group's nearest measured cost is scaled by the divergence of the
    whole model as either type. The cost of a choice is the sum over its groups.
    """

    def __init__(
        self,
        groups: Sequence[TensorGroup],
        fixed_types: Mapping[str, str],
        meter: DivergenceMeter,
        progress: Progress = no_progress,
    ) -> None:
        """`fixed_types` are types of ungrouped tensors that llama.cpp would otherwise change."""
        self._fixed_types, self._meter, self._progress = fixed_types, meter, progress
        self._current = {t.name: t.type_name for group in groups for t in group.tensors}
        self._single: dict[tuple[TensorGroup, str], float] = {}
        self._uniform: list[tuple[TypeChoice, float]] = []

    def measure_single(self, pairs: Iterable[tuple[TensorGroup, str]]) -> None:
        """Measures groups as types, one group at a time."""
        names = {f"{group.name} as {type_name}": (group, type_name) for group, type_name in pairs}
        types = {name: {**self._current, **group.as_type(type_name)} for name, (group, type_name) in names.items()}
        variants = {name: mixture_spec({**self._fixed_types, **each}) for name, each in types.items()}
        for name, segments in self._meter.measure(variants, self._progress).items():
            self._single[names[name]] = max(0.0, mean_divergence(segments))

    def measure_uniform(self, choices: Mapping[str, TypeChoice]) -> None:
        """Measures all groups together as one type at a time."""
        names = {f"all as {type_name}": choice for type_name, choice in choices.items()}
        variants = {name: mixture_spec({**self._fixed_types, **tensor_types(choice)}) for name, choice in names.items()}
        for name, segments in self._meter.measure(variants, self._progress).items():
            self._uniform.append((names[name], max(0.0, mean_divergence(segments))))

    def interpolated(self, choice: TypeChoice) -> list[tuple[TensorGroup, str]]:
        """Returns the parts of a choice whose cost is not measured."""
        return [
            (group, type_name)
            for group, type_name in choice.items()
            if type_name not in (group.current_type, *self._measured_types(group))
        ]

    def cost(self, group: TensorGroup, type_name: str) -> float:
        if type_name == group.current_type:
            return 0.0
        if (group, type_name) in self._single:
            return self._single[group, type_name]
        near = _nearest(type_name, self._measured_types(group))
        before = self._uniform_cost(group, near)
        return self._single[group, near] * (self._uniform_cost(group, type_name) / before if before > 0 else 1.0)

    def _measured_types(self, group: TensorGroup) -> list[str]:
        return [type_name for other, type_name in self._single if other == group]

    def _uniform_cost(self, group: TensorGroup, type_name: str) -> float:
        """Returns the divergence of the whole model if this group, and if possible the others, have a type."""
        return next(cost for choice, cost in self._uniform if choice[group] == type_name)

    def total(self, choice: TypeChoice) -> float:
        return sum(self.cost(group, type_name) for group, type_name in choice.items())


def tensor_sensitivity(
    model: Path, projector: Path | None, files: Sequence[Path], progress: Progress
) -> list[dict[str, Any]]:
    """Measures the divergence `kl`, in nats per position, if one tensor alone has a 4-bit `type`.

    Returns a row for each tensor that can be quantized: its name `tensor`, its `type`, its `bytes` as that type, and
    `kl` on question sets and texts (`files`; without any, the built-in text). Writes the model once per tensor. Raises
    `GalagoError`.
    """
    source = open_source(str(model))
    data = select_data(source, projector, [path for path in files if path.suffix in (".zip", ".txt", ".md")])
    rows = single_tensor_divergences(data, lambda name, fraction: progress(f"sensitivity of {name}", fraction))
    tensors = {tensor.name: tensor for tensor in source.tensors}
    return [
        {"tensor": name, "type": type_name, "bytes": typed_nbytes(tensors[name], type_name), "kl": kl}
        for name, type_name, kl in rows
    ]


def single_tensor_divergences(data: CalibrationData, progress: Progress = no_progress) -> list[tuple[str, str, float]]:
    """Returns each quantizable tensor with a 4-bit type and the divergence if it alone has that type, uncalibrated.

    Raises `ConfigError`.
    """
    source = data.source
    groups = tensor_groups(source, quantizable(source, None)[1], "thorough")
    types = {group.name: FOUR_BIT_TYPES[group.block] for group in groups}
    current = {group.name: group.current_type for group in groups}
    variants = {
        f"{name} as {type_name}": mixture_spec(current | {name: type_name}) for name, type_name in types.items()
    }
    measured = DivergenceMeter(data, ImportanceMatrix({}), _CHUNKS).measure(variants, progress)
    return [(name, type_name, mean_divergence(measured[f"{name} as {type_name}"])) for name, type_name in types.items()]
