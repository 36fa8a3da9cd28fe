"""Spends a budget of bytes where it counts: measures what each group of weights loses as each type, and chooses.

The cost of a type is the divergence (`measuring.py`) of the model in which only that group has it; costs add up, so the
best choice is a knapsack (`allocation.py`). What a choice rests on and was only reckoned is measured, and chosen anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...models.errors import ConfigError, ModelError
from ..calibrate import samples
from ..calibrate.calibration import Data
from ..calibrate.imatrix import ImportanceMatrix
from ..variants import plan as variant
from ..variants.gptq import ROUNDING
from ..variants.plan import Recipe, Source, VariantPlan
from ..variants.schemes import BLOCKS, SCHEMES, Scheme, find
from .allocation import Option, allocate
from .divergence import Measure, Progress, Units, mean
from .latency import Pace
from .type_costs import NARROW, WIDE, TensorGroup, TypeChoice, TypeCosts, groups, mixed, types_of, whole

_MEASURED: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "quick": {256: ("Q4_K",), 32: ("IQ4_NL",)},
    "normal": {256: ("Q3_K", "Q4_K", "Q6_K"), 32: ("IQ4_NL", "Q5_0")},
    "thorough": {256: WIDE, 32: NARROW},
}
"""What every group is measured as; what it would lose as other types is reckoned from these."""
NONE = "none"
"""No search: the types of a scheme."""
_UNITS: Mapping[str, int] = {NONE: 8, "quick": 8, "normal": 16, "thorough": 32}
_METADATA = 1024
"""Bytes in which a mixture says how it was made, more than a scheme does."""
_ROUNDS = 6
"""How often a choice is made anew at most."""
_PRICES, _STEPS = (1e-9, 1e12), 24
"""Nats for a second of a token: what a price is sought between, and how often the span's logarithm is halved."""


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

    plan: VariantPlan
    predicted: float | None
    mixture: Units
    searched_on: tuple[str, ...]
    stock: str | None = None
    stock_measured: Units = field(default_factory=list)

    @property
    def beaten(self) -> bool:
        return self.plan.recipe.scheme.name == self.stock and not self.plan.recipe.types


def budget_of(
    source: Source,
    matrix: ImportanceMatrix,
    size: int | None,
    bits: float | None,
    like: str | None,
    pace: Pace | None = None,
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
    matrix: ImportanceMatrix,
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
    if matrix.tells_products:
        about["galago.quantize.rounding"] = ROUNDING
    recipe = Recipe(_nearest_scheme(chosen.types), types=chosen.types, matrix=matrix, anew=True, about=about)
    plan = variant.plan(varied, recipe)
    last = {"mix": mixed(plan.recipe.types), **({"stock": _made(stock)} if stock else {})}
    result = measure(last, progress)
    read = tuple(path.name for path in data.files) or (samples.BUILTIN,)
    if stock is None:
        return Found(plan, chosen.cost, result["mix"], read)
    worse = mean(result["stock"]) < mean(result["mix"])
    made, name = stock if worse else plan, stock.recipe.scheme.name
    return Found(made, chosen.cost, result["mix"], read, name, result["stock"])


@dataclass(frozen=True)
class _Chosen:
    """Types by the names of tensors, and what they are reckoned to cost, where it was."""

    types: Mapping[str, str]
    cost: float | None = None


def _movable(source: Source, matrix: ImportanceMatrix | None) -> tuple[VariantPlan, set[str]]:
    """A plan in which all that can be has a type of few bits, and the names of those tensors."""
    plain = variant.plan(source, Recipe(find("Q4_0"), matrix=matrix))
    return plain, {t.name for t in source.tensors if BLOCKS[plain.types[t.name]][0] > 1}


def _of_scheme(source: Source, stock: VariantPlan | None) -> _Chosen:
    if stock is None:
        raise ConfigError("no scheme is so small or so fast; give another budget, or --effort quick", "size")
    return _Chosen({name: stock.types[name] for name in _movable(source, None)[1]})


def _best(
    source: Source, matrix: ImportanceMatrix, budget: Budget, effort: str, measure: Measure, progress: Progress
) -> _Chosen:
    plain, movable = _movable(source, matrix)
    found = groups(source, movable, effort)
    if not found:
        raise ModelError(f"{source.path.name} has no weights that could be made smaller", "model")
    fixed = plain.size - variant.padded(size for name, size in plain.nbytes.items() if name in movable)
    kept = {name: kind for name, kind in plain.recipe.types.items() if name not in movable}
    costs = TypeCosts(found, kept, measure, progress)
    costs.learn_whole(whole(found))
    costs.learn((group, kind) for group in found for kind in _MEASURED[effort][group.block])
    choice = _settled(found, costs, budget.size - _METADATA - fixed, budget.pace)
    return _Chosen(types_of(choice), costs.total(choice))


def alone(data: Data, progress: Progress = lambda *_: None) -> list[tuple[str, str, float]]:
    """Of every tensor that can be quantized its name, a type of about four bits, and the divergence of the model in
    which it alone has that type, uncalibrated. Raises `ConfigError`."""
    source = data.source
    found = groups(source, _movable(source, None)[1], "thorough")
    kinds = {group.name: _MEASURED["quick"][group.block][0] for group in found}
    own = {group.name: group.tensors[0].type_name for group in found}
    variants = {f"{name} as {kind}": mixed(own | {name: kind}) for name, kind in kinds.items()}
    measured = Measure(data, ImportanceMatrix({}), _UNITS["quick"])(variants, progress)
    return [(name, kind, mean(measured[f"{name} as {kind}"])) for name, kind in kinds.items()]


def _stock(source: Source, matrix: ImportanceMatrix, budget: Budget) -> VariantPlan | None:
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


def _made(plan: VariantPlan) -> dict[str, Any]:
    """How `variant.make` has llama.cpp make it."""
    return mixed(plan.recipe.types, plan.recipe.anew) if plan.recipe.types else {"ftype": plan.recipe.scheme.ftype}


def _settled(found: Sequence[TensorGroup], costs: TypeCosts, room: int, pace: Pace | None) -> TypeChoice:
    """The best choice; as long as it rests on costs that were only reckoned, these are measured and it is made anew."""
    choice = _choose(found, costs, room, pace)
    for _ in range(_ROUNDS):
        unknown = costs.unknown(choice)
        if not unknown:
            break
        costs.learn(unknown)
        choice = _choose(found, costs, room, pace)
    return choice


def _choose(found: Sequence[TensorGroup], costs: TypeCosts, room: int, pace: Pace | None) -> TypeChoice:
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

    def picked(price: float) -> dict[TensorGroup, str]:
        options = [
            [Option(size, loss + price * seconds) for size, loss, seconds in zip(*rows, strict=True)]
            for rows in zip(sizes, losses, slow, strict=True)
        ]
        return {g: g.types[pick] for g, pick in zip(found, allocate(options, room), strict=True)}

    return _priced(picked, pace) if pace else picked(0.0)


def _seconds(found: Sequence[TensorGroup], pace: Pace) -> list[list[float]]:
    """Of each group as each of its types, beyond its fastest."""
    each = [[pace.seconds(group.as_type(kind)) for kind in group.types] for group in found]
    return [[seconds - min(row) for seconds in row] for row in each]


def _priced(picked: Callable[[float], TypeChoice], pace: Pace) -> TypeChoice:
    def seconds(choice: TypeChoice) -> float:
        return pace.seconds(types_of(choice))

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
