"""The use cases of the quantization toolkit, as the command line and scripts call them.

`calibrate` collects an importance matrix. `quantize` writes a variant: as a scheme, or as the best mixture of types for
a budget, with layers dropped on request. `evaluate` compares variants. All raise `GalagoError`. Nothing here prints:
long steps report through a `Stage`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..models.device import parse_memory_size
from ..models.errors import ConfigError
from ..runtime.inference import machine_benchmark
from .calibrate import calibration, imatrix
from .calibrate.calibration import CalibrationData
from .calibrate.imatrix import ImportanceMatrix
from .evaluate import evaluation, saved_results
from .evaluate.evaluation import EvaluationPlan
from .output_file import check_target, output_file
from .progress import Progress, no_progress
from .search import latency, mixture, sensitivity
from .search.divergence import HELD_OUT_EVERY
from .search.latency import LatencyTarget
from .search.mixture import MixtureResult
from .variants import invalid_values, layer_pruning, schemes, variant
from .variants.layer_pruning import DroppedLayer
from .variants.schemes import Scheme
from .variants.source import SourceModel, check_not_quantized, open_source, projector_of
from .variants.variant import Recipe, VariantPlan

Stage: TypeAlias = Callable[[str], AbstractContextManager[Progress]]
"""Opens the progress display of a step, which is given by name."""

_NO_SIZE_LIMIT = 1 << 60


@contextlib.contextmanager
def no_stage(_name: str) -> Iterator[Progress]:
    """Shows no progress."""
    yield no_progress


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """`data` are samples and importance matrices; without any, the built-in text is used."""

    model: str
    output: Path
    data: tuple[Path, ...] = ()
    mmproj: Path | None = None
    chunk_tokens: int | None = None
    max_segments: int | None = None
    force: bool = False


def calibrate(request: CalibrationRequest, stage: Stage = no_stage) -> ImportanceMatrix:
    """Collects an importance matrix and writes it. An interrupted run is resumed."""
    source = open_source(request.model)
    check_target(request.output, request.force, source.parts)
    projector = request.mmproj or projector_of(request.model)
    data = calibration.select_data(source, projector, request.data, request.chunk_tokens, request.max_segments)
    part = request.output.with_name(f"{request.output.name}.part")
    matrix = _collect(data, part, stage)
    with output_file(request.output, request.force) as unfinished:
        imatrix.write(unfinished, matrix)
    calibration.discard(part)
    return matrix


def _collect(data: CalibrationData, part: Path, stage: Stage) -> ImportanceMatrix:
    with stage("calibrating") as progress:
        return calibration.collect(data, part, progress)


@dataclass(frozen=True, slots=True)
class QuantizationRequest:
    """How to quantize a model or projector: with a `scheme`, or the best mixture for a budget.

    The budget is one of `size` (bytes as text: 900MB or 30%), `bits` per weight and `like` (a scheme's size), or
    `speed` in tokens per second, which may be combined with one of them. `reader` is the model that uses a projector.
    `output_tensor_type` and `token_embedding_type` replace what the scheme gives these tensors (`Q8_0`).
    """

    model: str
    output: Path
    scheme: str | None = None
    size: str | None = None
    bits: float | None = None
    like: str | None = None
    speed: float | None = None
    effort: str = "normal"
    calibration: tuple[Path, ...] = ()
    use_calibration: bool = True
    mmproj: Path | None = None
    reader: str | None = None
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    drop_layers: int | None = None
    force: bool = False
    requantize: bool = False


@dataclass(frozen=True, slots=True)
class QuantizationResult:
    """The written variant. `mixture` is set if a mixture was requested. `warnings` has a sentence for each problem."""

    plan: VariantPlan
    output: Path
    mixture: MixtureResult | None
    dropped_layers: list[DroppedLayer]
    warnings: list[str]


def quantize(
    request: QuantizationRequest,
    stage: Stage = no_stage,
    on_dropped: Callable[[list[DroppedLayer]], None] = lambda _: None,
) -> QuantizationResult:
    """Writes a variant. `on_dropped` is called with the dropped layers before anything is written."""
    scheme = _requested_scheme(request)
    source = open_source(request.model)
    check_target(request.output, request.force, source.parts)
    check_not_quantized(source, request.requantize)
    if scheme is not None and (request.output_tensor_type or request.token_embedding_type):
        _check_tables(source, scheme)
    data = _calibration_data(source, request)
    part = request.output.with_name(f"{request.output.name}.imatrix.part")
    warnings = _weight_warnings(source)
    with _without_layers(source, data, request.drop_layers, stage, on_dropped) as (source, data, dropped):
        result = None
        if scheme is None:
            result = _find_mixture(source, data, request, part, stage)
            plan = result.plan
        else:
            matrix = _scheme_matrix(source, scheme, data, request.use_calibration, part, stage)
            plan = variant.plan(source, Recipe(scheme, matrix=matrix), request.requantize)
        with stage(f"quantizing {plan.source.path.name}") as progress:
            variant.write(plan, request.output, request.force, progress)
    calibration.discard(part)
    return QuantizationResult(plan, request.output, result, dropped, [*plan.warnings, *warnings])


def _weight_warnings(source: SourceModel) -> list[str]:
    names = invalid_values.constant_tensors(source.parts)
    if not names:
        return []
    return [
        f"in each row of {variant.listed(names)}, all weights are equal, such as zeros, so {source.path.name} may be "
        "damaged; download or convert it again"
    ]


def _requested_scheme(request: QuantizationRequest) -> Scheme | None:
    """Returns the scheme, or `None` for a mixture."""
    scheme = schemes.find(request.scheme) if request.scheme else None
    targets = [request.scheme, request.size, request.bits, request.like]
    count = sum(target is not None for target in targets)
    if count > 1 or (count == 0 and request.speed is None):
        raise ConfigError("give exactly one of --scheme, --size, --bits and --like, or --speed alone", "scheme")
    if scheme and request.speed is not None:
        raise ConfigError(
            "a --scheme cannot be combined with --speed; use --speed alone, or with --size, --bits or --like", "speed"
        )
    return _with_table_types(scheme, request)


def _with_table_types(scheme: Scheme | None, request: QuantizationRequest) -> Scheme | None:
    """Returns the scheme with the requested types of output and token embeddings."""
    asked = {"output-tensor-type": request.output_tensor_type, "token-embedding-type": request.token_embedding_type}
    types = {option: schemes.tensor_type(name, option) for option, name in asked.items() if name is not None}
    if not types:
        return scheme
    if scheme is None or not scheme.quantized:
        raise ConfigError(f"--{next(iter(types))} needs a --scheme that quantizes the other weights", next(iter(types)))
    return replace(
        scheme,
        output_type=types.get("output-tensor-type", scheme.output_type),
        embedding_type=types.get("token-embedding-type", scheme.embedding_type),
    )


def _check_tables(source: SourceModel, scheme: Scheme) -> None:
    """Raises `ConfigError` if rows of the output or the token embeddings do not fill blocks of their requested type."""
    types = variant.table_types(source, scheme)
    for tensor in source.tensors:
        block = schemes.BLOCKS[types[tensor.name]][0] if tensor.name in types else 1
        if tensor.shape[0] % block:
            raise ConfigError(
                f"{tensor.name} cannot be {types[tensor.name]}: its rows have {tensor.shape[0]} weights, which do not "
                f"fill blocks of {block}; choose F16, or a type with smaller blocks",
                "scheme",
            )


def _calibration_data(source: SourceModel, request: QuantizationRequest) -> CalibrationData:
    """Selects the calibration data, and the model that reads it."""
    if not source.header.is_projector:
        if request.reader is not None:
            raise ConfigError(
                "--for is only for quantizing a projector; give a model its projector with --mmproj", "for"
            )
        projector = request.mmproj or projector_of(request.model)
        return calibration.select_data(source, projector, request.calibration)
    if request.reader is None:
        return calibration.select_data(source, None, request.calibration)
    return calibration.select_data(open_source(request.reader), source.path, request.calibration)


@contextlib.contextmanager
def _without_layers(
    source: SourceModel,
    data: CalibrationData,
    count: int | None,
    stage: Stage,
    on_dropped: Callable[[list[DroppedLayer]], None],
) -> Iterator[tuple[SourceModel, CalibrationData, list[DroppedLayer]]]:
    """Yields the model without `count` layers, in a temporary folder; with `count` None, the model itself."""
    if count is None:
        yield source, data, []
        return
    with stage("measuring layers") as progress:
        dropped = layer_pruning.select_layers(data, count, progress)
    on_dropped(dropped)
    with tempfile.TemporaryDirectory(prefix="galago-pruned-") as folder:
        pruned = layer_pruning.write_without_layers(source, [each.layer for each in dropped], Path(folder))
        yield pruned, replace(data, source=pruned), dropped


def _scheme_matrix(
    source: SourceModel, scheme: Scheme, data: CalibrationData, use_calibration: bool, part: Path, stage: Stage
) -> ImportanceMatrix | None:
    """Returns the importance matrix for a scheme, from the given files or the built-in text, if the scheme uses one."""
    if not use_calibration and not data.builtin:
        raise ConfigError("--calibration and --no-calibration contradict each other", "calibration")
    needs_data = source.header.is_projector or source.header.is_encoder
    uncalibrated = not use_calibration or (needs_data and data.builtin)
    if uncalibrated and scheme.needs_calibration:
        raise ConfigError(f"{scheme.name} needs calibration; give data with --calibration FILE", "calibration")
    if uncalibrated or not scheme.uses_calibration:
        return None
    return _collect(data, part, stage)


def _find_mixture(
    source: SourceModel, data: CalibrationData, request: QuantizationRequest, part: Path, stage: Stage
) -> MixtureResult:
    """Calibrates on three of every four segments, and compares variants on the fourth."""
    if not request.use_calibration:
        raise ConfigError("a mixture needs calibration; leave out --no-calibration", "calibration")
    _check_mixture_request(source, data, request)
    max_segments = None if data.files else 2 * calibration.BUILTIN_SEGMENTS
    data = replace(data, held_out_every=HELD_OUT_EVERY, products=True, max_segments=max_segments)
    matrix = _collect(data, part, stage)
    total = source.size if request.size and "%" in request.size else _NO_SIZE_LIMIT
    size = parse_memory_size(request.size, total) if request.size else None
    target = _latency_target(source, request.speed)
    budget = mixture.resolve_budget(source, matrix, size, request.bits, request.like, target)
    with stage("searching") as progress:
        return mixture.find_mixture(data, matrix, budget, request.effort, progress, source)


def _check_mixture_request(source: SourceModel, data: CalibrationData, request: QuantizationRequest) -> None:
    mixture.check_effort(request.effort)
    if request.speed is not None:
        latency.check_speed(request.speed)
    if source.header.is_encoder:
        raise ConfigError(
            f"{source.path.name} computes embeddings, and mixtures are chosen by what a model answers; give a --scheme",
            "scheme",
        )
    if not source.header.is_projector:
        return
    if request.speed is not None:
        raise ConfigError("--speed cannot be used for a projector, which does not generate tokens", "speed")
    if data.source is source or not data.files:
        raise ConfigError(
            "a projector's mixture is measured by what its model answers about images and audio: give the model with "
            "--for, and data with --calibration",
            "for",
        )


def _latency_target(source: SourceModel, tokens_per_second: float | None) -> LatencyTarget | None:
    if tokens_per_second is None:
        return None
    types = sensitivity.TYPES | set(latency.benchmarked_types(source))
    return latency.latency_target(source, tokens_per_second, machine_benchmark.measured(types))


def evaluate(
    plan: EvaluationPlan,
    with_sensitivity: bool = False,
    progress: Progress = no_progress,
    requantize: bool = False,
) -> dict[str, Any]:
    """Evaluates variants and saves the results, which it returns. An interrupted run is resumed.

    `with_sensitivity` quantizes tensors of the baseline, which must not be quantized already, unless `requantize`.
    """
    base = plan.variants[0]
    if with_sensitivity:
        check_not_quantized(open_source(str(base.model.path)), requantize)
    results = evaluation.evaluate(plan, progress)
    if with_sensitivity:
        projector = base.projector.path if base.projector else None
        files = [*plan.questions, *plan.texts]
        results["sensitivity"] = sensitivity.tensor_sensitivity(base.model.path, projector, files, progress)
    saved_results.save(results)
    return results
