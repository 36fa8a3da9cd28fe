"""Compares two evaluations: of two devices, two builds, or before and after a change.

The interval of a difference between two proportions or means combines both intervals as if the measurements were
independent (the square-and-add method: Newcombe 1998 for proportions, Zou and Donner 2008 in general).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....models.errors import ConfigError
from ..evaluation import FORM
from ..verdict import MODALITY_NAMES, EvaluationResults
from .tables import NONE, ReportTable


def read(path: Path) -> EvaluationResults:
    """Reads what `galago evaluate --json` wrote. Raises `ConfigError`."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}", "results") from None
    form = results.get("form") if isinstance(results, dict) else None
    if form is None or "variants" not in results:
        raise ConfigError(f"{path} was not written by galago evaluate --json", "results")
    if form != FORM:
        raise ConfigError(
            f"{path} was written by another version of Galago ({results.get('galago')}); evaluate again", "results"
        )
    return dict(results)


def compare(before: EvaluationResults, after: EvaluationResults) -> dict[str, Any]:
    """Returns what changed.

    `notes` are sentences; `only_before` and `only_after` are names of variants; `variants` holds, for those in both,
    `name`, `bytes`, `memory_bytes` and `decode_tokens_per_second` (each `before`, `after` and their `ratio`), and by
    modality `accuracy` and `kl_mean` (`before`, `after`, `change`, `low`, `high`), if both have them. Accuracy and
    divergence are compared only on the same questions, divergence only from the same baseline.
    """
    old_variants, new_variants = ({v["name"]: v for v in results["variants"]} for results in (before, after))
    same_set = before["set"] == after["set"]
    same_base = same_set and before["variants"][0]["key"] == after["variants"][0]["key"]
    variants = []
    for name, old in old_variants.items():
        if name in new_variants:
            new = new_variants[name]
            row: dict[str, Any] = {"name": name, "bytes": _ratio(old["bytes"], new["bytes"])}
            row["memory_bytes"] = _ratio(old["memory_bytes"], new["memory_bytes"])
            speeds = (variant["speed"].get("decode_tokens_per_second") for variant in (old, new))
            row["decode_tokens_per_second"] = _ratio(*speeds)
            row["accuracy"] = _changes(old["tasks"], new["tasks"], "accuracy", "low", "high") if same_set else {}
            kl = _changes(old["fidelity"], new["fidelity"], "kl_mean", "kl_low", "kl_high") if same_base else {}
            variants.append(row | {"kl_mean": kl})
    return {
        "notes": _notes(before, after, same_set, same_base),
        "only_before": [name for name in old_variants if name not in new_variants],
        "only_after": [name for name in new_variants if name not in old_variants],
        "variants": variants,
    }


def _notes(before: EvaluationResults, after: EvaluationResults, same_set: bool, same_base: bool) -> list[str]:
    notes = []
    for key, name in (("device", "device"), ("galago", "galago"), ("llama_cpp", "llama.cpp"), ("threads", "threads")):
        if before[key] != after[key]:
            notes.append(f"{name} changed from {_format(before[key])} to {_format(after[key])}")
    if not same_set:
        notes.append("the questions or texts differ: accuracy and divergence are not compared")
    elif not same_base:
        notes.append("the baselines differ: divergence is not compared")
    old, new = before["recommended"], after["recommended"]
    if old["variant"] == new["variant"]:
        notes.append(f"both recommend {new['variant']}")
    else:
        notes.append(f"recommended before: {old['reason']}")
        notes.append(f"recommended after: {new['reason']}")
    return notes


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['processor']}, {value['cores']} cores, {value['memory'] / 1e9:.1f} GB, {value['system']}"
    return "unset" if value is None else str(value)


def _ratio(before: float | None, after: float | None) -> dict[str, float] | None:
    return {"before": before, "after": after, "ratio": after / before} if before and after else None


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], value: str, low: str, high: str
) -> dict[str, dict[str, float]]:
    changes = {}
    for modality in MODALITY_NAMES:
        if modality in before and modality in after:
            old, new = before[modality], after[modality]
            change = new[value] - old[value]
            changes[modality] = {
                "before": old[value],
                "after": new[value],
                "change": change,
                "low": change - math.hypot(new[value] - new[low], old[high] - old[value]),
                "high": change + math.hypot(new[high] - new[value], old[value] - old[low]),
            }
    return changes


def table(comparison: Mapping[str, Any]) -> ReportTable:
    """Returns a row for each variant of both. Significant changes are marked with an exclamation mark."""
    modalities = {
        kind: [m for m in MODALITY_NAMES if any(m in variant[kind] for variant in comparison["variants"])]
        for kind in ("kl_mean", "accuracy")
    }
    rows = []
    for variant in comparison["variants"]:
        row = [variant["name"]]
        row += [_times(variant[name]) for name in ("bytes", "memory_bytes", "decode_tokens_per_second")]
        row += [_change(variant["kl_mean"].get(modality), "+.2g") for modality in modalities["kl_mean"]]
        row += [_change(variant["accuracy"].get(modality), "+.1%") for modality in modalities["accuracy"]]
        rows.append(row)
    columns = ["variant", "size", "memory", "tokens/s"]
    columns += [f"KL {MODALITY_NAMES[m]}" for m in modalities["kl_mean"]]
    columns += [f"accuracy {MODALITY_NAMES[m]}" for m in modalities["accuracy"]]
    return ReportTable("Change", columns, rows)


def _times(entry: Mapping[str, float] | None) -> str:
    return NONE if entry is None else f"x{entry['ratio']:.2f}"


def _change(entry: Mapping[str, float] | None, format_spec: str) -> str:
    if entry is None:
        return NONE
    significant = entry["low"] > 0 or entry["high"] < 0
    return f"{entry['change']:{format_spec}}{' !' if significant else ''}"
