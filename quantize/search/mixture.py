"""Finds the mixture of types with the least KL divergence within a size or speed budget.

The cost of a type is the divergence of the model in which one group of tensors alone has it. Costs are added, so the
best choice solves a knapsack (`allocation.py`). Costs that the chosen mixture relies on but that were only interpolated
are measured; then the knapsack is solved again, up to six times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...models.errors import ConfigError, ModelError
from ..calibrate import samples
from ..calibrate.calibration import CalibrationData
from ..calibrate.imatrix import ImportanceMatrix
from ..jobs import VariantSpec
from ..progress import Progress, no_progress
from ..variants import variant
from ..variants.gptq import ROUNDING
from ..variants.schemes import SCHEMES, Scheme, find
from ..variants.source import SourceModel, padded_bytes
from ..variants.variant import Recipe, VariantPlan
from .allocation import Option, allocate
from .divergence import DivergenceMeter, SegmentDivergence, mean_divergence
from .latency import LatencyTarget
from .sensitivity import (
    NARROW_TYPES,
    WIDE_TYPES,
    TensorGroup,
    TypeChoice,
    TypeCosts,
    mixture_spec,
    quantizable,
    tensor_groups,
    tensor_types,
    uniform_choices,
)

_MEASURED_TYPES: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "quick": {256: ("Q4_K",), 32: ("IQ4_NL",)},
    "normal": {256: ("Q3_K", "Q4_K", "Q6_K"), 32: ("IQ4_NL", "Q5_0")},
    "thorough": {256: WIDE_TYPES, 32: NARROW_TYPES},
}
"""By effort and block size: the types in which every group is measured. Costs of other types are interpolated."""
NO_SEARCH = "none"
"""The effort without a search: the types of a scheme are used."""
_MAX_CHUNKS: Mapping[str, int] = {NO_SEARCH: 8, "quick": 8, "normal": 16, "thorough": 32}
EFFORTS = tuple(_MAX_CHUNKS)
_METADATA_BYTES = 1024
"""The size of a mixture's metadata beyond that of a scheme."""
_MAX_ROUNDS = 6
"""Maximum number of times that the knapsack is solved again."""
_PRICE_RANGE, _PRICE_STEPS = (1e-9, 1e12), 24
"""Range of a price in nats per second of a token, and the number of bisections of its logarithm."""


@dataclass(frozen=True)
class MixtureBudget:
    """The limits of a variant: `size` in bytes, and with a `latency` target, time.

    `like` is the name of the scheme that has this size.
    """

    size: int
    latency: LatencyTarget | None = None
    like: str | None = None


@dataclass(frozen=True)
class MixtureResult:
    """The result of a search.

    `predicted` is the mixture's estimated divergence, if there was a search, and `measured` its measured one. `stock`
    is llama.cpp's own scheme for the budget. If that diverges less, `plan` is the stock scheme's.
    """

    plan: VariantPlan
    predicted: float | None
    measured: list[SegmentDivergence]
    measured_on: tuple[str, ...]
    stock: str | None = None
    stock_measured: list[SegmentDivergence] = field(default_factory=list)

    @property
    def uses_stock(self) -> bool:
        return self.plan.recipe.scheme.name == self.stock and not self.plan.recipe.types


def resolve_budget(
    source: SourceModel,
    matrix: ImportanceMatrix,
    size: int | None,
    bits: float | None,
    like: str | None,
    latency: LatencyTarget | None = None,
) -> MixtureBudget:
    """Returns the budget given as bytes, as bits per weight, or as the size of a scheme. Raises `ConfigError`."""
    if like is not None:
        return MixtureBudget(variant.plan(source, Recipe(find(like), matrix=matrix)).size, latency, like)
    if bits is not None:
        if not 1 <= bits <= 16:
            raise ConfigError(f"the bits per weight must be between 1 and 16, not {bits:g}", "bits")
        f16 = variant.plan(source, Recipe(find("F16")))
        return MixtureBudget(f16.size - int((f16.bits_per_weight - bits) * source.parameters / 8), latency)
    return MixtureBudget(source.size if size is None else size, latency)


def check_effort(effort: str) -> None:
    if effort not in EFFORTS:
        raise ConfigError(f"there is no effort {effort}; choose one of {', '.join(EFFORTS)}", "effort")


def find_mixture(
    data: CalibrationData,
    matrix: ImportanceMatrix,
    budget: MixtureBudget,
    effort: str = "normal",
    progress: Progress = no_progress,
    source: SourceModel | None = None,
) -> MixtureResult:
    """Returns the best variant in a budget; it is never worse than the stock scheme that fits.

    It is a variant of the model that reads the data, or of its projector if that is the `source`. With effort `none` it
    has the stock scheme's types, rounded with GPTQ. Raises `ConfigError` if nothing is small or fast enough.
    """
    check_effort(effort)
    varied = source or data.source
    stock = _stock_plan(varied, matrix, budget)
    meter = DivergenceMeter(data, matrix, _MAX_CHUNKS[effort], vary_projector=varied.header.is_projector)
    if effort == NO_SEARCH:
        types, predicted = _scheme_types(varied, stock), None
    else:
        types, predicted = _search(varied, matrix, budget, effort, meter, progress)
    file_metadata: dict[str, str | int] = {"galago.quantize.scheme": "mixed", "galago.quantize.effort": effort}
    if matrix.has_products:
        file_metadata["galago.quantize.rounding"] = ROUNDING
    recipe = Recipe(_nearest_scheme(types), types=types, matrix=matrix, gptq=True, metadata=file_metadata)
    plan = variant.plan(varied, recipe)
    variants = {"mixture": mixture_spec(plan.recipe.types)}
    variants |= {"stock": plan_spec(stock)} if stock else {}
    measured = meter.measure(variants, progress)
    names = tuple(path.name for path in data.files) or (samples.BUILTIN,)
    if stock is None:
        return MixtureResult(plan, predicted, measured["mixture"], names)
    stock_is_better = mean_divergence(measured["stock"]) < mean_divergence(measured["mixture"])
    best, name = stock if stock_is_better else plan, stock.recipe.scheme.name
    return MixtureResult(best, predicted, measured["mixture"], names, name, measured["stock"])


def _scheme_types(source: SourceModel, stock: VariantPlan | None) -> Mapping[str, str]:
    if stock is None:
        raise ConfigError("no scheme is small or fast enough; raise the budget, or use --effort quick", "size")
    return {name: stock.types[name] for name in quantizable(source, None)[1]}


def _search(
    source: SourceModel,
    matrix: ImportanceMatrix,
    budget: MixtureBudget,
    effort: str,
    meter: DivergenceMeter,
    progress: Progress,
) -> tuple[Mapping[str, str], float]:
    """Returns the best types by tensor name, and their predicted divergence."""
    plain, names = quantizable(source, matrix)
    groups = tensor_groups(source, names, effort)
    if not groups:
        raise ModelError(f"{source.path.name} has no weights that can be quantized", "model")
    fixed_bytes = plain.size - padded_bytes(size for name, size in plain.nbytes.items() if name in names)
    fixed_types = {name: type_name for name, type_name in plain.recipe.types.items() if name not in names}
    costs = TypeCosts(groups, fixed_types, meter, progress)
    costs.measure_uniform(uniform_choices(groups))
    costs.measure_single((group, type_name) for group in groups for type_name in _MEASURED_TYPES[effort][group.block])
    choice = _solve_with_measured_costs(groups, costs, budget.size - _METADATA_BYTES - fixed_bytes, budget.latency)
    return tensor_types(choice), costs.total(choice)


def _stock_plan(source: SourceModel, matrix: ImportanceMatrix, budget: MixtureBudget) -> VariantPlan | None:
    """Returns the scheme that the budget names, or else llama.cpp's largest that fits."""
    weights = source.parameters
    candidates = [
        s for s in SCHEMES.values() if s.quantized and s.type != "MXFP4" and weights * s.bits / 8 < budget.size
    ]
    for scheme in [find(budget.like)] if budget.like else candidates:  # the table has larger schemes first
        plan = variant.plan(source, Recipe(scheme, matrix=matrix))
        latency = budget.latency
        if plan.size <= budget.size and (latency is None or latency.seconds(plan.types) <= latency.max_seconds):
            return plan
    return None


def _nearest_scheme(types: Mapping[str, str]) -> Scheme:
    """Returns a scheme of the most common type, for `general.file_type`, which has no value for mixtures."""
    most_common = Counter(types.values()).most_common(1)[0][0]
    return next(scheme for scheme in SCHEMES.values() if scheme.type == most_common)


def plan_spec(plan: VariantPlan) -> VariantSpec:
    """Returns how `variant.write` writes the plan."""
    recipe = plan.recipe
    if recipe.types:
        return mixture_spec(recipe.types, recipe.gptq)
    return VariantSpec(recipe.scheme.ftype, variant.numbered(variant.table_types(plan.source, recipe.scheme)))


def _solve_with_measured_costs(
    groups: Sequence[TensorGroup], costs: TypeCosts, max_bytes: int, latency: LatencyTarget | None
) -> TypeChoice:
    """Returns the best choice; solves again while it relies on interpolated costs, which are then measured."""
    choice = _solve(groups, costs, max_bytes, latency)
    for _ in range(_MAX_ROUNDS):
        interpolated = costs.interpolated(choice)
        if not interpolated:
            break
        costs.measure_single(interpolated)
        choice = _solve(groups, costs, max_bytes, latency)
    return choice


def _solve(
    groups: Sequence[TensorGroup], costs: TypeCosts, max_bytes: int, latency: LatencyTarget | None
) -> TypeChoice:
    """Returns the choice with the least cost in `max_bytes`.

    With a latency target, seconds have the smallest price at which the choice is fast enough. The price turns two
    budgets into one knapsack (Lagrangian relaxation): no choice within both budgets is better by more than the price of
    the unused seconds.
    """
    sizes = [[group.nbytes(type_name) for type_name in group.types] for group in groups]
    losses = [[costs.cost(group, type_name) for type_name in group.types] for group in groups]
    least = sum(map(min, sizes))
    if least > max_bytes:
        raise ConfigError(f"the budget is {least - max_bytes} bytes too small for the smallest variant", "size")
    max_bytes = min(max_bytes, sum(map(max, sizes)))
    delays = _delays(groups, latency) if latency else [[0.0] * len(row) for row in sizes]

    def solve_at(price: float) -> dict[TensorGroup, str]:
        options = [
            [Option(size, loss + price * seconds) for size, loss, seconds in zip(*rows, strict=True)]
            for rows in zip(sizes, losses, delays, strict=True)
        ]
        return {g: g.types[pick] for g, pick in zip(groups, allocate(options, max_bytes), strict=True)}

    return _cheapest_fast_enough(solve_at, latency) if latency else solve_at(0.0)


def _delays(groups: Sequence[TensorGroup], latency: LatencyTarget) -> list[list[float]]:
    """Returns the seconds of each group in each of its types, beyond those of its fastest type."""
    each = [[latency.seconds(group.as_type(type_name)) for type_name in group.types] for group in groups]
    return [[seconds - min(row) for seconds in row] for row in each]


def _cheapest_fast_enough(solve_at: Callable[[float], TypeChoice], latency: LatencyTarget) -> TypeChoice:
    def seconds(choice: TypeChoice) -> float:
        return latency.seconds(tensor_types(choice))

    choice = solve_at(0.0)
    if seconds(choice) <= latency.max_seconds:
        return choice
    low, high = _PRICE_RANGE
    if (least := seconds(solve_at(high))) > latency.max_seconds:
        raise ConfigError(
            f"the fastest mixture of that size generates {1 / least:.1f} tokens per second on this machine", "speed"
        )
    for _ in range(_PRICE_STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if seconds(solve_at(middle)) <= latency.max_seconds else (middle, high)
    return solve_at(high)
