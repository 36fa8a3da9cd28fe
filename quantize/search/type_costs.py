"""What each group of weights costs as each type: measured, or reckoned from what was measured.

Knows no budget and chooses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...models.gguf.header import TensorInfo
from ..variants import plan
from ..variants.plan import Source
from ..variants.schemes import BLOCKS, TYPE_NUMBERS
from .divergence import Measure, Progress, mean

WIDE = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
NARROW = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types that rows of 256 and of 32 can have, smallest first."""
TYPES = frozenset((*WIDE, *NARROW))
_BANDS = 3


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that get one type together: those of a kind in a third of the layers, or a single one."""

    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def block(self) -> int:
        """256 where all rows fill such blocks, else 32."""
        return 256 if all(tensor.shape[0] % 256 == 0 for tensor in self.tensors) else 32

    @property
    def types(self) -> tuple[str, ...]:
        """Smallest first. The last is its own, which costs no quality."""
        return (*self.coarse, self.own)

    @property
    def coarse(self) -> tuple[str, ...]:
        return WIDE if self.block == 256 else NARROW

    @property
    def own(self) -> str:
        return self.tensors[0].type_name

    def size(self, kind: str) -> int:
        return plan.padded(plan.nbytes(tensor, kind) for tensor in self.tensors)

    def as_type(self, kind: str) -> dict[str, str]:
        return {tensor.name: kind for tensor in self.tensors}


TypeChoice = Mapping[TensorGroup, str]
"""The type of every group."""


def groups(source: Source, changed: Iterable[str], effort: str) -> list[TensorGroup]:
    """The tensors named in `changed`, those that may be quantized: one by one if `thorough`, else by kind and third."""
    layers: dict[str, int] = {}
    for tensor in source.tensors:
        if found := _LAYER.match(tensor.name):
            layers[found[1]] = max(layers.get(found[1], 0), int(found[2]) + 1)
    by_name: dict[str, list[TensorInfo]] = {}
    names = set(changed)
    for tensor in source.tensors:
        if tensor.name in names:
            name = _group_name(tensor.name, layers, effort)
            known = by_name.get(name, [tensor])[0].type
            by_name.setdefault(name if tensor.type == known else tensor.name, []).append(tensor)
    return [TensorGroup(name, tuple(tensors)) for name, tensors in by_name.items()]


_LAYER = re.compile(r"(|.*\.)blk\.(\d+)\.(.*)")


def _group_name(name: str, layers: Mapping[str, int], effort: str) -> str:
    found = _LAYER.match(name)
    if found is None or effort == "thorough":
        return name
    third = int(found[2]) * _BANDS // layers[found[1]]
    return f"{found[1]}{found[3]} of {('the first', 'the middle', 'the last')[third]} layers"


def types_of(choice: TypeChoice) -> dict[str, str]:
    return {tensor.name: kind for group, kind in choice.items() for tensor in group.tensors}


def mixed(types: Mapping[str, str], anew: bool = True) -> dict[str, Any]:
    return {"ftype": 7, "pure": True, "anew": anew, "types": [(name, TYPE_NUMBERS[t]) for name, t in types.items()]}


def whole(found: Sequence[TensorGroup]) -> dict[str, TypeChoice]:
    """The whole model as each type; groups that cannot have it get the one of about as many bits."""
    kinds = dict.fromkeys(kind for group in found for kind in group.coarse)
    return {kind: {group: _nearest(kind, group.coarse) for group in found} for kind in kinds}


def _nearest(kind: str, types: Iterable[str]) -> str:
    """The same, or that of about as many bits."""
    return min(types, key=lambda other: (other != kind, abs(_bits(other) - _bits(kind))))


def _bits(kind: str) -> float:
    weights, size = BLOCKS[kind]
    return 8 * size / weights


class TypeCosts:
    """What a group costs as a type: measured, or reckoned from its nearest measured type by what the whole model loses
    as either. A choice costs the sum, and what the groups lose together beyond it."""

    def __init__(
        self,
        found: Sequence[TensorGroup],
        kept: Mapping[str, str],
        measure: Measure,
        progress: Progress = lambda *_: None,
    ) -> None:
        """`kept` are types of tensors in no group that llama.cpp would not keep by itself."""
        self._kept, self._measure, self._progress = kept, measure, progress
        self._own = {t.name: t.type_name for group in found for t in group.tensors}
        self._single: dict[tuple[TensorGroup, str], float] = {}
        self._whole: list[tuple[TypeChoice, float]] = []

    def learn(self, pairs: Iterable[tuple[TensorGroup, str]]) -> None:
        """Measures groups as types, each alone."""
        names = {f"{group.name} as {kind}": (group, kind) for group, kind in pairs}
        types = {name: {**self._own, **group.as_type(kind)} for name, (group, kind) in names.items()}
        variants = {name: mixed({**self._kept, **own}) for name, own in types.items()}
        for name, units in self._measure(variants, self._progress).items():
            self._single[names[name]] = max(0.0, mean(units))

    def learn_whole(self, choices: Mapping[str, TypeChoice]) -> None:
        """Measures all groups together, as one type each time."""
        names = {f"all as {kind}": choice for kind, choice in choices.items()}
        variants = {name: mixed({**self._kept, **types_of(choice)}) for name, choice in names.items()}
        for name, units in self._measure(variants, self._progress).items():
            self._whole.append((names[name], max(0.0, mean(units))))

    def unknown(self, choice: TypeChoice) -> list[tuple[TensorGroup, str]]:
        return [(group, kind) for group, kind in choice.items() if kind not in (group.own, *self._known(group))]

    def of(self, group: TensorGroup, kind: str) -> float:
        if kind == group.own:
            return 0.0
        if (group, kind) in self._single:
            return self._single[group, kind]
        near = _nearest(kind, self._known(group))
        before = self._as(group, near)
        return self._single[group, near] * (self._as(group, kind) / before if before > 0 else 1.0)

    def _known(self, group: TensorGroup) -> list[str]:
        return [kind for other, kind in self._single if other == group]

    def _as(self, group: TensorGroup, kind: str) -> float:
        """What the whole model loses where this group, and the others as far as they can, have a type."""
        return next(cost for choice, cost in self._whole if choice[group] == kind)

    def total(self, choice: TypeChoice) -> float:
        return sum(self.of(group, kind) for group, kind in choice.items())
