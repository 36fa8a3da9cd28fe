"""An evaluation's results as people read them: a table for the terminal and one for Markdown. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .verdict import NAMES

UNKNOWN = "-"


def columns(results: Mapping[str, Any]) -> list[str]:
    senses = _senses(results)
    head = ["variant", "MB", "memory MB", "tokens/s"]
    return head + [f"{sense} KL" for sense in senses["fidelity"]] + [f"{sense} right" for sense in senses["tasks"]]


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """A row for each variant, in the order of `columns`; the recommended one is marked."""
    senses = _senses(results)
    found = []
    for variant in results["variants"]:
        mark = " *" if variant["name"] == results["recommended"]["variant"] else ""
        speed = variant["speed"].get("decode_tokens_per_second")
        row = [variant["name"] + mark, f"{variant['bytes'] / 1e6:.2f}"]
        row.append(f"{variant['memory_bytes'] / 1e6:.0f}" if variant["memory_bytes"] else UNKNOWN)
        row.append(f"{speed:.1f}" if speed else UNKNOWN)
        for sense in senses["fidelity"]:
            one = variant["fidelity"].get(sense)
            row.append(f"{one['kl_mean']:.4f} ({one['kl_low']:.4f} to {one['kl_high']:.4f})" if one else UNKNOWN)
        for sense in senses["tasks"]:
            task = variant["tasks"].get(sense)
            row.append(f"{task['accuracy']:.1%}" if task else UNKNOWN)
        found.append(row)
    return found


def _senses(results: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        kind: [sense for sense in NAMES if any(sense in variant[kind] for variant in results["variants"])]
        for kind in ("fidelity", "tasks")
    }


def notes(results: Mapping[str, Any]) -> list[str]:
    """What stands below the table."""
    lines = [f"{v['name']} {warning}" for v in results["variants"] for warning in v["warnings"]]
    return [*lines, f"recommended: {results['recommended']['reason']}"]


def markdown(results: Mapping[str, Any]) -> str:
    head = columns(results)
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows(results)]]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(results))]) + "\n"
