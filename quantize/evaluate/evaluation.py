"""Evaluates variants of a model: fidelity to the baseline, accuracy on questions, and cost on this machine.

The results are one JSON object. Its top level has `form` (the schema's version), `galago` and `llama_cpp` (versions),
`made` (when), `device`, `threads`, `energy_sensor` (what joules are read from, or null), `baseline` (a variant's name),
`questions` and `texts` (names), `set` (a digest of both), `most` (the limit per group), `front` (the Pareto front),
`recommended` (`variant`, or null, and `reason`), `examples` (changed answers), `sensitivity` (from
`search/sensitivity.py`; null unless requested), `warnings` (sentences about all variants) and `variants`. Each variant
has:

- `name`, `key` (a digest of the files), `model`, `mmproj` (paths, the latter or null), `model_name`, `mmproj_name`,
  `bytes` of both files;
- `memory_bytes` (peak resident) and `memory` (`steady`, `peak`, `own`, `mapped`), null if not measured;
- `speed`: `decode_tokens_per_second` and `prefill_tokens_per_second`, both also as `..._4` for four streams in total,
  `first_token_seconds`, `load_seconds`, `image_seconds` and `audio_seconds` that media add, `joules_per_answer`
  (null if no sensor can be read);
- `fidelity` by modality (`text`, `image`, `audio`, `both`), with the fields of `fidelity.Fidelity`; for the baseline
  it is that to itself, with its perplexity;
- `looks` by modality: nats per token that the correct answer gains from real media over blank media, `mean`, `low`,
  `high`, `n`;
- `failed` by modality: the `share` of passages that the variant cannot process, and the `reason`;
- `tasks` by modality: `accuracy`, `low`, `high`, `n`, `empty`, `repeats`, `cut`, `same`, `change` (see `answers.py`);
- `groups` of questions, and the `tasks` in each: `right`, `of`, `accuracy`, `low`, `high`;
- `warnings`: sentences.

Intervals are at 95 %. Measurements are saved in a folder, and an interrupted evaluation resumes from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from ...models import sensors
from ...models.device import this_machine
from ...models.errors import ConfigError, EngineCrashed, ModelError
from ...models.fingerprint import fingerprint
from ...models.log import log_once
from ...runtime.config import default_threads
from ...runtime.inference.load_check import check_paths
from ...runtime.process.spawn import RunningChild
from ...runtime.python_api import load
from ..progress import Progress
from ..variants.source import open_source
from . import answers, fidelity_job, passages, runtime_cost, variant_summary, verdict
from .fidelity_job import FidelityJob
from .progress_estimate import ProgressEstimator
from .question_loaders import digest
from .questions import Question
from .record_log import Record, RecordLog, exclusive
from .variant_grid import ModelVariant

FORM = 4
"""The version of the results' schema and of saved records; records of another version are measured again."""
FIDELITY, TASKS, COST = "fidelity", "tasks", "cost"
COST_LIFETIME_SECONDS = 6 * 3600
"""How long the cost measurements of an interrupted run can be reused."""


@dataclass(frozen=True)
class EvaluationPlan:
    """The settings of an evaluation. The first variant is the baseline. `limit` bounds the questions of each group."""

    variants: Sequence[ModelVariant]
    questions: Sequence[Path]
    folder: Path
    texts: Sequence[Path] = ()
    limit: int = 1_000_000
    rounds: int = 3
    threads: int | None = None
    gpu_layers: int = -1
    constraints: verdict.Constraints = field(default_factory=verdict.Constraints)

    @cached_property
    def selected_questions(self) -> list[Question]:
        return passages.select_questions(self.questions, self.limit)

    @property
    def steps(self) -> dict[str, int]:
        count = len(self.variants)
        return {FIDELITY: count, TASKS: count, COST: count * self.rounds}

    @cached_property
    def set(self) -> str:
        """A digest of the questions and texts."""
        facts = [str(self.limit), *map(digest, self.questions), *map(fingerprint, self.texts)]
        return hashlib.blake2b("\0".join(facts).encode(), digest_size=8).hexdigest()

    @cached_property
    def work_folder(self) -> Path:
        """The folder of this evaluation's records. Other questions or another build use another folder."""
        facts = [str(FORM), self.variants[0].key, metadata.version("llama-cpp-python"), self.set]
        return self.folder / hashlib.blake2b("\0".join(facts).encode(), digest_size=8).hexdigest()

    @property
    def media_folder(self) -> Path:
        """The folder of encoded images and audio, which variants of the text model share."""
        return self.work_folder / "media"


def evaluate(plan: EvaluationPlan, progress: Progress) -> dict[str, Any]:
    """Returns the results without `sensitivity`. Raises `GalagoError`."""
    with exclusive(plan.work_folder):
        return _evaluate(plan, ProgressEstimator(plan.steps, progress, weights={COST: 0.2}))


def measure_quality(
    plan: EvaluationPlan, progress: Progress
) -> tuple[dict[str, list[Record]], dict[str, list[Record]]]:
    """Returns only the records of passages and of answers, by variant name. Raises `GalagoError`."""
    with exclusive(plan.work_folder):
        count = len(plan.variants)
        return _measure_quality(plan, ProgressEstimator({FIDELITY: count, TASKS: count}, progress))


def _measure_quality(
    plan: EvaluationPlan, progress: ProgressEstimator
) -> tuple[dict[str, list[Record]], dict[str, list[Record]]]:
    scored = {variant.name: _score_passages(plan, variant, progress) for variant in plan.variants}
    answered = {variant.name: _answer_questions(plan, variant, progress) for variant in plan.variants}
    base = plan.variants[0].name
    if not scored[base] and not answered[base]:
        raise ConfigError(
            f"{base} can process none of these questions: all of them contain images or audio; choose a model with a "
            "projector, or other questions with --tasks",
            "tasks",
        )
    return scored, answered


def _evaluate(plan: EvaluationPlan, progress: ProgressEstimator) -> dict[str, Any]:
    warnings = _baseline_warnings(plan.variants)
    for warning in warnings:
        log_once(warning)
    scored, answered = _measure_quality(plan, progress)
    costs = _measure_costs(plan, progress)
    base = plan.variants[0].name
    variants = [
        variant_summary.summarize_variant(
            variant, costs[variant.name], scored[variant.name], answered[variant.name], scored[base], answered[base]
        )
        for variant in plan.variants
    ]
    for variant in variants:
        variant["warnings"] = verdict.warnings(variant, variants[0], plan.constraints)
    machine = this_machine()
    recommended = verdict.recommend(variants, variants[0], plan.constraints)
    return {
        "form": FORM,
        "galago": metadata.version("galago"),
        "llama_cpp": metadata.version("llama-cpp-python"),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"processor": machine.processor, "system": machine.system, "cores": machine.logical_cores,
                   "memory": machine.total_memory_bytes},
        "threads": plan.threads,
        "energy_sensor": sensors.energy_source(),
        "baseline": base,
        "questions": [path.name for path in plan.questions],
        "texts": [path.name for path in plan.texts],
        "set": plan.set,
        "most": plan.limit,
        "front": verdict.pareto_front(variants),
        "recommended": recommended,
        "examples": variant_summary.changed_answers(
            plan.selected_questions, plan.variants, answered, recommended["variant"]
        ),
        "sensitivity": None,
        "warnings": warnings,
        "variants": variants,
    }  # fmt: skip


def _baseline_warnings(variants: Sequence[ModelVariant]) -> list[str]:
    """Returns a sentence for each file of the baseline that is quantized while other files are compared with it."""
    warnings = []
    for files in ([v.model for v in variants], [v.projector for v in variants if v.projector]):
        quantized_type = open_source(str(files[0].path)).quantized_type if len(set(files)) > 1 else None
        if quantized_type is not None:
            warnings.append(
                f"{files[0].name}, the baseline, is quantized itself ({quantized_type}): losses are measured from it, "
                "not from the original model"
            )
    return warnings


def _log_path(plan: EvaluationPlan, kind: str, variant: ModelVariant) -> Path:
    return plan.work_folder / f"{kind}-{variant.key}.jsonl"


def _open_log(plan: EvaluationPlan, kind: str, variant: ModelVariant) -> RecordLog:
    """Opens a variant's records. Records of text are the same with every projector, so they are copied if known."""
    log = RecordLog(_log_path(plan, kind, variant))
    others = [other for other in plan.variants if other.model == variant.model and other is not variant]
    if not log.records and variant is not plan.variants[0]:
        for other in (RecordLog(_log_path(plan, kind, other)) for other in others):
            if other.complete:
                log.extend(record for record in other.records if record["sense"] == "text")
                break
    return log


def _score_passages(plan: EvaluationPlan, variant: ModelVariant, progress: ProgressEstimator) -> list[Record]:
    """Returns a record of every passage whose modality the baseline and the variant support."""
    log = _open_log(plan, FIDELITY, variant)
    baseline, rows = plan.variants[0], plan.work_folder / "baseline.rows"
    if variant is baseline and not fidelity_job.is_intact(rows, log.records):
        log_once(f"{rows} is damaged; the baseline is measured again")
        log.delete()
        rows.unlink(missing_ok=True)
        log = _open_log(plan, FIDELITY, variant)
    if log.complete:
        progress.skip(FIDELITY)
        return log.records
    job = FidelityJob(
        str(variant.model.path),
        str(variant.projector.path if variant.projector else ""),
        tuple(map(str, plan.questions)),
        tuple(map(str, plan.texts)),
        plan.limit,
        str(rows),
        "" if variant is baseline else str(_log_path(plan, FIDELITY, baseline)),
        str(_log_path(plan, FIDELITY, variant)),
        plan.threads,
        plan.gpu_layers,
        str(plan.media_folder),
    )
    progress.begin(FIDELITY)
    check_paths(variant.model.path, variant.projector.path if variant.projector else None)
    _run(job, variant.name, lambda fraction: progress.advance(FIDELITY, variant.name, fraction))
    return RecordLog(Path(job.records)).records


def _run(job: FidelityJob, name: str, on_progress: Callable[[float], None]) -> None:
    with RunningChild(fidelity_job.command(job)) as child:
        for line in child.stdout:
            done, total = map(int, line.split())
            on_progress(done / total)
        end = child.result()
    if end.killed:
        raise EngineCrashed(
            f"llama.cpp crashed on {name}: its process {end.ending}. Leave this variant out and run the command again: "
            "the evaluation resumes from here"
        )
    if not end.ok:
        raise ModelError(f"{name}: {end.last_line or 'it could not be read'}", "model")


def _answer_questions(plan: EvaluationPlan, variant: ModelVariant, progress: ProgressEstimator) -> list[Record]:
    """Returns a record of every question whose modality the variant supports."""
    log = _open_log(plan, TASKS, variant)
    if log.complete:
        progress.skip(TASKS)
        return log.records
    progress.begin(TASKS)
    with load(
        variant.model.path,
        mmproj=variant.projector.path if variant.projector else None,
        threads=plan.threads or default_threads(),  # a varying number would change the last digits of logits
        slots=1,
        gpu_layers=plan.gpu_layers,
        cache_dir=plan.media_folder,
        isolated=True,
    ) as model:
        for warning in model.info.warnings:
            log_once(f"{variant.name}: {warning}")
        questions = answers.answerable(plan.selected_questions, model.info.vision, model.info.audio)
        strict = variant is plan.variants[0]
        for record in answers.answer_questions(model, questions[len(log.records) :], strict):
            log.append(record)
            progress.advance(TASKS, variant.name, len(log.records) / len(questions))
    log.finish()
    return log.records


def _measure_costs(plan: EvaluationPlan, progress: ProgressEstimator) -> dict[str, runtime_cost.CostFigures]:
    """Returns the best round of every variant. Recent rounds of an interrupted run are reused."""
    log = RecordLog(plan.work_folder / f"{COST}-{plan.threads}-{plan.gpu_layers}.jsonl")
    recent = {
        (r["key"], r["round"]): r["found"] for r in log.records if time.time() - r["time"] < COST_LIFETIME_SECONDS
    }

    def measure_round(variant: ModelVariant, number: int) -> runtime_cost.CostFigures:
        if (variant.key, number) in recent:
            progress.skip(COST)
            return dict(recent[variant.key, number])
        progress.begin(COST)
        figures = runtime_cost.measure(variant, plan.threads, plan.gpu_layers)
        log.append({"key": variant.key, "round": number, "time": time.time(), "found": figures})
        progress.advance(COST, variant.name, 1.0)
        return figures

    rounds = runtime_cost.alternate_rounds(plan.variants, plan.rounds, measure_round)
    log.delete()
    return {name: runtime_cost.best(figures) for name, figures in rounds.items()}
