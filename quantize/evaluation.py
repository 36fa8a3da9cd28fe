"""Evaluates variants of a model: how true they are to the baseline, what they get right, and what they cost here.

The results are one JSON value. At the top: `galago` and `llama_cpp` (versions), `made`, `device`, `threads`,
`baseline` (a variant's name), `questions` and `texts` (names), `most` (the bound on each group), `front` (names that no
variant beats), `recommended` (`variant`, or null, and `reason`), `examples` (answers that changed) and `variants`. Of
each of these:

- `name`, `model`, `mmproj` (paths, the latter or null), `model_name`, `mmproj_name`, `bytes` of both files;
- `memory_bytes` (the most resident so far) and `memory` (`steady`, `peak`, `own`, `mapped`), null where not measured;
- `speed`: `decode_tokens_per_second` and `prefill_tokens_per_second`, both also as `..._4` for four streams in all,
  `first_token_seconds`, `load_seconds`, `image_seconds` and `audio_seconds` that media add, `joules_per_answer`
  (null where no sensor can be read);
- `fidelity` by sense (`text`, `image`, `audio`, `both`), in the terms of `fidelity.Fidelity`;
- `looks` by sense: nats a token that the right answer gains from the real picture or sound over a grey or silent one,
  `mean`, `low`, `high`, `n`;
- `tasks` by sense: `accuracy`, `low`, `high`, `n`, `empty`, `repeats`, `change` (see `answering.summary`);
- `groups` of questions, and the `tasks` in each: `right`, `of`, `accuracy`, `low`, `high`;
- `warnings`: sentences.

Intervals are at 95 %. What is measured is kept in a folder, and an evaluation that was ended goes on from there.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from ..models.device import this_machine
from ..models.errors import EngineCrashed, ModelError
from ..models.fingerprint import fingerprint
from ..runtime.config import default_threads, worker_environment
from ..runtime.local import load
from . import answering, cost, fidelity, scoring, verdict
from .combinations import Combination
from .passages import thinned
from .progress import Progress
from .questions import Question, as_json, score
from .records import Record, Records, alone
from .scoring import Job
from .tasks import digest, read

FIDELITY, TASKS, COST = "fidelity", "tasks", "cost"
FORM = "2"
"""Of what is kept: another form is not read, but measured anew."""
CHANGED = 12
"""Answers that changed, of each variant, that the report shows."""


@dataclass(frozen=True)
class Plan:
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
        return [question for path in self.questions for question in thinned(read(path), self.most)]

    @property
    def steps(self) -> dict[str, int]:
        count = len(self.combinations)
        steps = {FIDELITY: count, TASKS: count, COST: count * self.rounds}
        return steps if count > 1 else {kind: steps[kind] for kind in (TASKS, COST)}

    @property
    def work(self) -> Path:
        """Where this evaluation's measurements are: another set of questions or another build makes another."""
        made_by = [FORM, self.combinations[0].key, str(self.most), metadata.version("llama-cpp-python")]
        made_by += [digest(path) for path in self.questions] + [fingerprint(path) for path in self.texts]
        return self.folder / hashlib.blake2b("\0".join(made_by).encode(), digest_size=8).hexdigest()


def evaluate(plan: Plan, tell: Callable[[str, float], None]) -> dict[str, Any]:
    """The results. `tell` hears how far it is. Raises `GalagoError`."""
    with alone(plan.work):
        return _evaluate(plan, tell)


def _evaluate(plan: Plan, tell: Callable[[str, float], None]) -> dict[str, Any]:
    progress = Progress(plan.steps, tell)
    if FIDELITY in plan.steps:
        for combination in plan.combinations:
            _score(plan, combination, progress)
    answered = {c.name: _answered(plan, c, progress) for c in plan.combinations}
    measured = cost.rounds(plan.combinations, plan.rounds, lambda c, number: _cost(plan, c, number, progress))
    variants = [_variant(plan, c, answered, cost.best(measured[c.name])) for c in plan.combinations]
    for variant in variants:
        variant["warnings"] = verdict.warnings(variant, variants[0])
    machine = this_machine()
    return {
        "galago": metadata.version("galago"),
        "llama_cpp": metadata.version("llama-cpp-python"),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {"processor": machine.processor, "system": machine.system, "cores": machine.logical_cores,
                   "memory": machine.total_memory},
        "threads": plan.threads,
        "baseline": variants[0]["name"],
        "questions": [path.name for path in plan.questions],
        "texts": [path.name for path in plan.texts],
        "most": plan.most,
        "front": verdict.front(variants),
        "recommended": verdict.recommend(variants, variants[0], plan.wanted),
        "examples": _changed(plan.asked, plan.combinations, answered),
        "variants": variants,
    }  # fmt: skip


def _score(plan: Plan, combination: Combination, progress: Progress) -> None:
    baseline = plan.combinations[0]
    job = Job(
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
    )
    if Records(Path(job.records)).complete:
        progress.skip(FIDELITY)
        return
    progress.begin(FIDELITY)
    program = subprocess.Popen(
        scoring.command(job),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worker_environment(),
    )
    with program:
        assert program.stdout is not None and program.stderr is not None
        try:
            for line in program.stdout:
                done, total = map(int, line.split())
                progress.advance(FIDELITY, combination.name, done / total)
            said = program.stderr.read().strip()
        except BaseException:
            program.kill()
            raise
    if program.returncode < 0:
        raise EngineCrashed(f"llama.cpp crashed on {combination.name} (signal {-program.returncode})")
    if program.returncode > 0:
        raise ModelError(f"{combination.name}: {said.splitlines()[-1] if said else 'it could not be read'}", "model")


def _path(plan: Plan, kind: str, combination: Combination) -> Path:
    return plan.work / f"{kind}-{combination.key}.jsonl"


def _answered(plan: Plan, combination: Combination, progress: Progress) -> list[Record]:
    """A record of every question that the variant has the senses for."""
    records = Records(_path(plan, TASKS, combination))
    if records.complete:
        progress.skip(TASKS)
        return records.found
    progress.begin(TASKS)
    eyes = combination.projector.path if combination.projector else None
    with load(
        combination.model.path,
        mmproj=eyes,
        threads=plan.threads or default_threads(),  # a number that changes would change answers' last digits
        slots=1,
        gpu_layers=plan.gpu_layers,
        isolated=True,
    ) as model:
        possible = answering.answerable(plan.asked, model.info.vision, model.info.audio)
        for record in answering.answers(model, possible[len(records.found) :]):
            records.add(record)
            progress.advance(TASKS, combination.name, len(records.found) / len(possible))
    records.finish()
    return records.found


def _cost(plan: Plan, combination: Combination, number: int, progress: Progress) -> cost.Round:
    progress.begin(COST)
    found = cost.measure(combination, plan.threads, plan.gpu_layers)
    progress.advance(COST, combination.name, 1.0)
    return found


def _variant(
    plan: Plan, combination: Combination, answered: dict[str, list[Record]], costs: cost.Round
) -> dict[str, Any]:
    baseline, projector = plan.combinations[0], combination.projector
    compared = combination is not baseline
    found = Records(_path(plan, FIDELITY, combination)).found if FIDELITY in plan.steps else []
    before = Records(_path(plan, FIDELITY, baseline)).found if compared else found
    sizes = {name.removeprefix("memory_"): int(costs.pop(name)) for name in list(costs) if name.startswith("memory_")}
    return {
        "name": combination.name,
        "model": str(combination.model.path),
        "mmproj": str(projector.path) if projector else None,
        "model_name": combination.model.name,
        "mmproj_name": projector.name if projector else None,
        "bytes": combination.bytes,
        "memory_bytes": sizes.get("peak"),
        "memory": sizes or None,
        "speed": costs | {"joules_per_answer": costs.get("joules_per_answer")},
        "fidelity": compare(found, before) if compared else {},
        "looks": looks(found),
        "tasks": answering.summary(answered[combination.name], answered[baseline.name]),
        "groups": as_json(score((r["group"], r["task"], r["right"]) for r in answered[combination.name])),
        "warnings": [],
    }


def compare(records: Sequence[Record], base: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """A variant's records against the baseline's, by sense."""
    losses = {record["id"]: tuple(record["nll"]) for record in base}
    passages: dict[str, list[fidelity.Measured]] = {}
    for r in records:
        measured = fidelity.Measured(tuple(r["kl"]), tuple(map(bool, r["same"])), tuple(r["nll"]), losses[r["id"]])
        passages.setdefault(r["sense"], []).append(measured)
    return {sense: asdict(fidelity.summarize(measured)) for sense, measured in passages.items()}


def looks(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """By sense, what the right answers gain from the real picture or sound, in nats a token."""
    gains: dict[str, list[float]] = {}
    for record in records:
        if record.get("blind_nll"):
            gain = (sum(record["blind_nll"]) - sum(record["nll"])) / len(record["nll"])
            gains.setdefault(record["sense"], []).append(gain)
    found = {}
    for sense, values in gains.items():
        mean, low, high = fidelity.mean_interval(values)
        found[sense] = {"mean": mean, "low": low, "high": high, "n": len(values)}
    return found


def _changed(
    asked: Sequence[Question], combinations: Sequence[Combination], answered: dict[str, list[Record]]
) -> list[dict[str, Any]]:
    """Answers that the baseline got right and a variant wrong, or the other way: `variant`, `question` (its place
    among all), `asked`, `right_answer`, `before` and `after`, each with `text` and `right`."""
    before = answered[combinations[0].name]
    found = []
    for combination in combinations[1:]:
        after = answered[combination.name]
        flipped = [i for i in range(len(asked)) if len(after) == len(before) == len(asked)
                   and before[i]["right"] != after[i]["right"]]  # fmt: skip
        for i in flipped[:: max(1, len(flipped) // CHANGED)][:CHANGED]:
            found.append(
                {
                    "variant": combination.name,
                    "question": i,
                    "asked": asked[i].shown,
                    "right_answer": asked[i].answer,
                    "before": {"text": before[i]["text"], "right": before[i]["right"]},
                    "after": {"text": after[i]["text"], "right": after[i]["right"]},
                }
            )
    return found
