"""`galago quantize`: makes a smaller variant of a model or projector, and tells what became of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models import units
from . import layers, mixture
from .calibrate import collect
from .ui import options, progress, report

if TYPE_CHECKING:
    from ...quantize.calibrate.calibration import Data
    from ...quantize.calibrate.imatrix import ImportanceMatrix
    from ...quantize.variants.plan import Source, VariantPlan
    from ...quantize.variants.schemes import Scheme


def _list(wanted: bool) -> None:
    if wanted:
        print(_schemes())
        raise typer.Exit


def quantize(
    model: Annotated[str, typer.Argument(help="builtin, an installed model, or a GGUF file, also of a projector")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the file to write", metavar="FILE")],
    scheme: Annotated[str | None, typer.Option(help="int8, int4, or a name that --list shows", metavar="NAME")] = None,
    size: Annotated[str | None, typer.Option(help="the best mixture of types in 900MB or 30%", metavar="SIZE")] = None,
    bits: Annotated[float | None, typer.Option(help="the best mixture of so many bits a weight", metavar="X")] = None,
    like: Annotated[str | None, typer.Option(help="the best mixture as small as a scheme", metavar="NAME")] = None,
    speed: Annotated[
        float | None, typer.Option(help="the best mixture that makes so many tokens a second here", metavar="X")
    ] = None,
    effort: Annotated[
        str, typer.Option(help="how much is measured for a mixture: none, quick, normal or thorough", metavar="NAME")
    ] = "normal",
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="importance matrix, or data as for galago calibrate; may be repeated", metavar="FILE"),
    ] = None,
    mmproj: options.ProjectorOption = None,
    reader: Annotated[
        str | None, typer.Option("--for", help="of a projector: the model that sees or hears by it", metavar="MODEL")
    ] = None,
    drop_layers: Annotated[
        int | None, typer.Option(help="leave out the layers that the model misses least", metavar="N")
    ] = None,
    no_calibration: Annotated[bool, typer.Option("--no-calibration", help="round weights one by one")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace FILE where it exists")] = False,
    requantize: Annotated[bool, typer.Option("--requantize", help="take a model that is quantized already")] = False,
    as_json: report.Json = False,
    _listed: Annotated[
        bool, typer.Option("--list", help="show the schemes and end", callback=_list, is_eager=True)
    ] = False,
) -> None:
    """Make a smaller variant of a model or projector."""
    from ...quantize.variants import plan as variant

    wanted = _wanted(scheme, [size, bits, like], speed)
    source = variant.open_source(model)
    variant.check_target(source, output, force)
    variant.check_exact(source, requantize)
    eyes = None if source.header.is_projector else mmproj or variant.projector_of(model)
    data = _data(source, eyes, reader, calibration or [])
    part = output.with_name(f"{output.name}.imatrix.part")
    found = None
    with layers.dropped(source, data, drop_layers) as (source, data, losses):
        if wanted is None:
            wish = mixture.Wish(size, bits, like, speed)
            found = mixture.search(source, data, no_calibration, part, wish, effort)
            made = found.plan
        else:
            matrix = _matrix(source, wanted, data, no_calibration, part)
            made = variant.plan(source, variant.Recipe(wanted, matrix=matrix), requantize)
        write(made, output, force)
    part.unlink(missing_ok=True)
    if as_json:
        report.emit_json(_as_json(made, output) | layers.as_json(losses) | (mixture.as_json(found) if found else {}))
    else:
        print("\n".join([*_lines(made, output), *(mixture.lines(found) if found else [])]))


def _wanted(scheme: str | None, budgets: list[str | float | None], speed: float | None) -> Scheme | None:
    """The scheme, or None for a mixture."""
    from ...models.errors import ConfigError
    from ...quantize.variants.schemes import find

    wanted = find(scheme) if scheme else None
    given = len([scheme, *budgets]) - [scheme, *budgets].count(None)
    if given > 1 or (given == 0 and speed is None):
        raise ConfigError("say what to make: one of --scheme, --size, --bits and --like, or --speed", "scheme")
    if wanted and speed is not None:
        raise ConfigError("a --scheme has its own speed; --speed goes with --size, --bits, --like or alone", "speed")
    return wanted


def _data(source: Source, eyes: Path | None, reader: str | None, files: list[Path]) -> Data:
    """What is read, and by which model."""
    from ...models.errors import ConfigError
    from ...quantize.calibrate import calibration as calibration
    from ...quantize.variants import plan as variant

    if not source.header.is_projector:
        if reader is not None:
            raise ConfigError("--for goes with a projector; give a model its own by --mmproj", "for")
        return calibration.data(source, eyes, files)
    if reader is None:
        return calibration.data(source, None, files)
    return calibration.data(variant.open_source(reader), source.path, files)


def _matrix(source: Source, scheme: Scheme, data: Data, without: bool, part: Path) -> ImportanceMatrix | None:
    """What the scheme's weights are rounded by: of the given files, else of the built-in text, where that can be."""
    from ...models.errors import ConfigError

    if without and not data.builtin:
        raise ConfigError("--calibration and --no-calibration contradict each other", "calibration")
    blind = without or (source.header.is_projector and data.builtin)
    if blind and scheme.needs_calibration:
        raise ConfigError(f"{scheme.name} needs calibration: give --calibration FILE", "calibration")
    if blind or not scheme.uses_calibration:
        return None
    return collect(data, part)


def write(plan: VariantPlan, output: Path, force: bool) -> None:
    from ...quantize.variants import plan as variant

    sizes = [tensor.nbytes or 0 for tensor in plan.source.tensors]
    with progress.bar(f"quantizing {report.printable(plan.source.path.name)}", sum(sizes)) as show:
        variant.make(plan, output, force, lambda i, _count, name: show(sum(sizes[: i - 1]), name))


def _lines(plan: VariantPlan, output: Path) -> list[str]:
    size = output.stat().st_size
    lines = [
        f"{output}: {units.format_bytes(size)} of {units.format_bytes(plan.source.original.size)}, "
        f"{plan.bits:.2f} bits a weight",
        "  types         " + ", ".join(f"{count} {kind}" for kind, count in plan.counts.items()),
        f"  calibration   {_calibrated(plan.recipe.matrix)}",
    ]
    for names, what in _notes(plan):
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"  {what}: {shown}")
    return lines


def _notes(plan: VariantPlan) -> list[tuple[list[str], str]]:
    """What did not go as the scheme's name says."""
    notes = []
    by_type: dict[str, list[str]] = {}
    for name, kind in plan.fallbacks.items():
        by_type.setdefault(kind, []).append(name)
    for kind, names in by_type.items():
        notes.append((names, f"{kind} instead, since rows do not fill blocks of the scheme's type"))
    if plan.recipe.matrix is not None and plan.without_importance:
        notes.append((list(plan.without_importance), "rounded without calibration, which says nothing of them"))
    return notes


def _calibrated(matrix: ImportanceMatrix | None) -> str:
    if matrix is None:
        return "none"
    names = ", ".join(map(report.printable, matrix.datasets)) or "unnamed"
    return f"{names} ({matrix.chunks} x {matrix.chunk_size} tokens)"


def _as_json(plan: VariantPlan, output: Path) -> dict[str, Any]:
    matrix = plan.recipe.matrix
    return {
        "file": output,
        "size": output.stat().st_size,
        "source": {"file": plan.source.original.path, "size": plan.source.original.size},
        "scheme": plan.recipe.scheme.name,
        "bits_per_weight": plan.bits,
        "calibration": list(matrix.datasets) if matrix else None,
        "types": dict(plan.types),
        "fallbacks": plan.fallbacks,
        "without_importance": list(plan.without_importance) if matrix else [],
    }


def _schemes() -> str:
    from ...quantize.variants.schemes import SCHEMES
    from ..llamacpp.library import features

    here = features()
    columns = ("scheme", "bits", "rows of", "else", "calibration", "fast here")
    rows = []
    for s in SCHEMES.values():
        needs = "needed" if s.needs_calibration else "helps" if s.uses_calibration else ""
        row, fallback = (str(s.row), s.fallback or "F16") if s.quantized else ("", "")
        rows.append((s.name, f"{s.bits:.2f}", row, fallback, needs, "yes" if s.is_repacked(here) else ""))
    return report.table(columns, rows)
