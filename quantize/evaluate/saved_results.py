"""Saves evaluation results on this device, and finds the latest ones of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models import units
from ...models.device import Machine, this_machine
from ...models.fingerprint import pair_fingerprint
from ...models.json_file import JsonFile
from ...models.paths import cache_folder
from .verdict import MODALITY_NAMES, EvaluationResults


def folder() -> Path:
    """The folder of this device's results: a home folder may be shared by several devices."""
    return cache_folder() / "evaluations" / "results" / _device_key(this_machine())


def _device_key(machine: Machine) -> str:
    facts = [machine.processor, str(machine.logical_cores), machine.system.split()[0]]
    return hashlib.blake2b("\0".join(facts).encode(), digest_size=8).hexdigest()


def save(results: EvaluationResults) -> None:
    """Saves results, replacing earlier ones of the same variants and questions."""
    facts = [results["set"], *(variant["key"] for variant in results["variants"])]
    name = hashlib.blake2b("\0".join(facts).encode(), digest_size=8).hexdigest()
    _file(folder() / f"{name}.json").update(lambda _: results)


def _file(path: Path) -> JsonFile[EvaluationResults]:
    return JsonFile(path, _parse, dict)


def _parse(results: Any) -> EvaluationResults:
    """Raises an error for results that `find_latest` and `describe` could not read."""
    for variant in results["variants"]:
        describe({"made": str(results["made"]), "variant": variant, "recommended": results["recommended"]})
        str(variant["key"])
    return dict(results)


def find_latest(model: Path, projector: Path | None) -> dict[str, Any] | None:
    """Returns this device's latest results of these files, or `None`.

    They hold `made` and `recommended`, and the `variant` as in the evaluation results.
    """
    latest: dict[str, Any] | None = None
    if not folder().is_dir():
        return None
    key = pair_fingerprint(model, projector)
    for path in folder().glob("*.json"):
        results = _file(path).read()  # empty if it is damaged or of another version
        for variant in results.get("variants", ()):
            if variant["key"] == key and (latest is None or str(results["made"]) > latest["made"]):
                latest = {"made": str(results["made"]), "variant": variant, "recommended": results["recommended"]}
    return latest


def describe(latest: Mapping[str, Any]) -> str:
    """Describes what `find_latest` returns in one sentence."""
    variant = latest["variant"]
    parts = []
    if speed := variant["speed"].get("decode_tokens_per_second"):
        parts.append(f"{speed:.0f} tokens per second")
    if variant["memory_bytes"]:
        parts.append(units.format_bytes(variant["memory_bytes"]))
    accuracies = [f"{task['accuracy']:.0%} on {MODALITY_NAMES[name]}" for name, task in variant["tasks"].items()]
    parts += [f"accuracy {', '.join(accuracies)}"] if accuracies else []
    line = f"measured here by galago evaluate on {latest['made'][:10]}: {', '.join(parts)}"
    better = latest["recommended"]
    if better["variant"] not in (None, variant["name"]):
        line += f"; it recommended {better['reason']}"
    return line
