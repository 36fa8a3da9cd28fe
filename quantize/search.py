"""Spends a budget of bytes where it counts: measures what each group of weights loses as each type, and chooses.

The cost of a type is the divergence (`measuring.py`) of the model in which only that group has it; costs add up, so the
best choice is a knapsack (`allocation.py`). What a choice rests on and was only reckoned is measured, and chosen anew.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.errors import ConfigError, ModelError
from ..models.header import Tensor
from . import samples, variant
from .allocation import Option, allocate
from .calibration import Data
from .imatrix import Matrix
from .measuring import Measure, Progress, Units, mean
from .pace import Pace
from .rounding import ROUNDING
from .schemes import BLOCKS, SCHEMES, TYPE_NUMBERS, Scheme, find
from .variant import Plan, Recipe, Source

_WIDE = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
_NARROW = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types that rows of 256 and of 32 can have, smallest first."""
TYPES = frozenset((*_WIDE, *_NARROW))
_MEASURED: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "quick": {256: ("Q4_K",), 32: ("IQ4_NL",)},
    "normal": {256: ("Q3_K", "Q4_K", "Q6_K"), 32: ("IQ4_NL", "Q5_0")},
    "thorough": {256: _WIDE, 32: _NARROW},
}
"""What every group is measured as; what it would lose as other types is reckoned from these."""
NONE = "none"
"""No search: the types of a scheme."""
_UNITS: Mapping[str, int] = {NONE: 8, "quick": 8, "normal": 16, "thorough": 32}
_METADATA = 1024
"""Bytes in which a mixture says how it was made, more than a scheme does."""
_BANDS = 3
_ROUNDS = 6
"""How often a choice is made anew at most."""
_PRICES, _STEPS = (1e-9, 1e12), 24
"""Nats for a second of a token: what a price is sought between, and how often the span's logarithm is halved."""


@dataclass(frozen=True)
class Group:
    """Tensors that get one type together: those of a kind in a third of the layers, or a single one."""

    name: str
    tensors: tuple[Tensor, ...]

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
        return _WIDE if self.block == 256 else _NARROW

    @property
    def own(self) -> str:
        return self.tensors[0].type_name

    def size(self, kind: str) -> int:
        return sum(-(-variant.nbytes(tensor, kind) // 32) * 32 for tensor in self.tensors)

    def as_type(self, kind: str) -> dict[str, str]:
        return {tensor.name: kind for tensor in self.tensors}


Choice = Mapping[Group, str]
"""The type of every group."""


@dataclass(frozen=True)
class Budget:
    """What a variant may take: so many bytes, and with a `pace` so much time."""

    size: int
    pace: Pace | None = None
    like: str | None = None
    """The scheme whose size it is."""


@dataclass(frozen=True)
class Found:
    """What a search has come to: the plan, the divergence that was reckoned for its mixture, if any, and was measured.

    `stock` is llama.cpp's own scheme for the budget. Where that diverges less on what was searched, it is the plan.
    """

    plan: Plan
    predicted: float | None
    mixture: Units
    searched_on: tuple[str, ...]
    stock: str | None = None
    stock_measured: Units = field(default_factory=list)

    @property
    def beaten(self) -> bool:
        return self.plan.recipe.scheme.name == self.stock and not self.plan.recipe.types


def groups(source: Source, changed: Iterable[str], effort: str) -> list[Group]:
    """The tensors named in `changed`, those that may be quantized: one by one if `thorough`, else by kind and third."""
    layers: dict[str, int] = {}
    for tensor in source.tensors:
        if found := _LAYER.match(tensor.name):
            layers[found[1]] = max(layers.get(found[1], 0), int(found[2]) + 1)
    by_name: dict[str, list[Tensor]] = {}
    names = set(changed)
    for tensor in source.tensors:
        if tensor.name in names:
            name = _group_name(tensor.name, layers, effort)
            known = by_name.get(name, [tensor])[0].type
            by_name.setdefault(name if tensor.type == known else tensor.name, []).append(tensor)
    return [Group(name, tuple(tensors)) for name, tensors in by_name.items()]


_LAYER = re.compile(r"(|.*\.)blk\.(\d+)\.(.*)")


def _group_name(name: str, layers: Mapping[str, int], effort: str) -> str:
    found = _LAYER.match(name)
    if found is None or effort == "thorough":
        return name
    third = int(found[2]) * _BANDS // layers[found[1]]
    return f"{found[1]}{found[3]} of {('the first', 'the middle', 'the last')[third]} layers"


def budget_of(
    source: Source, matrix: Matrix, size: int | None, bits: float | None, like: str | None, pace: Pace | None = None
) -> Budget:
    """What a user means by one of several ways to say it. Raises `ConfigError`."""
    if like is not None:
        return Budget(variant.plan(source, Recipe(find(like), matrix=matrix)).size, pace, like)
    if bits is not None:
        if not 1 <= bits <= 16:
            raise ConfigError(f"{bits:g} bits a weight are not possible", "bits")
        exact = variant.plan(source, Recipe(find("F16")))
        return Budget(exact.size - int((exact.bits - bits) * source.parameters / 8), pace)
    return Budget(source.size if size is None else size, pace)


def check(effort: str) -> None:
    if effort not in _UNITS:
        raise ConfigError(f"there is no effort {effort}; there are {', '.join(_UNITS)}", "effort")


def search(
    data: Data,
    matrix: Matrix,
    budget: Budget,
    effort: str = "normal",
    progress: Progress = lambda *_: None,
    source: Source | None = None,
) -> Found:
    """The best variant in a budget, and not worse than the scheme that it names, or the largest that fits.

    Of the model that reads the data; or of its projector where that is the `source`. With effort `none` it has that
    scheme's own types, rounded anew. Raises `ConfigError` where nothing is so small or so fast.
    """
    check(effort)
    varied = source or data.source
    stock = _stock(varied, matrix, budget)
    measure = Measure(data, matrix, _UNITS[effort], projector=varied.header.is_projector)
    chosen = _of_scheme(varied, stock) if effort == NONE else _best(varied, matrix, budget, effort, measure, progress)
    about: dict[str, str | int] = {"galago.quantize.scheme": "mixed", "galago.quantize.effort": effort}
    if matrix.moments():
        about["galago.quantize.rounding"] = ROUNDING
    recipe = Recipe(_nearest_scheme(chosen.types), types=chosen.types, matrix=matrix, anew=True, about=about)
    mixed = variant.plan(varied, recipe)
    last = {"mix": _mixed(mixed.recipe.types), **({"stock": _made(stock)} if stock else {})}
    result = measure(last, progress)
    read = tuple(path.name for path in data.files) or (samples.BUILTIN,)
    if stock is None:
        return Found(mixed, chosen.cost, result["mix"], read)
    worse = mean(result["stock"]) < mean(result["mix"])
    made, name = stock if worse else mixed, stock.recipe.scheme.name
    return Found(made, chosen.cost, result["mix"], read, name, result["stock"])


@dataclass(frozen=True)
class _Chosen:
    """Types by the names of tensors, and what they are reckoned to cost, where it was."""

    types: Mapping[str, str]
    cost: float | None = None


def _movable(source: Source, matrix: Matrix | None) -> tuple[Plan, set[str]]:
    """A plan in which all that can be has a type of few bits, and the names of those tensors."""
    plain = variant.plan(source, Recipe(find("Q4_0"), matrix=matrix))
    return plain, {t.name for t in source.tensors if BLOCKS[plain.types[t.name]][0] > 1}


def _of_scheme(source: Source, stock: Plan | None) -> _Chosen:
    if stock is None:
        raise ConfigError("no scheme is so small or so fast; give another budget, or --effort quick", "size")
    return _Chosen({name: stock.types[name] for name in _movable(source, None)[1]})


def _best(source: Source, matrix: Matrix, budget: Budget, effort: str, measure: Measure, progress: Progress) -> _Chosen:
    plain, movable = _movable(source, matrix)
    found = groups(source, movable, effort)
    if not found:
        raise ModelError(f"{source.path.name} has no weights that could be made smaller", "model")
    fixed = plain.size - sum(-(-size // 32) * 32 for t, size in plain.nbytes.items() if t in movable)
    kept = {name: kind for name, kind in plain.recipe.types.items() if name not in movable}
    costs = Costs(found, kept, measure, progress)
    costs.learn_whole(_whole(found))
    costs.learn((group, kind) for group in found for kind in _MEASURED[effort][group.block])
    choice = _settled(found, costs, budget.size - _METADATA - fixed, budget.pace)
    return _Chosen(_types(choice), costs.total(choice))


def alone(data: Data, progress: Progress = lambda *_: None) -> list[tuple[str, str, float]]:
    """Of every tensor that can be quantized its name, a type of about four bits, and the divergence of the model in
    which it alone has that type, uncalibrated. Raises `ConfigError`."""
    source = data.source
    found = groups(source, _movable(source, None)[1], "thorough")
    kinds = {group.name: _MEASURED["quick"][group.block][0] for group in found}
    own = {group.name: group.tensors[0].type_name for group in found}
    variants = {f"{name} as {kind}": _mixed(own | {name: kind}) for name, kind in kinds.items()}
    measured = Measure(data, Matrix({}), _UNITS["quick"])(variants, progress)
    return [(name, kind, mean(measured[f"{name} as {kind}"])) for name, kind in kinds.items()]


def _stock(source: Source, matrix: Matrix, budget: Budget) -> Plan | None:
    """The scheme that the budget names, else the first of llama.cpp's that fits: the table has larger ones first."""
    weights = source.parameters
    near = [s for s in SCHEMES.values() if s.quantized and s.type != "MXFP4" and weights * s.bits / 8 < budget.size]
    for scheme in [find(budget.like)] if budget.like else near:
        plan = variant.plan(source, Recipe(scheme, matrix=matrix))
        pace = budget.pace
        if plan.size <= budget.size and (pace is None or pace.seconds(plan.types) <= pace.limit):
            return plan
    return None


def _nearest_scheme(types: Mapping[str, str]) -> Scheme:
    """For `general.file_type`, which knows no mixtures: a scheme of the type that most tensors have."""
    commonest = Counter(types.values()).most_common(1)[0][0]
    return next(scheme for scheme in SCHEMES.values() if scheme.type == commonest)


def _types(choice: Choice) -> dict[str, str]:
    return {tensor.name: kind for group, kind in choice.items() for tensor in group.tensors}


def _mixed(types: Mapping[str, str], anew: bool = True) -> dict[str, Any]:
    return {"ftype": 7, "pure": True, "anew": anew, "types": [(name, TYPE_NUMBERS[t]) for name, t in types.items()]}


def _made(plan: Plan) -> dict[str, Any]:
    """How `variant.make` has llama.cpp make it."""
    return _mixed(plan.recipe.types, plan.recipe.anew) if plan.recipe.types else {"ftype": plan.recipe.scheme.ftype}


def _whole(found: Sequence[Group]) -> dict[str, Choice]:
    """The whole model as each type; groups that cannot have it get the one of about as many bits."""
    kinds = dict.fromkeys(kind for group in found for kind in group.coarse)
    return {kind: {group: _nearest(kind, group.coarse) for group in found} for kind in kinds}


def _nearest(kind: str, types: Iterable[str]) -> str:
    """The same, or that of about as many bits."""
    return min(types, key=lambda other: (other != kind, abs(_bits(other) - _bits(kind))))


def _bits(kind: str) -> float:
    weights, size = BLOCKS[kind]
    return 8 * size / weights


class Costs:
    """What a group costs as a type: measured, or reckoned from its nearest measured type by what the whole model loses
    as either. A choice costs the sum, and what the groups lose together beyond it."""

    def __init__(
        self, found: Sequence[Group], kept: Mapping[str, str], measure: Measure, progress: Progress = lambda *_: None
    ) -> None:
        """`kept` are types of tensors in no group that llama.cpp would not keep by itself."""
        self._kept, self._measure, self._progress = kept, measure, progress
        self._own = {t.name: t.type_name for group in found for t in group.tensors}
        self._single: dict[tuple[Group, str], float] = {}
        self._whole: list[tuple[Choice, float]] = []

    def learn(self, pairs: Iterable[tuple[Group, str]]) -> None:
        """Measures groups as types, each alone."""
        names = {f"{group.name} as {kind}": (group, kind) for group, kind in pairs}
        types = {name: {**self._own, **group.as_type(kind)} for name, (group, kind) in names.items()}
        variants = {name: _mixed({**self._kept, **own}) for name, own in types.items()}
        for name, units in self._measure(variants, self._progress).items():
            self._single[names[name]] = max(0.0, mean(units))

    def learn_whole(self, choices: Mapping[str, Choice]) -> None:
        """Measures all groups together, as one type each time."""
        names = {f"all as {kind}": choice for kind, choice in choices.items()}
        variants = {name: _mixed({**self._kept, **_types(choice)}) for name, choice in names.items()}
        for name, units in self._measure(variants, self._progress).items():
            self._whole.append((names[name], max(0.0, mean(units))))

    def unknown(self, choice: Choice) -> list[tuple[Group, str]]:
        return [(group, kind) for group, kind in choice.items() if kind not in (group.own, *self._known(group))]

    def of(self, group: Group, kind: str) -> float:
        if kind == group.own:
            return 0.0
        if (group, kind) in self._single:
            return self._single[group, kind]
        near = _nearest(kind, self._known(group))
        before = self._as(group, near)
        return self._single[group, near] * (self._as(group, kind) / before if before > 0 else 1.0)

    def _known(self, group: Group) -> list[str]:
        return [kind for other, kind in self._single if other == group]

    def _as(self, group: Group, kind: str) -> float:
        """What the whole model loses where this group, and the others as far as they can, have a type."""
        return next(cost for choice, cost in self._whole if choice[group] == kind)

    def total(self, choice: Choice) -> float:
        return sum(self.of(group, kind) for group, kind in choice.items())


def _settled(found: Sequence[Group], costs: Costs, room: int, pace: Pace | None) -> Choice:
    """The best choice; as long as it rests on costs that were only reckoned, these are measured and it is made anew."""
    choice = _choose(found, costs, room, pace)
    for _ in range(_ROUNDS):
        unknown = costs.unknown(choice)
        if not unknown:
            break
        costs.learn(unknown)
        choice = _choose(found, costs, room, pace)
    return choice


def _choose(found: Sequence[Group], costs: Costs, room: int, pace: Pace | None) -> Choice:
    """The least cost in so many bytes; with a `pace`, each second has the smallest price at which the choice keeps it.

    The price makes one knapsack of two budgets (Lagrange's relaxation): no choice that keeps both is better by more
    than the price of the seconds that are left.
    """
    sizes = [[group.size(kind) for kind in group.types] for group in found]
    losses = [[costs.of(group, kind) for kind in group.types] for group in found]
    least = sum(map(min, sizes))
    if least > room:
        raise ConfigError(f"the budget is {least - room} bytes less than the smallest variant takes", "size")
    room = min(room, sum(map(max, sizes)))
    slow = _seconds(found, pace) if pace else [[0.0] * len(row) for row in sizes]

    def picked(price: float) -> dict[Group, str]:
        options = [
            [Option(size, loss + price * seconds) for size, loss, seconds in zip(*rows, strict=True)]
            for rows in zip(sizes, losses, slow, strict=True)
        ]
        return {g: g.types[pick] for g, pick in zip(found, allocate(options, room), strict=True)}

    return _priced(picked, pace) if pace else picked(0.0)


def _seconds(found: Sequence[Group], pace: Pace) -> list[list[float]]:
    """Of each group as each of its types, beyond its fastest."""
    each = [[pace.seconds(group.as_type(kind)) for kind in group.types] for group in found]
    return [[seconds - min(row) for seconds in row] for row in each]


def _priced(picked: Callable[[float], Choice], pace: Pace) -> Choice:
    def seconds(choice: Choice) -> float:
        return pace.seconds(_types(choice))

    choice = picked(0.0)
    if seconds(choice) <= pace.limit:
        return choice
    low, high = _PRICES
    if (least := seconds(picked(high))) > pace.limit:
        raise ConfigError(f"the fastest mixture in that size makes {1 / least:.1f} tokens a second here", "speed")
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if seconds(picked(middle)) <= pace.limit else (middle, high)
    return picked(high)
