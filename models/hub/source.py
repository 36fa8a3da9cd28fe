"""What a model's name means on the Hub: a repository, and the files to choose from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import NotFound
from ..gguf.kind import GGUFKind
from ..registry import catalog, imported, selection
from ..registry.catalog import CatalogEntry
from ..registry.name import ModelRef


@dataclass(frozen=True, slots=True)
class HubSource:
    """The repository of a model, and patterns of the file names that belong to it.

    `projector` is None if the model has no projector. `default_quant` is the quantization to take if the user names
    none. `entry` is the model's entry in the catalog, if it has one.
    """

    repository: str
    weights: str = "*.gguf"
    projector: str | None = "*.gguf"
    default_quant: str = ""
    entry: CatalogEntry | None = None

    def select(
        self, names: Sequence[str], quant: str, kinds: Mapping[str, GGUFKind] | None = None
    ) -> selection.FileSelection:
        """Selects weights and projectors among the files of the repository.

        `kinds` says what the files are, by default as their names suggest. Raises `NotFound`.
        """
        return selection.select_files(
            names, quant, self.weights, self.projector, self.default_quant, self.repository, kinds
        )

    def fitting_sets(self, kinds: Mapping[str, GGUFKind], quant: str) -> list[selection.WeightSet]:
        """Returns the weights in the repository that `quant` may mean."""
        return selection.fitting_sets(selection.weight_sets(kinds, self.weights, kinds), quant, self.default_quant)


def find_source(ref: ModelRef) -> HubSource:
    """Returns the source of a name. Raises `NotFound` with similar names if the catalog does not have it."""
    if ref.kind == "hub":
        same = [entry for entry in catalog.entries() if entry.repository.lower() == ref.name.lower()]
        entries = [entry for entry in same if entry.weights == "*.gguf"]
        entry = entries[0] if entries else None
        return HubSource(ref.name, default_quant=_first_quant(entry), entry=entry)
    entry = catalog.find(ref.name)
    if entry is None:
        similar = catalog.similar_names(ref.name, [model.name for model in imported.read_list()])
        hint = f"did you mean {' or '.join(similar)}? " if similar else ""
        raise NotFound(
            f"there is no model {ref}: {hint}use `builtin`, the path of a GGUF file, a name from `galago search`, or "
            "OWNER/REPO on the Hub",
            "model",
        )
    return HubSource(entry.repository, entry.weights, entry.projector, _first_quant(entry), entry)


def _first_quant(entry: CatalogEntry | None) -> str:
    return entry.quants[0].name if entry is not None and entry.quants else ""
