"""Two evaluations side by side: of two devices, two builds, or before and after a change. Measures nothing.

A difference of two shares or means has an interval made of both intervals, as if the measurements were independent
(the square-and-add method: Newcombe 1998 for shares, Zou and Donner 2008 in general).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....models.errors import ConfigError
from ..evaluation import FORM
from ..verdict import NAMES
from .tables import NONE, Table

Results = Mapping[str, Any]


def read(path: Path) -> Results:
    """What `galago evaluate --json` wrote. Raises `ConfigError`."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}", "results") from None
    form = results.get("form") if isinstance(results, dict) else None
    if form is None or "variants" not in results:
        raise ConfigError(f"{path} is not what galago evaluate --json writes", "results")
    if form != FORM:
        raise ConfigError(f"{path} was written by another version of Galago ({results.get('galago')})", "results")
    return dict(results)


def compare(before: Results, after: Results) -> dict[str, Any]:
    """What changed: `notes`, sentences; `only_before` and `only_after`, names of variants; and `variants`, of those of
    both `name`, `bytes`, `memory_bytes` and `decode_tokens_per_second` (each `before`, `after` and their `ratio`), and
    by sense `accuracy` and `kl_mean` (`before`, `after`, `change`, `low`, `high`), where both have them.

    Accuracy and divergence are compared on the same questions only, divergence from the same baseline.
    """
    first, second = ({v["name"]: v for v in results["variants"]} for results in (before, after))
    same_set = before["set"] == after["set"]
    same_base = same_set and before["variants"][0]["key"] == after["variants"][0]["key"]
    variants = []
    for name in first:
        if name in second:
            old, new = first[name], second[name]
            row: dict[str, Any] = {"name": name, "bytes": _ratio(old["bytes"], new["bytes"])}
            row["memory_bytes"] = _ratio(old["memory_bytes"], new["memory_bytes"])
            rates = (variant["speed"].get("decode_tokens_per_second") for variant in (old, new))
            row["decode_tokens_per_second"] = _ratio(*rates)
            row["accuracy"] = _changes(old["tasks"], new["tasks"], "accuracy", "low", "high") if same_set else {}
            kl = _changes(old["fidelity"], new["fidelity"], "kl_mean", "kl_low", "kl_high") if same_base else {}
            variants.append(row | {"kl_mean": kl})
    return {
        "notes": _notes(before, after, same_set, same_base),
        "only_before": [name for name in first if name not in second],
        "only_after": [name for name in second if name not in first],
        "variants": variants,
    }


def _notes(before: Results, after: Results, same_set: bool, same_base: bool) -> list[str]:
    notes = []
    for name in ("device", "galago", "llama_cpp", "threads"):
        if before[name] != after[name]:
            notes.append(f"another {name.replace('_', '.')}: {_said(before[name])} before, {_said(after[name])} after")
    if not same_set:
        notes.append("other questions or texts were asked: right answers and divergence are not compared")
    elif not same_base:
        notes.append("the baseline is another model: divergence is not compared")
    old, new = before["recommended"], after["recommended"]
    if old["variant"] == new["variant"]:
        notes.append(f"the same is recommended: {new['variant']}")
    else:
        notes.append(f"recommended before: {old['reason']}")
        notes.append(f"recommended after: {new['reason']}")
    return notes


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['processor']}, {value['cores']} cores, {value['memory'] / 1e9:.1f} GB, {value['system']}"
    return "unset" if value is None else str(value)


def _ratio(before: float | None, after: float | None) -> dict[str, float] | None:
    return {"before": before, "after": after, "ratio": after / before} if before and after else None


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], value: str, low: str, high: str
) -> dict[str, dict[str, float]]:
    found = {}
    for sense in NAMES:
        if sense in before and sense in after:
            old, new = before[sense], after[sense]
            change = new[value] - old[value]
            found[sense] = {
                "before": old[value],
                "after": new[value],
                "change": change,
                "low": change - math.hypot(new[value] - new[low], old[high] - old[value]),
                "high": change + math.hypot(new[high] - new[value], old[value] - old[low]),
            }
    return found


def table(compared: Mapping[str, Any]) -> Table:
    """A row for each variant of both; a change that its interval tells from none is marked with an exclamation mark."""
    senses = {
        kind: [sense for sense in NAMES if any(sense in variant[kind] for variant in compared["variants"])]
        for kind in ("kl_mean", "accuracy")
    }
    rows = []
    for variant in compared["variants"]:
        row = [variant["name"]]
        row += [_times(variant[name]) for name in ("bytes", "memory_bytes", "decode_tokens_per_second")]
        row += [_change(variant["kl_mean"].get(sense), "+.2g") for sense in senses["kl_mean"]]
        row += [_change(variant["accuracy"].get(sense), "+.1%") for sense in senses["accuracy"]]
        rows.append(row)
    columns = ["variant", "bytes", "memory", "tokens/s"]
    columns += [f"{NAMES[s]} KL" for s in senses["kl_mean"]] + [f"{NAMES[s]} right" for s in senses["accuracy"]]
    return Table("Change", columns, rows)


def _times(one: Mapping[str, float] | None) -> str:
    return NONE if one is None else f"x{one['ratio']:.2f}"


def _change(one: Mapping[str, float] | None, form: str) -> str:
    if one is None:
        return NONE
    sure = one["low"] > 0 or one["high"] < 0
    return f"{one['change']:{form}}{' !' if sure else ''}"
