"""Turns the measurements of a variant into its part of the evaluation results, which `evaluation.py` documents.

Pure functions on records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from . import fidelity
from .answers import summarize_answers
from .intervals import mean_interval
from .questions import Question, as_json, score
from .record_log import Record
from .runtime_cost import CostFigures
from .variant_grid import ModelVariant

EXAMPLES_PER_MODALITY = 8
"""Changed answers of each modality that the report shows."""


def summarize_variant(
    variant: ModelVariant,
    costs: CostFigures,
    scored: Sequence[Record],
    answered: Sequence[Record],
    base_scored: Sequence[Record],
    base_answered: Sequence[Record],
) -> dict[str, Any]:
    """Returns a variant's results except its `warnings`. The baseline is compared with itself."""
    speed = {name: value for name, value in costs.items() if not name.startswith("memory_")}
    memory = {name.removeprefix("memory_"): int(size) for name, size in costs.items() if name.startswith("memory_")}
    projector = variant.projector
    return {
        "name": variant.name,
        "key": variant.key,
        "model": str(variant.model.path),
        "mmproj": str(projector.path) if projector else None,
        "model_name": variant.model.name,
        "mmproj_name": projector.name if projector else None,
        "bytes": variant.bytes,
        "memory_bytes": memory.get("peak"),
        "memory": memory or None,
        "speed": {"joules_per_answer": None} | speed,
        "fidelity": summarize_fidelity(scored, base_scored),
        "looks": media_gains(scored),
        "failed": failures(scored),
        "tasks": summarize_answers(answered, base_answered),
        "groups": as_json(score((r["group"], r["task"], r["right"]) for r in answered)),
        "warnings": [],
    }


def summarize_fidelity(records: Sequence[Record], base: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Compares a variant's records with the baseline's, by modality. The baseline's own have no divergence."""
    base_nll = {record["id"]: tuple(record["nll"]) for record in base}
    passages: dict[str, list[fidelity.PassageMeasurement]] = {}
    for r in records:
        if "failed" not in r:
            kl, same = r.get("kl", [0.0] * r["rows"]), r.get("same", [1] * r["rows"])
            measurement = fidelity.PassageMeasurement(
                tuple(kl), tuple(map(bool, same)), tuple(r["nll"]), base_nll[r["id"]]
            )
            passages.setdefault(r["sense"], []).append(measurement)
    return {modality: asdict(fidelity.summarize(measurements)) for modality, measurements in passages.items()}


def media_gains(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Returns what real media add to the correct answer's log-likelihood over blank media, in nats per token.

    The gains are grouped by modality.
    """
    gains: dict[str, list[float]] = {}
    for record in records:
        if record.get("blind_nll"):
            gain = (sum(record["blind_nll"]) - sum(record["nll"])) / len(record["nll"])
            gains.setdefault(record["sense"], []).append(gain)
    summaries = {}
    for modality, values in gains.items():
        mean, low, high = mean_interval(values)
        summaries[modality] = {"mean": mean, "low": low, "high": high, "n": len(values)}
    return summaries


def failures(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Returns, by modality, the `share` of passages the variant cannot process, and the `reason` of the first."""
    summaries = {}
    for modality in dict.fromkeys(record["sense"] for record in records if "failed" in record):
        outcomes = [record.get("failed") for record in records if record["sense"] == modality]
        reasons = [reason for reason in outcomes if reason is not None]
        summaries[modality] = {"share": len(reasons) / len(outcomes), "reason": reasons[0]}
    return summaries


def changed_answers(
    questions: Sequence[Question],
    variants: Sequence[ModelVariant],
    answered: Mapping[str, Sequence[Record]],
    recommended: str | None,
) -> list[dict[str, Any]]:
    """Returns examples of answers that are correct in the baseline and wrong in a variant, or the reverse.

    Those of the `recommended` variant come first, then those that most variants changed. Each holds `question` (its
    index), `asked`, `right_answer`, `before` (`text`, `right`), and `after`: `variant`, `text` and `right` for each
    variant that changed it.
    """
    before = answered[variants[0].name]
    examples: list[dict[str, Any]] = []
    for i, question in enumerate(questions[: len(before)]):
        after = [
            {"variant": name, "text": records[i]["text"], "right": records[i]["right"]}
            for name, records in answered.items()
            if i < len(records) and records[i]["right"] != before[i]["right"]
        ]
        if after:
            examples.append(
                {
                    "question": i,
                    "asked": question.display_text,
                    "right_answer": question.answer,
                    "before": {"text": before[i]["text"], "right": before[i]["right"]},
                    "after": after,
                }
            )
    examples.sort(
        key=lambda example: (not any(a["variant"] == recommended for a in example["after"]), -len(example["after"]))
    )
    by_modality: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        by_modality.setdefault(before[example["question"]]["sense"], []).append(example)
    return [example for group in by_modality.values() for example in group[:EXAMPLES_PER_MODALITY]]
