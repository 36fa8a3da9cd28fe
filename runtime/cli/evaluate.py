"""`galago evaluate`: which variant of a model to run on this machine, by what is lost and what is gained."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ui import options
from .ui.report import table

if TYPE_CHECKING:
    from ...quantize.evaluate.evaluation import EvaluationPlan

QUICK = 12
"""Questions of each group that a quick evaluation asks."""

_Variants = Annotated[
    str, typer.Option(help="text models to compare: schemes such as Q4_K_M, or files", metavar="NAME,...")
]
_Projectors = Annotated[
    str, typer.Option(help="projectors to compare: schemes such as Q8_0, or files", metavar="NAME,...")
]


def evaluate(
    model: options.ModelArgument,
    mmproj: options.ProjectorOption = None,
    variants: _Variants = "",
    projectors: _Projectors = "",
    text: Annotated[list[Path] | None, typer.Option(help="a text to compare on, or more", metavar="FILE")] = None,
    tasks: Annotated[
        list[Path] | None, typer.Option(help="questions  [default: the built-in world's]", metavar="PATH")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="a small part of the questions")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="also what each tensor loses alone; writes the model once for each")
    ] = False,
    max_memory: Annotated[str | None, typer.Option(help="recommend none that takes more", metavar="SIZE")] = None,
    min_speed: Annotated[
        float | None, typer.Option(help="recommend none that makes fewer tokens a second", metavar="N")
    ] = None,
    max_loss: Annotated[
        str, typer.Option(help="points of accuracy that may be lost by sense", metavar="vision=1,...")
    ] = "",
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = -1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the results as JSON; - prints them", metavar="FILE")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="write a report to look at", metavar="FILE")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the table as Markdown", metavar="FILE")] = None,
) -> None:
    """Measure variants of a model in every sense it has: how true they are to the largest, what they get right, what
    they cost here, and which to take. What has been measured is kept, and a run that was ended goes on."""
    from ...models.device import memory_size, this_machine
    from ...models.paths import cache_folder
    from ...models.registry.resolve import builtin_folder
    from ...quantize.evaluate.combinations import grid
    from ...quantize.evaluate.evaluation import EvaluationPlan
    from ...quantize.evaluate.passages import gather
    from ...quantize.evaluate.verdict import Constraints, losses

    memory = None if max_memory is None else memory_size(max_memory, this_machine().total_memory)
    _check_targets(json_file, html, markdown)
    questions = tasks or [builtin_folder() / "heldout.zip"]
    gather(questions, text or [], most=1)  # before variants are made: whether all can be read
    folder, tell = cache_folder() / "evaluations", _progress()
    plan = EvaluationPlan(
        wanted=Constraints(memory, min_speed, losses(max_loss)),
        combinations=grid(model, mmproj, _names(variants), _names(projectors), folder / "variants", tell),
        questions=questions,
        folder=folder,
        texts=text or [],
        most=QUICK if quick else 1_000_000,
        rounds=2 if quick else 3,
        threads=threads,
        gpu_layers=gpu_layers,
    )
    try:
        results = _measured(plan, sensitivity, tell)
    except KeyboardInterrupt:
        print("\ngalago: ended; the same command goes on from here", file=sys.stderr)
        raise
    _write(plan, results, json_file, html, markdown)


def _measured(plan: EvaluationPlan, sensitivity: bool, tell: Callable[[str, float], None]) -> dict[str, Any]:
    from ...quantize.evaluate import evaluation, history
    from ...quantize.search.sensitivity import measure

    results = evaluation.evaluate(plan, tell)
    if sensitivity:
        base = plan.combinations[0]
        projector = base.projector.path if base.projector else None
        results["sensitivity"] = measure(base.model.path, projector, [*plan.questions, *plan.texts], tell)
    history.keep(results)
    return results


def _write(
    plan: EvaluationPlan, results: dict[str, Any], json_file: Path | None, html: Path | None, markdown: Path | None
) -> None:
    from ...quantize.evaluate.report import page, tables

    if json_file is not None and str(json_file) != "-":
        json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if html is not None:
        html.write_text(page.render(results, plan.asked), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(tables.markdown(results), encoding="utf-8")
    if str(json_file) == "-":
        print(json.dumps(results, indent=1))
    else:
        _show(results)


def _show(results: dict[str, Any]) -> None:
    from ...quantize.evaluate import questions
    from ...quantize.evaluate.report import tables

    if len(results["variants"]) == 1:
        print(questions.table(results["variants"][0]["groups"]), end="\n\n")
    overview = tables.overview(results)
    print(table(overview.columns, overview.rows))
    print("\n".join(tables.notes(results)))


def _check_targets(*files: Path | None) -> None:
    """Before minutes of work: whether what they come to can be written. Raises `ConfigError`."""
    from ...models.errors import ConfigError

    for file in files:
        if file is not None and str(file) != "-":
            if not file.absolute().parent.is_dir():
                raise ConfigError(f"there is no folder {file.parent} for {file.name}", "output")
            if file.is_dir():
                raise ConfigError(f"{file} is a folder", "output")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _progress() -> Callable[[str, float], None]:
    """On a terminal one line that changes; elsewhere a line now and then."""
    last = [0.0]

    def tell(line: str, share: float) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K" + ("" if share >= 1 else line))
            sys.stderr.flush()
        elif now - last[0] >= 30:
            last[0] = now
            print(f"galago: {line}", file=sys.stderr)

    return tell
