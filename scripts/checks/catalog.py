"""Compares the model catalog with the Hub. Needs the network.

    scripts/check catalog [NAME ...]

Reads repository listings and the first bytes of files, never a whole file. Prints wrong facts and confirmed ones;
confirmed facts can be removed from `unverified` in models/registry/catalog.toml. Exits with 1 if a fact is wrong.
"""

from __future__ import annotations

from pathlib import Path

from galago.models.errors import GalagoError
from galago.models.gguf.reader import read_leading_metadata
from galago.models.hub import client
from galago.models.hub.source import HubSource
from galago.models.registry import catalog, pairing
from galago.models.registry.catalog import CatalogEntry
from galago.models.registry.selection import FileSelection

TOLERANCE = 0.05
"""Accepted relative difference in bytes: the catalog's sizes are rounded."""


def check(entry: CatalogEntry) -> list[tuple[str, str]]:
    """Pairs of (fact, problem) for every fact the Hub can confirm. The problem is empty if it does."""
    repository = client.fetch_repository(entry.repository)
    sizes = {file.name: file.size for file in repository.files}
    source = HubSource(entry.repository, entry.weights, entry.projector)
    facts = [("repository", "")]
    facts.append(("licence", _different(entry.licence.lower().removeprefix("licenseref-"), repository.licence)))
    for quant in entry.quants:
        try:
            choice = source.select(list(sizes), quant.name.lower())
        except GalagoError as error:
            facts.append((f"quants.{quant.name}", error.message))
            continue
        weights = sum(sizes[part] for part in choice.weights.parts)
        total = weights + (sizes[choice.projectors[0]] if choice.projectors else 0)
        problem = _off("weights", quant.weights, weights) or _off("total", quant.total, total)
        facts.append((f"quants.{quant.name}", problem))
    first = source.select(list(sizes), entry.quants[0].name.lower() if entry.quants else "")
    return facts + [("senses", _senses(entry, repository, first, sizes))]


def _senses(entry: CatalogEntry, repository: client.HubRepository, choice: FileSelection, sizes: dict[str, int]) -> str:
    if not choice.projectors:
        return "the repository has no projector" if entry.modalities else ""
    name = choice.projectors[0]
    model, projector = (
        read_leading_metadata(client.fetch_start(repository, file, min(sizes[file], 1 << 20)), Path(file))
        for file in (choice.weights.parts[0], name)
    )
    senses = tuple(sense for sense in catalog.MODALITIES if projector.get(f"clip.has_{sense}_encoder") is True)
    if set(senses) != set(entry.modalities) and entry.task != "speech":
        return f"the projector has {' and '.join(senses) or 'no senses'}"
    return pairing.projector_mismatch(model, projector)


def _different(ours: str, theirs: str) -> str:
    return "" if theirs and theirs in ours else f"the Hub says {theirs or 'nothing'}"


def _off(what: str, ours: int | None, theirs: int) -> str:
    if ours is not None and abs(ours - theirs) > TOLERANCE * theirs:
        return f"{what} is {theirs} bytes, not {ours}"
    return ""


def main(names: list[str]) -> int:
    wrong = 0
    for entry in catalog.entries():
        if names and entry.name not in names:
            continue
        try:
            facts = check(entry)
        except GalagoError as error:
            facts = [("repository", error.message)]
        for fact, problem in facts:
            unverified = fact in entry.unverified or fact.partition(".")[0] in entry.unverified
            wrong += bool(problem)
            if problem or unverified:
                print(f"{entry.name}: {fact}: {problem or 'confirmed; remove it from `unverified`'}", flush=True)
    print(f"{wrong} wrong")
    return 1 if wrong else 0
