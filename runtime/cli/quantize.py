"""`galago quantize`: writes a smaller variant of a model or projector, and reports what was written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models import units
from .ui import options, progress, report

if TYPE_CHECKING:
    from ...quantize.api import QuantizationResult
    from ...quantize.calibrate.imatrix import ImportanceMatrix
    from ...quantize.search.divergence import SegmentDivergence
    from ...quantize.search.mixture import MixtureResult
    from ...quantize.variants.layer_pruning import DroppedLayer
    from ...quantize.variants.variant import VariantPlan

_SHOWN_NAMES = 4


def _list_schemes(wanted: bool) -> None:
    if wanted:
        print(_schemes())
        raise typer.Exit


_Output = Annotated[Path, typer.Option("--output", "-o", help="file to write", metavar="FILE")]
_SchemeName = Annotated[str | None, typer.Option(help="int8, int4, or a scheme that --list shows", metavar="NAME")]
_Size = Annotated[str | None, typer.Option(help="best mixture of types of this size: 900MB or 30%", metavar="SIZE")]
_Bits = Annotated[float | None, typer.Option(help="best mixture with this many bits per weight", metavar="X")]
_Like = Annotated[str | None, typer.Option(help="best mixture as small as this scheme", metavar="NAME")]
_Speed = Annotated[
    float | None, typer.Option(help="best mixture that generates X tokens per second on this machine", metavar="X")
]
_Effort = Annotated[
    str, typer.Option(help="how much to measure for a mixture: none, quick, normal or thorough", metavar="NAME")
]
_Calibration = Annotated[
    list[Path] | None,
    typer.Option(
        help="calibration data, or an importance matrix; may be repeated  [default: built-in text]", metavar="FILE"
    ),
]
_Reader = Annotated[
    str | None, typer.Option("--for", help="model that uses the projector to be quantized", metavar="MODEL")
]
_OutputType = Annotated[
    str | None,
    typer.Option(
        "--output-tensor-type", help="type of the output, such as Q8_0  [default: the scheme's]", metavar="TYPE"
    ),
]
_EmbeddingType = Annotated[
    str | None,
    typer.Option(
        "--token-embedding-type",
        help="type of the token embeddings, such as Q8_0  [default: the scheme's]",
        metavar="TYPE",
    ),
]
_DropLayers = Annotated[
    int | None, typer.Option(help="drop the N layers whose loss changes the model least", metavar="N")
]
_NoCalibration = Annotated[bool, typer.Option("--no-calibration", help="quantize without an importance matrix")]
_Force = Annotated[bool, typer.Option("--force", help="replace FILE if it exists")]
_Requantize = Annotated[
    bool, typer.Option("--requantize", help="allow a model that is already quantized (loses more quality)")
]
_List = Annotated[bool, typer.Option("--list", help="list the schemes and exit", callback=_list_schemes, is_eager=True)]


def quantize(
    model: Annotated[
        str, typer.Argument(help="builtin, the name of an installed model, or a GGUF file of a model or projector")
    ],
    output: _Output,
    scheme: _SchemeName = None,
    size: _Size = None,
    bits: _Bits = None,
    like: _Like = None,
    speed: _Speed = None,
    effort: _Effort = "normal",
    calibration: _Calibration = None,
    mmproj: options.ProjectorOption = None,
    reader: _Reader = None,
    output_tensor_type: _OutputType = None,
    token_embedding_type: _EmbeddingType = None,
    drop_layers: _DropLayers = None,
    no_calibration: _NoCalibration = False,
    force: _Force = False,
    requantize: _Requantize = False,
    as_json: report.Json = False,
    _listed: _List = False,
) -> None:
    """Make a smaller variant of a model or projector.

    Choose a --scheme, or a budget for the best mixture of types: --size, --bits, --like or --speed.
    """
    from ...quantize import api

    request = api.QuantizationRequest(
        model=model,
        output=output,
        scheme=scheme,
        size=size,
        bits=bits,
        like=like,
        speed=speed,
        effort=effort,
        calibration=tuple(calibration or ()),
        use_calibration=not no_calibration,
        mmproj=mmproj,
        reader=reader,
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        drop_layers=drop_layers,
        force=force,
        requantize=requantize,
    )
    result = api.quantize(request, progress.stage, _print_dropped)
    for warning in result.warnings:
        print(f"galago: {warning}", file=sys.stderr)
    if as_json:
        report.emit_json(_as_json(result))
    else:
        print("\n".join(_lines(result)))


def _print_dropped(dropped: list[DroppedLayer]) -> None:
    """Prints which layers are dropped on standard error, before the variant is written."""
    from ...quantize.search.divergence import mean_divergence

    for layer, divergences in dropped:
        each = ", ".join(f"{other}: {mean_divergence(segments):.4f}" for other, segments in sorted(divergences.items()))
        print(f"galago: dropping layer {layer}; KL divergence per token without each layer: {each}", file=sys.stderr)


def _lines(result: QuantizationResult) -> list[str]:
    plan, output = result.plan, result.output
    size, original = output.stat().st_size, plan.source.original.size
    lines = [
        f"{output}: {units.format_bytes(size)} ({size / original:.0%} of {units.format_bytes(original)}), "
        f"{plan.bits_per_weight:.2f} bits per weight",
        "  types         " + ", ".join(f"{count} {name}" for name, count in plan.type_counts.items()),
        f"  calibration   {_calibration(plan.recipe.matrix)}",
    ]
    for names, problem in _exceptions(plan):
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        lines.append(f"  {problem}: {', '.join(names[:_SHOWN_NAMES])}{more}")
    return lines + (_mixture_lines(result.mixture) if result.mixture else [])


def _exceptions(plan: VariantPlan) -> list[tuple[list[str], str]]:
    """Returns the tensors that are not quantized as the scheme's name says, and why."""
    by_type: dict[str, list[str]] = {}
    for name, type_name in plan.fallbacks.items():
        by_type.setdefault(type_name, []).append(name)
    exceptions = [
        (names, f"{type_name} instead, because rows do not fill the blocks of the scheme's type")
        for type_name, names in by_type.items()
    ]
    if plan.recipe.matrix is not None and plan.without_importance:
        exceptions.append((list(plan.without_importance), "not covered by the importance matrix"))
    return exceptions


def _calibration(matrix: ImportanceMatrix | None) -> str:
    if matrix is None:
        return "none"
    names = ", ".join(map(report.printable, matrix.datasets)) or "unnamed"
    return f"{names} ({matrix.chunks} chunks of {matrix.chunk_size} tokens)"


def _mixture_lines(mixture: MixtureResult) -> list[str]:
    predicted = "" if mixture.predicted is None else f" (predicted: {mixture.predicted:.5f})"
    lines = [
        f"  measured on   {', '.join(map(report.printable, mixture.measured_on))}, held-out part",
        f"  KL divergence {_divergence(mixture.measured)}{predicted}",
    ]
    matrix = mixture.plan.recipe.matrix
    if matrix is None or not matrix.has_products:
        lines.append("  rounding      without GPTQ, which needs calibration data instead of an importance matrix")
    if mixture.stock:
        label = f"scheme {mixture.stock}"
        lines.append(f"  {label:<13} {_divergence(mixture.stock_measured)}")
    if mixture.uses_stock:
        lines.append(f"  {mixture.stock} has a smaller KL divergence than the best mixture, and was written instead")
    return lines


def _divergence(segments: list[SegmentDivergence]) -> str:
    from ...quantize.search.divergence import divergence_by_kind, mean_divergence

    kinds = divergence_by_kind(segments)
    each = ", ".join(f"{kind} {nats:.5f}" for kind, nats in kinds.items())
    return f"{mean_divergence(segments):.5f} nats per token" + (f" ({each})" if len(kinds) > 1 else "")


def _as_json(result: QuantizationResult) -> dict[str, Any]:
    from ...quantize.search.divergence import divergence_by_kind

    plan, output, matrix = result.plan, result.output, result.plan.recipe.matrix
    values: dict[str, Any] = {
        "file": output,
        "size": output.stat().st_size,
        "source": {"file": plan.source.original.path, "size": plan.source.original.size},
        "scheme": plan.recipe.scheme.name,
        "bits_per_weight": plan.bits_per_weight,
        "calibration": list(matrix.datasets) if matrix else None,
        "types": dict(plan.types),
        "fallbacks": plan.fallbacks,
        "without_importance": list(plan.without_importance) if matrix else [],
        "warnings": result.warnings,
    }
    if result.dropped_layers:
        values["dropped_layers"] = [
            {"layer": layer, "divergence": divergence_by_kind(divergences[layer])}
            for layer, divergences in result.dropped_layers
        ]
    return values | (_mixture_as_json(result.mixture) if result.mixture else {})


def _mixture_as_json(mixture: MixtureResult) -> dict[str, Any]:
    from ...quantize.search.divergence import divergence_by_kind

    measured = divergence_by_kind(mixture.stock_measured) if mixture.stock else None
    return {
        "divergence": {"predicted": mixture.predicted, "measured": divergence_by_kind(mixture.measured)},
        "searched_on": mixture.measured_on,
        "stock": {"scheme": mixture.stock, "measured": measured} if mixture.stock else None,
        "stock_made": mixture.uses_stock,
    }


def _schemes() -> str:
    from ...quantize.variants.schemes import LARGE_TABLE_SCHEMES, SCHEMES
    from ..llamacpp.library import features

    cpu_features = features()
    columns = ("scheme", "bits", "block", "fallback", "calibration", "fast on this CPU")
    rows = []
    for s in (*SCHEMES.values(), *LARGE_TABLE_SCHEMES.values()):
        calibration = "required" if s.needs_calibration else "helps" if s.uses_calibration else ""
        block, fallback = (str(s.block_weights), s.fallback or "F16") if s.quantized else ("", "")
        fast = "yes" if s.is_repacked(cpu_features) else ""
        rows.append((s.name, f"{s.bits:.2f}", block, fallback, calibration, fast))
    return report.table(columns, rows)
