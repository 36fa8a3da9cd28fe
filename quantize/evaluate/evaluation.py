"""Evaluates variants of a model: how true they are to the baseline, what they get right, and what they cost here.

The results are one JSON value. At the top: `form` (of this schema), `galago` and `llama_cpp` (versions), `made`,
`device`, `threads`, `energy_sensor` (what joules are read from, or null), `baseline` (a variant's name), `questions`
and `texts` (names), `set` (a digest of both), `most` (the bound on each group), `front` (names that no variant beats),
`recommended` (`variant`, or null, and `reason`), `examples` (answers that changed), `sensitivity` (see
`sensitivity.measure`; null unless it was asked for) and `variants`. Of each of these:

- `name`, `key` (a digest of the files), `model`, `mmproj` (paths, the latter or null), `model_name`, `mmproj_name`,
  `bytes` of both files;
- `memory_bytes` (the most resident so far) and `memory` (`steady`, `peak`, `own`, `mapped`), null where not measured;
- `speed`: `decode_tokens_per_second` and `prefill_tokens_per_second`, both also as `..._4` for four streams in all,
  `first_token_seconds`, `load_seconds`, `image_seconds` and `audio_seconds` that media add, `joules_per_answer`
  (null where no sensor can be read);
- `fidelity` by sense (`text`, `image`, `audio`, `both`), in the terms of `fidelity.Fidelity`; the baseline's is that to
  itself, with its perplexity;
- `looks` by sense: nats a token that the right answer gains from the real picture or sound over a grey or silent one,
  `mean`, `low`, `high`, `n`;
- `failed` by sense: `share` of passages that the variant cannot take, and the `reason`;
- `tasks` by sense: `accuracy`, `low`, `high`, `n`, `empty`, `repeats`, `same`, `change` (see `answering.summary`);
- `groups` of questions, and the `tasks` in each: `right`, `of`, `accuracy`, `low`, `high`;
- `warnings`: sentences.

Intervals are at 95 %. What is measured is kept in a folder, and an evaluation that was ended goes on from there.
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

from ...models.device import this_machine
from ...models.errors import ConfigError, EngineCrashed, ModelError
from ...models.fingerprint import fingerprint
from ...runtime.config import default_threads
from ...runtime.process.spawn import RunningChild
from ...runtime.python_api import load
from ..progress import Progress
from ..records import Record, Records, alone
from . import fidelity_job, generate, passages, runtime_cost, summary, verdict
from .combinations import Combination
from .fidelity_job import FidelityJob
from .loaders import digest
from .questions import Question

FORM = 3
"""Of the results and of what is kept: what was kept in another form is measured anew."""
FIDELITY, TASKS, COST = "fidelity", "tasks", "cost"
Found = dict[str, list[Record]]
FRESH = 6 * 3600
"""Seconds for which the costs that a run has measured before it was ended count."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What to evaluate; the first of `combinations` is the baseline. `most` bounds the questions of each group."""

    combinations: Sequence[Combination]
    questions: Sequence[Path]
    folder: Path
    texts: Sequence[Path] = ()
    most: int = 1_000_000
    rounds: int = 3
    threads: int | None = None
    gpu_layers: int = -1
    wanted: verdict.Constraints = field(default_factory=verdict.Constraints)

    @cached_property
    def asked(self) -> list[Question]:
        """The questions of all sets, as many as are to be asked."""
        return passages.asked(self.questions, self.most)

    @property
    def steps(self) -> dict[str, int]:
        count = len(self.combinations)
        return {FIDELITY: count, TASKS: count, COST: count * self.rounds}

    @cached_property
    def set(self) -> str:
        """A digest of what is asked and read."""
        facts = [str(self.most), *map(digest, self.questions), *map(fingerprint, self.texts)]
        return hashlib.blake2b("\0".join(facts).encode(), digest_size=8).hexdigest()

    @cached_property
    def work(self) -> Path:
        """Where this evaluation's measurements are: another set of questions or another build makes another."""
        made_by = [str(FORM), self.combinations[0].key, metadata.version("llama-cpp-python"), self.set]
        return self.folder / hashlib.blake2b("\0".join(made_by).encode(), digest_size=8).hexdigest()

    @property
    def media(self) -> Path:
        """Encoded pictures and sounds, which variants of the text model share."""
        return self.work / "media"


def evaluate(plan: EvaluationPlan, tell: Callable[[str, float], None]) -> dict[str, Any]:
    """The results, but for their `sensitivity`. `tell` hears how far it is. Raises `GalagoError`."""
    with alone(plan.work):
        return _evaluate(plan, Progress(plan.steps, tell, weights={COST: 0.2}))


def measured(plan: EvaluationPlan, tell: Callable[[str, float], None]) -> tuple[Found, Found]:
    """Only the records of passages and of answers, by the names of the variants. Raises `GalagoError`."""
    with alone(plan.work):
        return _measured(plan, Progress({FIDELITY: len(plan.combinations), TASKS: len(plan.combinations)}, tell))


def _measured(plan: EvaluationPlan, progress: Progress) -> tuple[Found, Found]:
    scored = {c.name: _scored(plan, c, progress) for c in plan.combinations}
    answered = {c.name: _answered(plan, c, progress) for c in plan.combinations}
    base = plan.combinations[0].name
    if not scored[base] and not answered[base]:
        raise ConfigError(f"{base} can take none of these questions: all need pictures or sounds", "tasks")
    return scored, answered


def _evaluate(plan: EvaluationPlan, progress: Progress) -> dict[str, Any]:
    scored, answered = _measured(plan, progress)
    costs = _costs(plan, progress)
    base = plan.combinations[0].name
    variants = [
        summary.variant(c, costs[c.name], scored[c.name], answered[c.name], scored[base], answered[base])
        for c in plan.combinations
    ]
    for variant in variants:
        variant["warnings"] = verdict.warnings(variant, variants[0], plan.wanted)
    machine = this_machine()
    recommended = verdict.recommend(variants, variants[0], plan.wanted)
    return {
        "form": FORM,
        "galago": metadata.version("galago"),
        "llama_cpp": metadata.version("llama-cpp-python"),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"processor": machine.processor, "system": machine.system, "cores": machine.logical_cores,
                   "memory": machine.total_memory},
        "threads": plan.threads,
        "energy_sensor": runtime_cost.sensor(),
        "baseline": base,
        "questions": [path.name for path in plan.questions],
        "texts": [path.name for path in plan.texts],
        "set": plan.set,
        "most": plan.most,
        "front": verdict.front(variants),
        "recommended": recommended,
        "examples": summary.changed(plan.asked, plan.combinations, answered, recommended["variant"]),
        "sensitivity": None,
        "variants": variants,
    }  # fmt: skip


def _path(plan: EvaluationPlan, kind: str, combination: Combination) -> Path:
    return plan.work / f"{kind}-{combination.key}.jsonl"


def _records(plan: EvaluationPlan, kind: str, combination: Combination) -> Records:
    """What is kept of a variant. What needs no projector is the same beside every one, and taken over."""
    own = Records(_path(plan, kind, combination))
    others = [c for c in plan.combinations if c.model == combination.model and c is not combination]
    if not own.found and combination is not plan.combinations[0]:
        for other in (Records(_path(plan, kind, c)) for c in others):
            if other.complete:
                own.extend(record for record in other.found if record["sense"] == "text")
                break
    return own


def _scored(plan: EvaluationPlan, combination: Combination, progress: Progress) -> list[Record]:
    """A record of every passage that the baseline has the senses for and the variant too."""
    records = _records(plan, FIDELITY, combination)
    if records.complete:
        progress.skip(FIDELITY)
        return records.found
    baseline = plan.combinations[0]
    job = FidelityJob(
        str(combination.model.path),
        str(combination.projector.path if combination.projector else ""),
        tuple(map(str, plan.questions)),
        tuple(map(str, plan.texts)),
        plan.most,
        str(plan.work / "baseline.rows"),
        "" if combination is baseline else str(_path(plan, FIDELITY, baseline)),
        str(_path(plan, FIDELITY, combination)),
        plan.threads,
        plan.gpu_layers,
        str(plan.media),
    )
    progress.begin(FIDELITY)
    _run(job, combination.name, lambda share: progress.advance(FIDELITY, combination.name, share))
    return Records(Path(job.records)).found


def _run(job: FidelityJob, name: str, tell: Callable[[float], None]) -> None:
    with RunningChild(fidelity_job.command(job)) as child:
        for line in child.stdout:
            done, total = map(int, line.split())
            tell(done / total)
        end = child.result()
    if end.killed:
        raise EngineCrashed(
            f"llama.cpp crashed on {name}: its process {end.ending}; without it, the evaluation goes on from here"
        )
    if not end.ok:
        raise ModelError(f"{name}: {end.last_line or 'it could not be read'}", "model")


def _answered(plan: EvaluationPlan, combination: Combination, progress: Progress) -> list[Record]:
    """A record of every question that the variant has the senses for."""
    records = _records(plan, TASKS, combination)
    if records.complete:
        progress.skip(TASKS)
        return records.found
    progress.begin(TASKS)
    with load(
        combination.model.path,
        mmproj=combination.projector.path if combination.projector else None,
        threads=plan.threads or default_threads(),  # a number that changes would change answers' last digits
        slots=1,
        gpu_layers=plan.gpu_layers,
        cache_dir=plan.media,
        isolated=True,
    ) as model:
        possible = generate.answerable(plan.asked, model.info.vision, model.info.audio)
        strict = combination is plan.combinations[0]
        for record in generate.answers(model, possible[len(records.found) :], strict):
            records.add(record)
            progress.advance(TASKS, combination.name, len(records.found) / len(possible))
    records.finish()
    return records.found


def _costs(plan: EvaluationPlan, progress: Progress) -> dict[str, runtime_cost.Round]:
    """Of every variant the best of the rounds, measured now: those of a run that was ended count for a while."""
    kept = Records(plan.work / f"{COST}-{plan.threads}-{plan.gpu_layers}.jsonl")
    begun = {(r["key"], r["round"]): r["found"] for r in kept.found if time.time() - r["time"] < FRESH}

    def take(combination: Combination, number: int) -> runtime_cost.Round:
        if (combination.key, number) in begun:
            progress.skip(COST)
            return dict(begun[combination.key, number])
        progress.begin(COST)
        found = runtime_cost.measure(combination, plan.threads, plan.gpu_layers)
        kept.add({"key": combination.key, "round": number, "time": time.time(), "found": found})
        progress.advance(COST, combination.name, 1.0)
        return found

    measured = runtime_cost.rounds(plan.combinations, plan.rounds, take)
    kept.delete()
    return {name: runtime_cost.best(found) for name, found in measured.items()}
