"""`galago fit`: estimates whether a model runs on this machine, or lists models of the catalog that do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models import units
from ...models.errors import ConfigError
from ..config import ModelConfig
from .ui import options

if TYPE_CHECKING:
    from ...models.capacity.memory import ContextPlan
    from ...models.capacity.recommend import Recommendation
    from ...models.capacity.throughput import SpeedEstimate
    from ...models.files import ModelFiles
    from ...models.registry.catalog import CatalogEntry
    from ..types.placement import Placement

FittedModel = Annotated[
    str | None, typer.Argument(help="builtin, a model installed or in the catalog, or a GGUF file", metavar="MODEL")
]
Budget = Annotated[str | None, typer.Option(help="memory limit, 4GB or 50%  [default: free memory]", metavar="SIZE")]
Measure = Annotated[bool, typer.Option("--measure", help="repeat the speed measurements of this machine")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, sizes in bytes")]

_PARTS = {
    "weights": "mapped from the file",
    "repacked": "weights copied into a faster layout",
    "vocabulary": "tokenizer tables",
    "projector": "weights for images and audio",
    "context": "KV cache when the context is full",
    "compute": "working memory",
    "media": "decoding images and audio",
    "caches": "earlier conversations and media, at most",
    "processes": "Python and its libraries, two processes",
}


_NO_LIMIT = 1 << 60

_JSON_NAMES = {"caches": "kept"}
"""Parts whose name in JSON differs, for compatibility with older versions."""


def fit(
    model: FittedModel = None,
    context: options.ContextLength = None,
    parallel: options.Parallel = None,
    mmproj: options.ProjectorOption = None,
    kv_type: options.KVTypeOption = "f16",
    budget: Budget = None,
    measure: Measure = False,
    as_json: AsJson = False,
) -> int:
    """Estimate whether MODEL runs on this machine. Without MODEL, list models of the catalog that fit --budget."""
    from ...models.device import parse_memory_size, this_machine

    machine = this_machine()
    if model is None:
        if budget is None or context or parallel or mmproj:
            raise typer.BadParameter("give a MODEL, or only --budget to list models that fit it")
        return _list(parse_memory_size(budget, machine.total_memory_bytes), measure, as_json)
    memory = machine.available_memory_bytes if budget is None else parse_memory_size(budget, machine.total_memory_bytes)
    if not (context or parallel or mmproj) and (chosen := _not_installed(model)):
        return _estimate(*chosen, memory, measure, as_json)
    return _fit_model(model, mmproj, ModelConfig(context, None, parallel, kv_type=kv_type), memory, measure, as_json)


def _not_installed(model: str) -> tuple[CatalogEntry, str] | None:
    """Returns the catalog entry and the quantization of a model that is not installed, or `None`."""
    from ...models.errors import NotFound
    from ...models.hub.source import find_source
    from ...models.registry import installed
    from ...models.registry.name import parse_ref

    if Path(model).expanduser().is_file() or (ref := parse_ref(model)).kind in ("builtin", "path"):
        return None
    if installed.exists(model):
        return None
    try:
        entry = find_source(ref).entry
    except NotFound:
        return None
    return (entry, ref.quant) if entry and entry.quants else None


def _estimate(entry: CatalogEntry, quant: str, memory: int, again: bool, as_json: bool) -> int:
    """Prints an estimate for a model that is not downloaded yet, from the catalog's figures."""
    from ...models.gguf.file_name import is_quant
    from ..config import DEFAULT_CONTEXT

    quants = [known for known in entry.quants if not quant or is_quant(known.name.lower(), quant)][:1]
    if not quants:
        names = ", ".join(known.name for known in entry.quants)
        raise ConfigError(
            f"the catalog lists {entry.name} only as {names}; for another quantization, pull it first", "model"
        )
    candidates = models_that_fit([replace(entry, quants=tuple(quants))], _NO_LIMIT, again)
    if not candidates:
        raise ConfigError(f"the catalog does not say how large {entry.name} is; pull it first", "model")
    candidate = candidates[0]
    row = _row(candidate)
    fits, needed = candidate.needed <= memory, units.format_bytes(candidate.needed)
    if as_json:
        print(json.dumps(row | {"installed": False, "fits": fits, "context": DEFAULT_CONTEXT, "budget": memory}))
    if not fits:
        raise ConfigError(
            f"{row['name']} does not fit, by the catalog's figures: a context of {DEFAULT_CONTEXT} tokens needs about "
            f"{needed}, but only {units.format_bytes(memory)} are available; galago fit --budget SIZE lists models "
            "that fit",
            "budget",
        )
    if not as_json:
        rate = f", about {row['tokens_per_second']:.0f} tokens/s" if row["tokens_per_second"] else ""
        print(
            f"{row['name']} fits: a context of {DEFAULT_CONTEXT} tokens in about {needed} of "
            f"{units.format_bytes(memory)}{rate}\n"
            f"  estimated from the catalog's figures, because it is not installed; galago pull {row['name']}"
        )
    return 0


def _fit_model(model: str, mmproj: Path | None, config: ModelConfig, memory: int, again: bool, as_json: bool) -> int:
    from ...models.capacity.memory import MIN_CONTEXT_TOKENS, estimate_caveats, plan_context
    from ...models.gguf.reader import read_header
    from ...models.registry.resolve import resolve
    from ...quantize.evaluate import saved_results
    from ..config import DEFAULT_SLOTS
    from ..inference.footprint import footprint_function
    from ..pool.budget import default_context, trained_context
    from ..pool.llama_build import installed_build
    from ..pool.placement import place

    files = resolve(model, mmproj)
    build = installed_build()
    placement = place(files, config, build)
    footprint = footprint_function(files, config, placement, build.features, server=True)
    slots = config.slots or DEFAULT_SLOTS
    asked = config.context_length or default_context(files)
    trained = trained_context(files)
    if asked > trained:
        raise ConfigError(f"{files.id} was trained for a context of {trained} tokens, not {asked}", "context")
    largest = plan_context(footprint, memory, trained, None, config.slots)
    chosen = plan_context(footprint, memory, trained, asked, slots) or (None if config.context_length else largest)
    if chosen is None:
        least = asked if config.context_length else min(MIN_CONTEXT_TOKENS, trained)
        return _too_large(files, footprint(least, config.slots or 1).needed, least, memory, as_json)
    speed, guess = _speed(files, chosen, placement, config, again)
    guesses = estimate_caveats(files.header, read_header(files.projector) if files.projector else None) + guess
    evaluated = saved_results.find_latest(files.weights, files.projector)
    if as_json:
        figures = _figures(files, chosen, largest, memory, placement, speed, guesses)
        print(json.dumps(figures | {"evaluated": evaluated}, indent=1))
    else:
        print(_report(files, chosen, largest, memory, speed))
        if evaluated is not None:
            print(f"  {saved_results.describe(evaluated)}")
        for line in (*placement.warnings, *guesses):
            print(f"galago: {line}", file=sys.stderr)
    return 0


def _too_large(files: ModelFiles, needed: int, context: int, memory: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"model": files.id, "fits": False, "context": context, "needed": needed, "budget": memory}))
    raise ConfigError(
        f"{files.id} does not fit: a context of {context} tokens needs {units.format_bytes(needed)}, but only "
        f"{units.format_bytes(memory)} are available; choose a smaller context, model or quantization, or "
        "--kv-type q8_0, which is slower on a CPU",
        "budget",
    )


def _speed(
    files: ModelFiles, chosen: ContextPlan, placement: Placement, config: ModelConfig, again: bool
) -> tuple[SpeedEstimate | None, list[str]]:
    """Returns the expected speed, and the reasons why it is inexact."""
    from ...models.capacity.throughput import estimate_speed, matrix_types
    from ..inference.machine_benchmark import measured

    if placement.gpu_layers:
        return None, [f"{placement.gpu_layers} layers run on the GPU, for which no speed can be estimated"]
    _announce_measuring()
    expected = estimate_speed(files.header, measured(matrix_types(files.header), again), chosen.context)
    if expected is None:
        return None, ["the speed cannot be estimated, because some weights have a type that cannot be measured"]
    return expected, [] if config.kv_type == "f16" else [
        "the speed with a full context is estimated for a KV cache in f16"
    ]


def _announce_measuring() -> None:
    """Says why the first run takes a while."""
    if sys.stderr.isatty():
        print("galago: measuring this machine, once for each weight type", file=sys.stderr)


def _figures(
    files: ModelFiles,
    chosen: ContextPlan,
    largest: ContextPlan | None,
    memory: int,
    placement: Placement,
    speed: SpeedEstimate | None,
    guesses: list[str],
) -> dict[str, Any]:
    from dataclasses import asdict

    needs = chosen.footprint
    return {
        "model": files.id,
        "fits": True,
        "context": chosen.context,
        "parallel": chosen.slots,
        "largest_context": largest.context if largest else None,
        "budget": memory,
        "needed": needs.needed,
        "bytes": {_JSON_NAMES.get(name, name): size for name, size in asdict(needs).items()},
        "gpu_layers": placement.gpu_layers,
        "speed": _speed_figures(speed) if speed else None,
        "warnings": [*placement.warnings, *guesses],
    }


def _speed_figures(speed: SpeedEstimate) -> dict[str, Any]:
    return {
        "threads": speed.threads,
        "first": speed.tokens_per_second,
        "last": speed.full_context_tokens_per_second,
        "prompt": speed.prompt_tokens,
        "first_token": speed.first_token_seconds,
    }


def _report(
    files: ModelFiles, chosen: ContextPlan, largest: ContextPlan | None, memory: int, speed: SpeedEstimate | None
) -> str:
    from ..pool.budget import count_requests

    needs = chosen.footprint
    lines = [
        f"{files.id} fits: a context of {chosen.context} tokens, {count_requests(chosen.slots)} at once, "
        f"in {units.format_bytes(needs.needed)} of {units.format_bytes(memory)}"
    ]
    for name, what in _PARTS.items():
        size = getattr(needs, name)
        if size >= 500_000:
            lines.append(f"  {name:<11}{units.format_bytes(size):>9}  {what}")
    if largest is not None and largest.context != chosen.context:
        lines.append(
            f"  the longest context that fits: {largest.context} tokens, {count_requests(largest.slots)} at once"
        )
    if speed is not None:
        lines.append(
            f"  first token {speed.first_token_seconds:.2g} s after a prompt of {speed.prompt_tokens} tokens, then "
            f"{speed.tokens_per_second:.0f} tokens/s ({speed.full_context_tokens_per_second:.0f} with a full context), "
            f"on {speed.threads} threads"
        )
    return "\n".join(lines)


def models_that_fit(entries: Iterable[CatalogEntry], budget: int, again: bool = False) -> list[Recommendation]:
    """Returns the models of the catalog that fit into `budget` bytes, best first."""
    from ...models.capacity.recommend import recommend, weight_type_of_quant
    from ..config import DEFAULT_CONTEXT
    from ..inference.machine_benchmark import measured

    known = tuple(entries)
    _announce_measuring()
    kinds = {weight_type_of_quant(quant.name) for entry in known for quant in entry.quants}
    cache_bytes = ModelConfig().cache_mib << 20
    return recommend(known, budget, DEFAULT_CONTEXT, measured(kinds - {""}, again), cache_bytes)


def _list(budget: int, again: bool, as_json: bool) -> int:
    from ...models.registry.catalog import entries
    from ..config import DEFAULT_CONTEXT

    recommendations = models_that_fit((entry for entry in entries() if entry.is_recommended), budget, again)
    if as_json:
        print(json.dumps([_row(candidate) for candidate in recommendations], indent=1))
    elif recommendations:
        print(_table(recommendations))
        print(
            f"galago: estimated for a context of {DEFAULT_CONTEXT} tokens; `galago fit MODEL` is more exact",
            file=sys.stderr,
        )
    if not recommendations:
        print("galago: no model of the catalog fits this budget", file=sys.stderr)
    return 0 if recommendations else 1


def _row(candidate: Recommendation) -> dict[str, Any]:
    entry, rate = candidate.entry, candidate.tokens_per_second
    return {
        "name": f"{entry.name}:{candidate.quant.name.lower()}",
        "task": entry.task,
        "senses": list(entry.modalities),
        "parameters": entry.parameters,
        "needed": candidate.needed,
        "tokens_per_second": None if rate is None else round(rate, 1),
    }


def _table(recommendations: list[Recommendation]) -> str:

    rows = [("model", "task", "input", "memory", "tokens/s")]
    for row in map(_row, recommendations):
        rate = row["tokens_per_second"]
        speed = "-" if rate is None else f"{rate:.0f}"
        rows.append(
            (row["name"], row["task"], " ".join(row["senses"]) or "text", units.format_bytes(row["needed"]), speed)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
