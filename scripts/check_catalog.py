"""Asks the Hub about every model of the catalogue and says what is confirmed, unknown or wrong. Needs the network.

    scripts/check-catalog [NAME ...]

Reads listings and the beginnings of files, never a whole one. Exit 1 where anything is wrong; what is confirmed may
then leave `unverified` in models/catalog.toml.
"""

from __future__ import annotations

import sys
from pathlib import Path

from galago.models.errors import GalagoError
from galago.models.gguf.reader import read_first_keys
from galago.models.hub import client
from galago.models.registry import catalog, pairing
from galago.models.registry.catalog import CatalogEntry
from galago.models.registry.installed import Wanted
from galago.models.registry.pairing import WeightsChoice

TOLERANCE = 0.05
"""Relative difference from the catalogue's bytes that is no mistake: the catalogue rounds."""


def check(entry: CatalogEntry) -> list[tuple[str, str]]:
    """(fact, problem) of everything the catalogue says that the Hub can confirm; the problem is empty where it does."""
    repository = client.look_up(entry.repository)
    sizes = {file.name: file.size for file in repository.files}
    wanted = Wanted(entry.repository, entry.weights, entry.projector)
    found = [("repository", "")]
    found.append(("licence", _different(entry.licence.lower().removeprefix("licenseref-"), repository.licence)))
    for quant in entry.quants:
        try:
            choice = wanted.choose(list(sizes), quant.name.lower())
        except GalagoError as error:
            found.append((f"quants.{quant.name}", error.message))
            continue
        weights = sum(sizes[part] for part in choice.weights.parts)
        total = weights + (sizes[choice.projectors[0]] if choice.projectors else 0)
        problem = _off("weights", quant.weights, weights) or _off("total", quant.total, total)
        found.append((f"quants.{quant.name}", problem))
    first = wanted.choose(list(sizes), entry.quants[0].name.lower() if entry.quants else "")
    return found + [("senses", _senses(entry, repository, first, sizes))]


def _senses(entry: CatalogEntry, repository: client.Repository, choice: WeightsChoice, sizes: dict[str, int]) -> str:
    if not choice.projectors:
        return "there is no projector" if entry.senses else ""
    name = choice.projectors[0]
    model, projector = (
        read_first_keys(client.read_start(repository, file, min(sizes[file], 1 << 20)), Path(file))
        for file in (choice.weights.parts[0], name)
    )
    senses = tuple(sense for sense in catalog.SENSES if projector.get(f"clip.has_{sense}_encoder") is True)
    if set(senses) != set(entry.senses) and entry.task != "speech":
        return f"the projector has {' and '.join(senses) or 'no senses'}"
    return pairing.mismatch(model, projector)


def _different(ours: str, theirs: str) -> str:
    return "" if theirs and theirs in ours else f"the Hub says {theirs or 'nothing'}"


def _off(what: str, ours: int | None, theirs: int) -> str:
    if ours is not None and abs(ours - theirs) > TOLERANCE * theirs:
        return f"{what} has {theirs} bytes, not {ours}"
    return ""


def main(names: list[str]) -> int:
    wrong = 0
    for entry in catalog.entries():
        if names and entry.name not in names:
            continue
        try:
            found = check(entry)
        except GalagoError as error:
            found = [("repository", error.message)]
        for fact, problem in found:
            doubted = fact in entry.unverified or fact.partition(".")[0] in entry.unverified
            wrong += bool(problem)
            if problem or doubted:
                print(f"{entry.name}: {fact}: {problem or 'confirmed; may leave unverified'}", flush=True)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
