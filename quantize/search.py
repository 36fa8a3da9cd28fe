"""Spends a budget of bytes where it counts: measures what each group of weights loses as each type, and chooses.

The cost of a type is the divergence (`divergence.py`) of the model in which only that group has it; costs add up, so
the best choice is a knapsack (`allocation.py`). Measured results are kept, and an interrupted search goes on from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from ..models import units
from ..models.errors import ConfigError, ModelError
from ..models.header import Tensor
from ..models.places import cache_folder
from ..runtime.config import default_threads
from . import child, samples, variant
from .allocation import Option, allocate
from .calibration import Data
from .imatrix import Matrix
from .schemes import BLOCKS, SCHEMES, TYPE_NUMBERS, Scheme, find
from .variant import Plan, Recipe, Source

Progress = Callable[[int, int, str], None]
"""Called with how many variants are measured, how many there will be, and which one it was."""
Units = list[tuple[str, int, float]]
"""Of each stretch or chat: text, pictures, sounds or chats; positions; nats in all."""

_WIDE = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
_NARROW = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types that rows of 256 and of 32 can have, smallest first."""
_MEASURED: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "quick": {256: ("Q4_K",), 32: ("IQ4_NL",)},
    "normal": {256: ("Q3_K", "Q4_K", "Q6_K"), 32: ("IQ4_NL", "Q5_0")},
    "thorough": {256: _WIDE, 32: _NARROW},
}
"""What a group is measured as; what it would lose as other types is reckoned from these."""
_UNITS: Mapping[str, int] = {"quick": 8, "normal": 16, "thorough": 32}
EVERY = 4
_BANDS = 3


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
        return _WIDE if self.block == 256 else _NARROW

    def size(self, kind: str) -> int:
        return sum(-(-variant.nbytes(tensor, kind) // 32) * 32 for tensor in self.tensors)


@dataclass(frozen=True)
class Found:
    """What a search has come to: the plan, the divergence that was reckoned for its mixture, and what was measured.

    `stock` is llama.cpp's own scheme for the budget. Where that diverges less on what was searched, it is the plan.
    """

    plan: Plan
    predicted: float
    mixture: Units
    searched_on: tuple[str, ...]
    stock: str | None = None
    stock_measured: Units = field(default_factory=list)

    @property
    def beaten(self) -> bool:
        return self.plan.recipe.scheme.name == self.stock and not self.plan.recipe.types


def mean(units: Iterable[tuple[str, int, float]]) -> float:
    """Nats a position: of each kind of unit, then of the kinds, so that the few positions of pictures count as much as
    the many of texts."""
    return fmean(by_kind(units).values())


def by_kind(units: Iterable[tuple[str, int, float]]) -> dict[str, float]:
    rows: dict[str, tuple[int, float]] = {}
    for kind, count, nats in units:
        before = rows.get(kind, (0, 0.0))
        rows[kind] = (before[0] + count, before[1] + nats)
    return {kind: nats / count for kind, (count, nats) in rows.items()}


def groups(source: Source, changed: Iterable[str], effort: str) -> list[Group]:
    """The tensors named in `changed`, those that may be quantized: one by one if `thorough`, else by kind and third."""
    layers = [int(found[1]) for t in source.tensors if (found := re.match(r"blk\.(\d+)\.", t.name))]
    count = max(layers, default=0) + 1
    by_name: dict[str, list[Tensor]] = {}
    names = set(changed)
    for tensor in source.tensors:
        if tensor.name in names:
            by_name.setdefault(_group_name(tensor.name, count, effort), []).append(tensor)
    return [Group(name, tuple(tensors)) for name, tensors in by_name.items()]


def _group_name(name: str, layers: int, effort: str) -> str:
    found = re.match(r"blk\.(\d+)\.(.*)", name)
    if found is None or effort == "thorough":
        return name
    return f"{found[2]} of {('the first', 'the middle', 'the last')[int(found[1]) * _BANDS // layers]} layers"


def budget_of(source: Source, matrix: Matrix, size: int | None, bits: float | None, like: str | None) -> int:
    """Bytes of the file that a user means by one of three ways to say it. Raises `ConfigError`."""
    if like is not None:
        return variant.plan(source, Recipe(find(like), matrix=matrix)).size
    if bits is not None:
        if not 1 <= bits <= 16:
            raise ConfigError(f"{bits:g} bits a weight are not possible", "bits")
        exact = variant.plan(source, Recipe(find("F16")))
        return exact.size - int((exact.bits - bits) * source.parameters / 8)
    assert size is not None
    return size


def check(source: Source, effort: str) -> None:
    """Raises `ConfigError` where nothing can be searched."""
    if effort not in _MEASURED:
        raise ConfigError(f"there is no effort {effort}; there are {', '.join(_MEASURED)}", "effort")
    if source.header.is_projector:
        raise ConfigError("mixtures are searched for text models; give a projector a --scheme", "size")


def search(
    data: Data,
    matrix: Matrix,
    budget: int,
    effort: str = "normal",
    like: str | None = None,
    progress: Progress = lambda *_: None,
) -> Found:
    """The best variant of at most `budget` bytes, and not worse than the scheme `like`, or the largest that fits.

    Raises `ConfigError` where none is so small, or of no such effort.
    """
    source = data.source
    check(source, effort)
    plain = variant.plan(source, Recipe(find("Q4_0"), matrix=matrix))
    movable = [t.name for t in source.tensors if BLOCKS[plain.types[t.name]][0] > 1]
    found = groups(source, movable, effort)
    if not found:
        raise ModelError(f"{source.path.name} has no weights that could be made smaller", "model")
    stock = _stock(source, matrix, budget, like)
    variants = _variants(source, found, effort)
    measured = _measure(data, matrix, variants, effort, progress)
    costs = Costs(found, effort, {name: mean(units) for name, units in measured.items()})
    choice, predicted = _choose(source, plain, found, costs, budget)
    about: dict[str, str | int] = {"galago.quantize.scheme": "mixed", "galago.quantize.effort": effort}
    mixed = variant.plan(source, Recipe(_nearest_scheme(choice), types=choice, matrix=matrix, about=about))
    last = {"mix": _mixed(choice), **({"stock": _scheme(stock)} if stock else {})}
    result = _measure(data, matrix, last, effort, progress, keep=False)
    read = tuple(path.name for path in data.files) or (samples.BUILTIN,)
    if stock is None:
        return Found(mixed, predicted, result["mix"], read)
    worse = mean(result["stock"]) < mean(result["mix"])
    return Found(stock if worse else mixed, predicted, result["mix"], read, stock.recipe.scheme.name, result["stock"])


def alone(data: Data, progress: Progress = lambda *_: None) -> list[tuple[str, str, float]]:
    """Of every tensor that can be quantized its name, a type of about four bits, and the divergence of the model in
    which it alone has that type, uncalibrated. Raises `ConfigError`."""
    source, matrix = data.source, Matrix({})
    check(source, "quick")
    plain = variant.plan(source, Recipe(find("Q4_0")))
    found = groups(source, [t.name for t in source.tensors if BLOCKS[plain.types[t.name]][0] > 1], "thorough")
    kinds = {group.name: _MEASURED["quick"][group.block][0] for group in found}
    own = {group.name: group.tensors[0].type_name for group in found}
    variants = {f"{name} as {kind}": _mixed(own | {name: kind}) for name, kind in kinds.items()}
    measured = _measure(data, matrix, variants, "quick", progress)
    return [(name, kind, mean(measured[f"{name} as {kind}"])) for name, kind in kinds.items()]


def _stock(source: Source, matrix: Matrix, budget: int, like: str | None) -> Plan | None:
    """The scheme `like`, else the first of llama.cpp's that fits; the table has the larger ones first."""
    weights = source.parameters
    near = [s for s in SCHEMES.values() if s.quantized and s.type != "MXFP4" and weights * s.bits / 8 < budget]
    for scheme in [find(like)] if like else near:
        plan = variant.plan(source, Recipe(scheme, matrix=matrix))
        if plan.size <= budget:
            return plan
    return None


def _nearest_scheme(types: Mapping[str, str]) -> Scheme:
    """For `general.file_type`, which knows no mixtures: a scheme of the type that most tensors have."""
    commonest = Counter(types.values()).most_common(1)[0][0]
    return next(scheme for scheme in SCHEMES.values() if scheme.type == commonest)


Variants = Mapping[str, Mapping[str, Any]]
"""By a name, the arguments of `quantizer.quantize`."""


def _variants(source: Source, found: Sequence[Group], effort: str) -> Variants:
    """Each group as each type that its effort measures, all else as it is; and the whole model as each type."""
    kinds = dict.fromkeys(kind for group in found for kind in group.types)
    whole = {f"all as {kind}": _mixed({t.name: kind if kind in g.types else _nearest(kind, g) for g in found
                                       for t in g.tensors}) for kind in kinds}  # fmt: skip
    own = {t.name: t.type_name for group in found for t in group.tensors}
    single = {
        f"{group.name} as {kind}": _mixed(own | {t.name: kind for t in group.tensors})
        for group in found
        for kind in _MEASURED[effort][group.block]
    }
    return whole | single


def _nearest(kind: str, group: Group) -> str:
    """The type of this group that takes about as many bits as one it cannot have."""
    return min(group.types, key=lambda own: abs(_bits(own) - _bits(kind)))


def _bits(kind: str) -> float:
    weights, size = BLOCKS[kind]
    return 8 * size / weights


def _mixed(types: Mapping[str, str]) -> dict[str, Any]:
    return {"ftype": 7, "pure": True, "types": [(name, TYPE_NUMBERS[kind]) for name, kind in types.items()]}


def _scheme(plan: Plan) -> dict[str, Any]:
    return {"ftype": plan.recipe.scheme.ftype}


class Costs:
    """What a group costs as a type: measured, or reckoned from its nearest measured type by what the whole model loses
    as either. All are scaled by what the whole model loses beyond the sum of its groups."""

    def __init__(self, found: Sequence[Group], effort: str, means: Mapping[str, float]) -> None:
        self._means, self._effort = means, effort
        sums = {
            kind: sum(means[f"{g.name} as {kind}"] for g in found)
            for kind in dict.fromkeys(k for g in found for k in _MEASURED[effort][g.block])
            if all(kind in _MEASURED[effort][g.block] for g in found)
        }
        ratios = [means[f"all as {kind}"] / total for kind, total in sums.items() if total > 0]
        self._scale = fmean(ratios) if ratios else 1.0

    def of(self, group: Group, kind: str) -> float:
        known = _MEASURED[self._effort][group.block]
        near = min(known, key=lambda own: abs(_bits(own) - _bits(kind)))
        cost = max(0.0, self._means[f"{group.name} as {near}"]) * self._scale
        whole = self._means[f"all as {near}"]
        return cost if near == kind or whole <= 0 else cost * max(0.0, self._means[f"all as {kind}"]) / whole


def _choose(
    source: Source, plain: Plan, found: Sequence[Group], costs: Costs, budget: int
) -> tuple[dict[str, str], float]:
    """The types of all tensors of the groups, and the divergence that is expected of them."""
    movable = {tensor.name for group in found for tensor in group.tensors}
    fixed = plain.size - sum(-(-size // 32) * 32 for name, size in plain.nbytes.items() if name in movable)
    options = [[Option(group.size(kind), costs.of(group, kind)) for kind in group.types] for group in found]
    try:
        picks = allocate(options, budget - fixed)
    except ConfigError:
        least = fixed + sum(min(option.size for option in row) for row in options)
        raise ConfigError(f"{budget} bytes do not suffice: the smallest variant takes {least}", "size") from None
    chosen = {t.name: group.types[pick] for group, pick in zip(found, picks, strict=True) for t in group.tensors}
    return chosen, sum(row[pick].cost for row, pick in zip(options, picks, strict=True))


def _measure(
    data: Data, matrix: Matrix, variants: Variants, effort: str, progress: Progress, keep: bool = True
) -> dict[str, Units]:
    """The divergences of all variants; those measured before are not measured again."""
    kept = cache_folder() / "sensitivity" / f"{_key(data, matrix, effort)}.json"
    known: dict[str, Units] = _kept(kept) if keep else {}
    missing = [(name, dict(how)) for name, how in variants.items() if name not in known]
    done = len(variants) - len(missing)

    def heard(said: tuple[str, Units]) -> None:
        nonlocal done
        known[said[0]] = said[1]
        done += 1
        if keep:
            _keep(kept, known)
        progress(done, len(variants), said[0])

    if missing:
        with tempfile.TemporaryDirectory(prefix="galago-search-") as folder:
            _check_room(data, effort, Path(folder))
            job = {
                "source": str(data.source.path),
                "projector": str(data.projector) if data.projector else None,
                "files": [str(path) for path in data.files],
                "chunk": data.chunk,
                "limit": data.limit,
                "units": _UNITS[effort],
                "every": EVERY,
                "bytes": data.bytes,
                "threads": default_threads(),
                "folder": folder,
                "variants": missing,
            }
            child.run("divergence", data.source.path.name, job, matrix.means(), heard)
    return {name: known[name] for name in variants}


def _check_room(data: Data, effort: str, folder: Path) -> None:
    """A variant is as large as the model at most; logits of the model take the vocabulary for each position."""
    embedding = next((t.shape[-1] for t in data.source.tensors if t.name == "token_embd.weight"), 0)
    needed = data.source.size + _UNITS[effort] * data.chunk // 2 * embedding * 4
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"a search needs {units.size(needed)} in {folder.parent}, and {units.size(free)} are free; set TMPDIR to "
            "another folder",
            "size",
        )


def _key(data: Data, matrix: Matrix, effort: str) -> str:
    versions = [metadata.version("galago"), metadata.version("llama-cpp-python")]
    facts = [replace(data, every=EVERY).key, matrix.digest, effort, samples.digest(data.files), versions]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _kept(path: Path) -> dict[str, Units]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {name: [(str(k), int(n), float(nats)) for k, n, nats in units] for name, units in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _keep(path: Path, rows: Mapping[str, Units]) -> None:
    with contextlib.suppress(OSError):  # a cache folder that cannot be written only costs another measurement
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(rows), encoding="utf-8")
        part.replace(path)
