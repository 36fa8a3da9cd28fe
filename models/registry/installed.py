"""Which models are on this disk: in the Hub's cache, whoever downloaded them, and imported from elsewhere.

Reads file names and headers; asks no Hub and opens no connection.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import GalagoError, ModelError, NotFound
from ..fingerprint import fingerprint
from ..gguf.reader import read_header
from ..hub import client
from ..hub.cache import HubCache
from ..hub.download import file_digest
from . import catalog, imported, pairing
from .catalog import CatalogEntry
from .name import ModelRef

ANY_PROJECTOR = "*mmproj*"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where the files of a name are to be found, and how to choose among them."""

    repository: str
    weights: str = "*.gguf"
    projector: str | None = ANY_PROJECTOR
    default: str = ""
    entry: CatalogEntry | None = None

    def choose(self, names: list[str], quant: str) -> pairing.FileSelection:
        return pairing.select_files(names, quant, self.weights, self.projector, self.default, self.repository)


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on disk. `weights` are its parts in order; `repository`, `commit` and the `names` in it stay empty for an
    imported one; `origin` says where the files are from."""

    ref: ModelRef
    weights: tuple[Path, ...]
    projector: Path | None
    origin: str
    repository: str = ""
    commit: str = ""
    names: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.weights, *([self.projector] if self.projector else ()))

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What the headers of an installed model say: `context` in tokens, None where they do not."""

    title: str
    architecture: str
    quant: str
    parameters: int
    context: int | None
    vision: bool
    audio: bool
    licence: str
    modified_at: int


def summarize(model: InstalledModel) -> ModelSummary:
    """Reads the headers of all files of a model. Raises `ModelError` for damaged ones, or where a part is missing."""
    try:
        headers = [read_header(path) for path in model.weights]
        pairing.check_parts(headers[0], model.names[: len(headers)] or [path.name for path in model.weights])
        eyes = read_header(model.projector) if model.projector else None
        modified_at = int(max(path.stat().st_mtime for path in model.paths))
    except OSError as error:
        raise ModelError(f"a file of {model.ref} cannot be read: {error.strerror}", "model") from error
    first = headers[0]
    licence = first.get("general.license")
    return ModelSummary(
        title=first.name,
        architecture=first.architecture,
        quant=model.ref.quant or pairing.quant_of(model.weights[0].name) or pairing.dominant_type(first),
        parameters=sum(header.parameters for header in headers),
        context=first.context_length,
        vision=eyes is not None and eyes.get("clip.has_vision_encoder") is True,
        audio=eyes is not None and eyes.get("clip.has_audio_encoder") is True,
        licence=licence if isinstance(licence, str) else "",
        modified_at=modified_at,
    )


def wanted(ref: ModelRef) -> Wanted:
    """What a name of the catalogue or the Hub stands for. Raises `NotFound` with near matches."""
    if ref.kind == "hub":
        known = [entry for entry in catalog.entries() if entry.repository == ref.name and entry.weights == "*.gguf"]
        default = known[0].quants[0].name if known and known[0].quants else ""
        return Wanted(ref.name, default=default, entry=known[0] if known else None)
    entry = catalog.find(ref.name)
    if entry is None:
        near = catalog.similar_names(ref.name)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise NotFound(
            f"there is no model {ref}: {hint}give `builtin` or the path of a GGUF file, a name of `galago search`, or "
            "OWNER/REPO on the Hub",
            "model",
        )
    return Wanted(entry.repository, entry.weights, entry.projector, entry.quants[0].name if entry.quants else "", entry)


def find(ref: ModelRef) -> InstalledModel:
    """The installed model of a name. Raises `NotFound` that says how to get it, or `ModelError` for a bad pair."""
    for own in imported.read_list():
        if ref.kind == "name" and own.name == ref.name and not ref.revision and ref.quant in ("", own.quant):
            gone = [path for path in own.paths if not path.is_file()]
            if gone:
                raise NotFound(f"{own.name} is imported, and its file {gone[0]} is gone: galago rm {own.name}", "model")
            return _from_import(own)
    store, commit, choice = _locate_in_cache(ref)
    looked_for = wanted(ref)
    model = _from_cache(store, ref, looked_for.repository, commit, choice)
    if model.projector is None and looked_for.entry and looked_for.entry.projector:
        raise NotFound(f"{ref} lacks its projector here; get it with: galago pull {ref}", "model")
    return model


def find_unchecked(ref: ModelRef) -> InstalledModel:
    """As `find`, for what is to be checked or deleted: files that cannot be read are no obstacle."""
    own = next((own for own in imported.read_list() if ref.kind == "name" and own.name == ref.name), None)
    if own is not None:
        return _from_import(own)
    store, commit, choice = _locate_in_cache(ref)
    return _from_cache_unchecked(store, ref, wanted(ref).repository, commit, choice)


def _locate_in_cache(ref: ModelRef) -> tuple[HubCache, str, pairing.FileSelection]:
    """Where in the cache a name's files are: the commit and the names in it. Raises `NotFound`."""
    looked_for = wanted(ref)
    store = HubCache(client.cache_root())
    commits = store.commits(looked_for.repository)
    if ref.revision:
        pinned = store.commit(looked_for.repository, ref.revision)
        commits = [commit for commit in commits if commit == pinned]
    here: set[str] = set()
    for commit in commits:
        names = store.files(looked_for.repository, commit)
        here |= {group.quant for group in pairing.weight_sets(names, looked_for.weights) if group.quant}
        with contextlib.suppress(NotFound):
            return store, commit, looked_for.choose(names, ref.quant)
    others = f" (of it, {', '.join(sorted(here))} is here)" if here else ""
    raise NotFound(f"{ref} is not installed{others}; get it with: galago pull {ref}", "model")


def remove(ref: ModelRef) -> tuple[InstalledModel, int]:
    """Deletes a model and returns it with the bytes that this freed: of what no other installed model uses.

    Imported models only leave the list. Raises `NotFound`.
    """
    model = find_unchecked(ref)
    if not model.repository:
        imported.remove(model.ref.name)
        return model, 0
    others = [m for m in all_models() if (m.repository, m.commit) == (model.repository, model.commit)]
    shared = {name for other in others if other.weights != model.weights for name in other.names}
    store = HubCache(client.cache_root())
    freed = store.remove(model.repository, model.commit, [name for name in model.names if name not in shared])
    return model, freed


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What became of a file's check: `problem` is empty where it is what it was, `published` says that its digest is
    the one the Hub or Ollama gives, and not one noted at the import."""

    path: Path
    problem: str
    published: bool


def verify(model: InstalledModel, report: Callable[[int], None] = lambda _: None) -> list[FileCheck]:
    """Reads all files of a model. `report` gets the bytes read of the file at hand."""
    fingerprints: dict[Path, str] = {}
    if not model.repository:
        for own in imported.read_list():
            if own.name == model.ref.name:
                fingerprints = dict(zip(own.paths, own.fingerprints, strict=False))
    return [_check_file(path, fingerprints.get(path), report) for path in model.paths]


def _check_file(path: Path, mark: str | None, report: Callable[[int], None]) -> FileCheck:
    digest = path.resolve().name.removeprefix("sha256-")
    published = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest) is not None
    try:
        if published and file_digest(path, digest, report) != digest:
            return FileCheck(path, "its bytes are not those that were published", True)
        if not published and mark is not None and fingerprint(path) != mark:
            return FileCheck(path, "it has changed since it was imported", False)
        read_header(path)
    except OSError as error:
        return FileCheck(path, f"it cannot be read: {error.strerror}", published)
    except GalagoError as error:
        return FileCheck(path, error.message, published)
    return FileCheck(path, "", published)


def all_models() -> Iterator[InstalledModel]:
    """All models on this disk, by name. Files that cannot be read are left out; `verify` tells of them."""
    for own in imported.read_list():
        if all(path.is_file() for path in own.paths):
            yield _from_import(own)
    store = HubCache(client.cache_root())
    for repository in store.repositories():
        seen: set[tuple[Path, ...]] = set()
        for commit in store.commits(repository):
            names = store.files(repository, commit)
            groups = pairing.weight_sets(names)
            for group in groups:
                weights = _snapshot_paths(store, repository, commit, group.parts)
                contents = tuple(path.resolve() for path in weights)
                if contents not in seen:
                    current = not seen or commit == store.commit(repository, "main")
                    seen.add(contents)
                    alone = sum(other.quant == group.quant for other in groups) == 1
                    ref = _ref_for(repository, group, alone, "" if current else commit[:12])
                    found = pairing.rank_projectors(names, wanted(ref).projector, group.quant)
                    choice = pairing.FileSelection(group, found)
                    yield _from_cache_unchecked(store, ref, repository, commit, choice)


def _ref_for(repository: str, group: pairing.WeightSet, alone: bool, revision: str) -> ModelRef:
    """What to call weights of a repository: by the catalogue where it has them, by the quant where it is `alone`."""
    quant = group.quant if alone and group.quant else group.stem.rsplit("/", 1)[-1]
    for entry in catalog.entries():
        if entry.repository == repository and pairing.weight_sets(group.parts, entry.weights):
            return ModelRef("name", entry.name, quant if entry.quants else "", revision)
    return ModelRef("hub", repository, quant, revision)


def _from_cache_unchecked(
    store: HubCache, ref: ModelRef, repository: str, commit: str, choice: pairing.FileSelection
) -> InstalledModel:
    """The model; where its files cannot be read or do not fit each other, all of them without a projector."""
    try:
        return _from_cache(store, ref, repository, commit, choice)
    except GalagoError:
        names = (*choice.weights.parts, *choice.projectors)
        weights = _snapshot_paths(store, repository, commit, choice.weights.parts)
        return InstalledModel(ref, weights, None, "hub", repository, commit, names)


def _from_cache(
    store: HubCache, ref: ModelRef, repository: str, commit: str, choice: pairing.FileSelection
) -> InstalledModel:
    weights = _snapshot_paths(store, repository, commit, choice.weights.parts)
    candidates = _snapshot_paths(store, repository, commit, choice.projectors)
    projector = None
    if candidates:
        projector = pairing.pick_projector(read_header(weights[0]), [read_header(path) for path in candidates])
    names = list(choice.weights.parts)
    if projector is not None:
        names.append(choice.projectors[candidates.index(projector.path)])
    return InstalledModel(
        ref, weights, projector.path if projector else None, "hub", repository, commit, tuple(names)
    )  # fmt: skip


def _snapshot_paths(store: HubCache, repository: str, commit: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    folder = store.snapshot(repository, commit)
    return tuple(folder / name for name in names)


def _from_import(own: imported.ImportedModel) -> InstalledModel:
    return InstalledModel(ModelRef("name", own.name), own.weights, own.projector, own.origin)
