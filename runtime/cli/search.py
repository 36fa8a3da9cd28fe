"""`galago search`: finds models in the catalog, or on the Hub."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models import units
from .ui import report

if TYPE_CHECKING:
    from ...models.registry.catalog import CatalogEntry, CatalogQuant


def search(
    text: Annotated[
        str, typer.Argument(help="words in a name, task, input or note  [default: everything]", metavar="TEXT")
    ] = "",
    fits: Annotated[bool, typer.Option("--fits", help="only models that fit into the free memory, best first")] = False,
    on_hub: Annotated[bool, typer.Option("--hub", help="search the Hub, too")] = False,
    as_json: report.Json = False,
) -> None:
    """Find a model in the catalog, or on the Hub."""
    from ...models.hub import client, connection, mirrors
    from ...models.registry import catalog

    text = _without_address(text)
    entries = [entry for entry in catalog.entries() if all(word in _words(entry) for word in text.lower().split())]
    if fits:
        entries = _that_fit([entry for entry in entries if entry.is_recommended])
    if entries and not as_json:
        _print_entries(entries)  # before the Hub is asked, which may fail
    repositories = client.search_models(text) if on_hub else []
    if as_json:
        rows = [_row(entry) for entry in entries]
        rows += [{"model": f"hf:{f.name}"} | dataclasses.asdict(f) for f in repositories]
        report.emit_json(rows)
        return
    if repositories and mirrors.is_mirror(connection.endpoint()):
        print(f"from {connection.endpoint()}:", file=sys.stderr)
    for repository in repositories:
        gated = ", gated" if repository.gated else ""
        name, licence = report.printable(repository.name), report.printable(repository.licence)
        print(f"hf:{name}  {repository.downloads} downloads, {licence or 'no license given'}{gated}")
    if not entries and not repositories:
        what = "fits into the free memory" if fits else f"matches {text!r}"
        print(f"no model of the catalog {what}; search the Hub with --hub" if not on_hub else "no models found")


def _print_entries(entries: list[CatalogEntry]) -> None:
    print(report.table(("model", "use", "size", "download", "license"), [_cells(entry) for entry in entries]))
    notes = ["* not confirmed by a download yet"] * any(not entry.verified for entry in entries)
    notes += ["+ has conditions; see galago show MODEL"] * any(entry.conditions for entry in entries)
    print("\n".join(["", *notes]), file=sys.stderr)


def _without_address(text: str) -> str:
    """Returns OWNER/REPO for the URL of a page of the Hub, and any other text unchanged."""
    from ...models.errors import NotFound
    from ...models.registry.name import parse_ref

    try:
        ref = parse_ref(text)
    except NotFound:
        return text
    return ref.name if ref.kind == "hub" else text


def _that_fit(entries: list[CatalogEntry]) -> list[CatalogEntry]:
    """Returns the models that fit, each with the quantizations that do, best first."""
    from ...models.device import this_machine
    from .fit import models_that_fit

    quants: dict[str, list[CatalogQuant]] = {}
    for candidate in models_that_fit(entries, this_machine().available_memory_bytes):
        quants.setdefault(candidate.entry.name, []).append(candidate.quant)
    by_name = {entry.name: entry for entry in entries}
    return [dataclasses.replace(by_name[name], quants=tuple(fitting)) for name, fitting in quants.items()]


def _words(entry: CatalogEntry) -> str:
    inputs = " ".join(
        {"vision": "vision images pictures", "audio": "audio sound"}[modality] for modality in entry.modalities
    )
    return f"{entry.name} {entry.repository} {entry.task} {inputs or 'text'} {entry.licence} {entry.notes}".lower()


def _row(entry: CatalogEntry) -> dict[str, Any]:
    from .show import _entry

    return {"model": entry.name} | _entry(entry)


def _cells(entry: CatalogEntry) -> tuple[str, ...]:
    licence = _marked(entry, entry.licence.replace("LicenseRef-", ""), "licence")
    return (
        entry.name,
        _use(entry),
        _marked(entry, report.count(entry.parameters), "parameters"),
        _download(entry),
        licence + "+" * bool(entry.conditions),
    )


def _use(entry: CatalogEntry) -> str:
    if entry.task != "chat":
        return entry.task
    return ", ".join(["chat", *({"vision": "image"}.get(modality, modality) for modality in entry.modalities)])


def _download(entry: CatalogEntry) -> str:
    if not entry.quants:
        return "?"
    first = entry.quants[0]
    size = f">{units.format_bytes(first.weights)}" if first.weights else ""
    if first.total:
        size = units.format_bytes(first.total)
    return _marked(entry, f"{size} {first.name}".strip(), "quants", f"quants.{first.name}")


def _marked(entry: CatalogEntry, value: str, *facts: str) -> str:
    return value + "*" * bool(set(facts) & set(entry.unverified))
