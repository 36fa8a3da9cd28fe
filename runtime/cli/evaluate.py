"""`galago evaluate`: measures variants of a model and recommends one for this machine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ui import options, report

if TYPE_CHECKING:
    from ...quantize.evaluate.evaluation import EvaluationPlan

QUICK_QUESTIONS = 12
"""Questions of each group with --quick."""

_NOTICE_SECONDS = 30.0

_Variants = Annotated[
    str, typer.Option(help="text models to compare: schemes such as Q4_K_M, or files", metavar="NAME,...")
]
_Projectors = Annotated[
    str, typer.Option(help="projectors to compare: schemes such as Q8_0, or files", metavar="NAME,...")
]


_Text = Annotated[
    list[Path] | None, typer.Option(help="text file to measure perplexity on; may be repeated", metavar="FILE")
]
_Tasks = Annotated[
    list[Path] | None,
    typer.Option(help="question set: .zip, .jsonl or folder  [default: the built-in model's]", metavar="PATH"),
]
_Quick = Annotated[bool, typer.Option("--quick", help="use only a few questions of each group and measure costs once")]
_Sensitivity = Annotated[
    bool, typer.Option("--sensitivity", help="also quantize each tensor alone and measure the KL divergence (slow)")
]
_Requantize = Annotated[
    bool, typer.Option("--requantize", help="allow schemes and --sensitivity of a model that is already quantized")
]
_MaxMemory = Annotated[str | None, typer.Option(help="do not recommend variants that need more memory", metavar="SIZE")]
_MinSpeed = Annotated[
    float | None, typer.Option(help="do not recommend variants that generate fewer tokens per second", metavar="N")
]
_MaxLoss = Annotated[
    str, typer.Option(help="percentage points of accuracy that may be lost  [default: 2]", metavar="vision=1,...")
]
_JSONFile = Annotated[
    Path | None, typer.Option("--json", help="write the results as JSON; - prints them", metavar="FILE")
]
_HTML = Annotated[Path | None, typer.Option(help="write an HTML report with plots", metavar="FILE")]
_Markdown = Annotated[Path | None, typer.Option(help="write the tables as Markdown", metavar="FILE")]


def evaluate(
    model: options.ModelArgument,
    mmproj: options.ProjectorOption = None,
    variants: _Variants = "",
    projectors: _Projectors = "",
    text: _Text = None,
    tasks: _Tasks = None,
    quick: _Quick = False,
    sensitivity: _Sensitivity = False,
    requantize: _Requantize = False,
    max_memory: _MaxMemory = None,
    min_speed: _MinSpeed = None,
    max_loss: _MaxLoss = "",
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = -1,
    json_file: _JSONFile = None,
    html: _HTML = None,
    markdown: _Markdown = None,
) -> None:
    """Compare variants of a model with the largest one, and recommend one for this machine.

    Measures KL divergence, accuracy on questions about text, images and audio, memory, speed and energy. Measurements
    are saved: run the same command again to resume an interrupted evaluation.
    """
    from ...models.device import parse_memory_size, this_machine
    from ...models.paths import cache_folder
    from ...models.registry.resolve import builtin_folder
    from ...quantize import api
    from ...quantize.evaluate.evaluation import EvaluationPlan
    from ...quantize.evaluate.passages import collect_passages
    from ...quantize.evaluate.variant_grid import variant_grid
    from ...quantize.evaluate.verdict import Constraints, parse_max_loss

    memory_bytes = None if max_memory is None else parse_memory_size(max_memory, this_machine().total_memory_bytes)
    _check_targets(json_file, html, markdown)
    questions = tasks or [builtin_folder() / "heldout.zip"]
    collect_passages(questions, text or [], limit=1)  # fails early if a file cannot be read
    folder, progress = cache_folder() / "evaluations", _progress_line()
    plan = EvaluationPlan(
        variants=variant_grid(
            model, mmproj, _split(variants), _split(projectors), folder / "variants", progress, requantize, sensitivity
        ),
        questions=questions,
        folder=folder,
        texts=text or [],
        limit=QUICK_QUESTIONS if quick else 1_000_000,
        rounds=1 if quick else 3,
        threads=threads,
        gpu_layers=gpu_layers,
        constraints=Constraints(memory_bytes, min_speed, parse_max_loss(max_loss)),
    )
    try:
        results = api.evaluate(plan, sensitivity, progress, requantize)
    except KeyboardInterrupt:
        print("\ngalago: interrupted; run the same command again to resume", file=sys.stderr)
        raise
    _write(plan, results, json_file, html, markdown)


def _write(
    plan: EvaluationPlan, results: dict[str, Any], json_file: Path | None, html: Path | None, markdown: Path | None
) -> None:
    from ...quantize.evaluate.report import page, tables

    if json_file is not None and str(json_file) != "-":
        _write_text(json_file, json.dumps(results, indent=1) + "\n")
    if html is not None:
        _write_text(html, page.render(results, plan.selected_questions))
    if markdown is not None:
        _write_text(markdown, tables.markdown(results))
    if str(json_file) == "-":
        print(json.dumps(results, indent=1))
    else:
        _print(results)


def _write_text(path: Path, text: str) -> None:
    """Replaces a regular file atomically; writes directly to anything else, such as a pipe."""
    from ...models.kept_file import temporary_path

    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    with temporary_path(target) as part:
        part.write_text(text, encoding="utf-8")
        part.replace(target)


def _print(results: dict[str, Any]) -> None:
    from ...quantize.evaluate import questions
    from ...quantize.evaluate.report import tables

    if len(results["variants"]) == 1:
        print(questions.format_scores(results["variants"][0]["groups"]), end="\n\n")
    overview = tables.overview(results)
    print(report.wide_table(overview.columns, overview.rows), end="\n\n")
    print("KL: KL divergence from the baseline in nats per token. +: on the Pareto front.")
    print("\n".join(tables.notes(results)))


def _check_targets(*files: Path | None) -> None:
    """Checks before minutes of work whether the results can be written. Raises `ConfigError`."""
    from ...models.errors import ConfigError

    for file in files:
        if file is not None and str(file) != "-":
            if not file.absolute().parent.is_dir():
                raise ConfigError(f"there is no folder {file.parent} for {file.name}", "output")
            if file.is_dir():
                raise ConfigError(f"{file} is a folder; give a file name", "output")


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _progress_line() -> Callable[[str, float], None]:
    """Returns a function that updates one line on a terminal, and elsewhere prints a line every 30 seconds."""
    last_notice = [0.0]

    def show(line: str, fraction: float) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K" + ("" if fraction >= 1 else line))
            sys.stderr.flush()
        elif now - last_notice[0] >= _NOTICE_SECONDS:
            last_notice[0] = now
            print(f"galago: {line}", file=sys.stderr)

    return show
