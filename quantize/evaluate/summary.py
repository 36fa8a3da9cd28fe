"""From what was measured of a variant to its part of an evaluation's results, which `evaluation.py` documents.

Pure functions over records; measures nothing, reads no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..records import Record
from . import fidelity
from .combinations import Combination
from .generate import summary
from .intervals import mean_interval
from .questions import Question, as_json, score
from .runtime_cost import Round

CHANGED = 8
"""Questions of each sense, whose answers changed, that the report shows."""


def variant(
    combination: Combination,
    costs: Round,
    scored: Sequence[Record],
    answered: Sequence[Record],
    base_scored: Sequence[Record],
    base_answered: Sequence[Record],
) -> dict[str, Any]:
    """Everything of one variant but its `warnings`. The baseline is compared with itself."""
    speed = {name: value for name, value in costs.items() if not name.startswith("memory_")}
    sizes = {name.removeprefix("memory_"): int(size) for name, size in costs.items() if name.startswith("memory_")}
    projector = combination.projector
    return {
        "name": combination.name,
        "key": combination.key,
        "model": str(combination.model.path),
        "mmproj": str(projector.path) if projector else None,
        "model_name": combination.model.name,
        "mmproj_name": projector.name if projector else None,
        "bytes": combination.bytes,
        "memory_bytes": sizes.get("peak"),
        "memory": sizes or None,
        "speed": {"joules_per_answer": None} | speed,
        "fidelity": compare(scored, base_scored),
        "looks": looks(scored),
        "failed": failed(scored),
        "tasks": summary(answered, base_answered),
        "groups": as_json(score((r["group"], r["task"], r["right"]) for r in answered)),
        "warnings": [],
    }


def compare(records: Sequence[Record], base: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """A variant's records against the baseline's, by sense. The baseline's own have no divergence."""
    losses = {record["id"]: tuple(record["nll"]) for record in base}
    passages: dict[str, list[fidelity.Measured]] = {}
    for r in records:
        if "failed" not in r:
            kl, same = r.get("kl", [0.0] * r["rows"]), r.get("same", [1] * r["rows"])
            measured = fidelity.Measured(tuple(kl), tuple(map(bool, same)), tuple(r["nll"]), losses[r["id"]])
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
        mean, low, high = mean_interval(values)
        found[sense] = {"mean": mean, "low": low, "high": high, "n": len(values)}
    return found


def failed(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """By sense, the `share` of passages that the variant cannot take, and the `reason` given for the first."""
    found = {}
    for sense in dict.fromkeys(record["sense"] for record in records if "failed" in record):
        reasons = [record.get("failed") for record in records if record["sense"] == sense]
        said = [reason for reason in reasons if reason is not None]
        found[sense] = {"share": len(said) / len(reasons), "reason": said[0]}
    return found


def changed(
    asked: Sequence[Question],
    combinations: Sequence[Combination],
    answered: Mapping[str, Sequence[Record]],
    chosen: str | None,
) -> list[dict[str, Any]]:
    """Answers that the baseline got right and variants wrong, or the other way, some of each sense: those of the
    `chosen` variant first, then those that most variants changed.

    Each holds `question` (its place among all), `asked`, `right_answer`, `before` (`text`, `right`), and `after`, for
    each variant that changed it `variant`, `text` and `right`.
    """
    before = answered[combinations[0].name]
    found: list[dict[str, Any]] = []
    for i, question in enumerate(asked[: len(before)]):
        after = [
            {"variant": name, "text": records[i]["text"], "right": records[i]["right"]}
            for name, records in answered.items()
            if i < len(records) and records[i]["right"] != before[i]["right"]
        ]
        if after:
            found.append(
                {
                    "question": i,
                    "asked": question.shown,
                    "right_answer": question.answer,
                    "before": {"text": before[i]["text"], "right": before[i]["right"]},
                    "after": after,
                }
            )
    found.sort(key=lambda one: (not any(a["variant"] == chosen for a in one["after"]), -len(one["after"])))
    senses: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        senses.setdefault(before[one["question"]]["sense"], []).append(one)
    return [one for sense in senses.values() for one in sense[:CHANGED]]
