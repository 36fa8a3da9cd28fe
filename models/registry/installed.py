"""Lists, finds, checks and removes the models on this machine: those in the Hub's cache and imported ones.

Reads file names and headers only; makes no network requests.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import GalagoError, ModelError, NotFound
from ..fingerprint import fingerprint
from ..gguf.file_name import is_quant, quant_of
from ..gguf.kind import kinds_in_folder
from ..gguf.reader import read_header
from ..hub import connection
from ..hub.cache import HubCache
from ..hub.download import file_digest
from ..hub.source import find_source
from . import catalog, imported, pairing, selection
from .name import ModelRef, parse_ref
from .receipt import Receipt, conversion_receipt


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on this machine.

    `weights` are its parts in order. `origin` is "hub", "galago" (built in), "loaded", or the folder that a model was
    imported from. Only models from the Hub have a `repository`, a `commit`, and `names`, those of their files in it,
    and only imported models have a `receipt`.
    """

    ref: ModelRef
    weights: tuple[Path, ...]
    projector: Path | None
    origin: str
    repository: str = ""
    commit: str = ""
    names: tuple[str, ...] = ()
    receipt: Receipt | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.weights, *([self.projector] if self.projector else ()))

    @property
    def size(self) -> int:
        """Bytes of all files that are there."""
        return sum(path.stat().st_size for path in self.paths if path.is_file())


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A summary of the headers of an installed model.

    `context` is in tokens, and None if they do not say. `conversion` is None if Galago did not convert the model.
    """

    title: str
    architecture: str
    quant: str
    parameters: int
    context: int | None
    vision: bool
    audio: bool
    licence: str
    modified_at: int
    conversion: Receipt | None


def summarize(model: InstalledModel) -> ModelSummary:
    """Reads the headers of a model's files. Raises `ModelError` if one is damaged or a part is missing."""
    try:
        headers = [read_header(path) for path in model.weights]
        pairing.check_parts(headers[0], model.names[: len(headers)] or [path.name for path in model.weights])
        projector = read_header(model.projector) if model.projector else None
        modified_at = int(max(path.stat().st_mtime for path in model.paths))
    except OSError as error:
        raise ModelError(f"a file of {model.ref} cannot be read: {error.strerror}", "model") from error
    first = headers[0]
    licence = first.get("general.license")
    return ModelSummary(
        title=first.name,
        architecture=first.architecture,
        quant=quant_of(model.names[0] if model.names else model.weights[0].name) or pairing.dominant_type(first),
        parameters=sum(header.parameters for header in headers),
        context=first.context_length,
        vision=projector is not None and projector.get("clip.has_vision_encoder") is True,
        audio=projector is not None and projector.get("clip.has_audio_encoder") is True,
        licence=licence if isinstance(licence, str) else "",
        modified_at=modified_at,
        conversion=conversion_receipt(first),
    )


def find(ref: ModelRef) -> InstalledModel:
    """Finds an installed model.

    Raises `NotFound` with how to install it, or `ModelError` if no projector matches its weights.
    """
    if entry := _find_import(ref):
        missing = [path for path in entry.paths if not path.is_file()]
        if missing:
            raise NotFound(
                f"{entry.name} was imported, but its file {missing[0]} no longer exists. Remove it from the list "
                f"with: galago rm {entry.name}",
                "model",
            )
        return _from_import(entry)
    cache, commit, choice = _locate_in_cache(ref)
    source = find_source(ref)
    model = _from_cache(cache, ref, source.repository, commit, choice)
    if model.projector is None and source.entry and source.entry.projector:
        raise NotFound(f"{ref} is installed without its projector; install it with: galago pull {ref}", "model")
    return model


def exists(name: str) -> bool:
    """Whether a name, in any spelling, means a model on this machine, complete or not."""
    try:
        ref = parse_ref(name)
        return ref.kind == "builtin" or (ref.kind != "path" and bool(find(ref)))
    except NotFound:
        return False
    except ModelError:
        return True


def find_unchecked(ref: ModelRef) -> InstalledModel:
    """Finds an installed model to check or delete it: its files may be damaged or not match."""
    if entry := _find_import(ref):
        return _from_import(entry)
    cache, commit, choice = _locate_in_cache(ref)
    return _from_cache_unchecked(cache, ref, find_source(ref).repository, commit, choice)


def _find_import(ref: ModelRef) -> imported.ImportedModel | None:
    """Finds an imported model by its name here, or by another of its names if the Hub's cache has no such model.

    Raises `NotFound` if the name means several models there.
    """
    entries = imported.read_list()
    for entry in entries:
        named = ref.kind == "name" and entry.name == ref.name and not ref.revision
        if named and (not ref.quant or is_quant(entry.quant, ref.quant)):
            return entry
    alike = [entry for entry in entries if entry.is_called(ref)]
    if not alike or _is_cached(ref):
        return None
    latest = [entry for entry in alike if entry.published_as.endswith(":latest")]
    chosen = alike if ref.quant else latest or alike
    if len({entry.weights for entry in chosen}) > 1:
        names = ", ".join(entry.name for entry in chosen)
        raise NotFound(f"{ref} stands for several imported models; name one of them: {names}", "model")
    return chosen[0]


def _is_cached(ref: ModelRef) -> bool:
    try:
        return bool(_locate_in_cache(ref))
    except NotFound:
        return False


def _locate_in_cache(ref: ModelRef) -> tuple[HubCache, str, selection.FileSelection]:
    """Finds the commit in the cache that has a model's files, and selects them. Raises `NotFound`."""
    source = find_source(ref)
    cache = HubCache(connection.cache_root())
    commits = cache.commits(source.repository)
    if ref.revision:
        pinned = cache.commit(source.repository, ref.revision)
        commits = [commit for commit in commits if commit == pinned]
    quants: set[str] = set()
    reason = ""
    for commit in commits:
        names = cache.file_names(source.repository, commit)
        kinds = kinds_in_folder(cache.snapshot(source.repository, commit), names)
        quants |= {group.quant for group in selection.weight_sets(names, source.weights, kinds) if group.quant}
        try:
            return cache, commit, source.select(names, ref.quant, kinds)
        except NotFound as error:
            if len(source.fitting_sets(kinds, ref.quant)) > 1:
                raise  # with names that tell the models apart
            reason = reason or error.message
    others = f" (installed of it: {', '.join(sorted(quants))})" if quants else f" ({reason})" if reason else ""
    if not others and (similar := _similar_repositories(source.repository, cache)):
        others = f" (installed is {' and '.join(similar)})"
    raise NotFound(f"{ref} is not installed{others}; install it with: galago pull {ref}", "model")


def _similar_repositories(repository: str, cache: HubCache) -> list[str]:
    known = {name.lower().removesuffix("-gguf"): name for name in cache.repositories()}
    return [known[name] for name in difflib.get_close_matches(repository.lower().removesuffix("-gguf"), known, 2, 0.8)]


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The result of checking a file.

    `problem` is empty if there is none. `published` says whether the file was compared with a digest that the Hub or
    Ollama publishes, or only with its fingerprint at the time of import.
    """

    path: Path
    problem: str
    published: bool


def verify(model: InstalledModel, progress: Callable[[int], None] = lambda _: None) -> list[FileCheck]:
    """Checks all files of a model. `progress` is called with the bytes read of the current file."""
    fingerprints: dict[Path, str] = {}
    if not model.repository:
        for entry in imported.read_list():
            if entry.name == model.ref.name:
                fingerprints = dict(zip(entry.paths, entry.fingerprints, strict=False))
    return [_check_file(path, fingerprints.get(path), progress) for path in model.paths]


def _check_file(path: Path, imported_as: str | None, progress: Callable[[int], None]) -> FileCheck:
    digest = path.resolve().name.removeprefix("sha256-")
    published = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest) is not None
    try:
        if published and file_digest(path, digest, progress) != digest:
            return FileCheck(path, "its content differs from the published file", True)
        if not published and imported_as is not None and fingerprint(path) != imported_as:
            return FileCheck(path, "it has changed since it was imported", False)
        read_header(path)
    except OSError as error:
        return FileCheck(path, f"it cannot be read: {error.strerror}", published)
    except GalagoError as error:
        return FileCheck(path, error.message, published)
    return FileCheck(path, "", published)


def all_models(every_commit: bool = False) -> Iterator[InstalledModel]:
    """Yields all installed models, including damaged ones and imported ones whose files are gone, as `verify` reports.

    A model that several commits have with the same content is yielded once, unless `every_commit`.
    """
    yield from map(_from_import, imported.read_list())
    cache = HubCache(connection.cache_root())
    for repository in cache.repositories():
        seen: set[tuple[Path, ...]] = set()
        main = cache.commit(repository, "main")
        for commit in cache.commits(repository):
            is_current = not seen or commit == main
            for model in in_commit(cache, repository, commit, "" if is_current else commit[:12]):
                contents = tuple(path.resolve() for path in model.weights)
                if every_commit or contents not in seen:
                    yield model
                seen.add(contents)


def in_commit(cache: HubCache, repository: str, commit: str, revision: str = "") -> Iterator[InstalledModel]:
    """Yields the models in a commit of the cache, under names with `revision`."""
    names = cache.file_names(repository, commit)
    kinds = kinds_in_folder(cache.snapshot(repository, commit), names)
    groups = selection.weight_sets(names, kinds=kinds)
    for group in groups:
        unique = sum(other.quant == group.quant for other in groups) == 1
        ref = _ref_for(repository, group, unique, revision)
        projectors = selection.rank_projectors(names, find_source(ref).projector, group, kinds)
        yield _from_cache_unchecked(cache, ref, repository, commit, selection.FileSelection(group, projectors))


def _ref_for(repository: str, group: selection.WeightSet, unique: bool, revision: str) -> ModelRef:
    """Returns the name of weights: from the catalog if it has them, with the quantization if that is `unique`."""
    quant = group.quant if unique and group.quant else group.stem.rsplit("/", 1)[-1]
    for entry in catalog.entries():
        if entry.repository.lower() == repository.lower() and group.matches(entry.weights):
            return ModelRef("name", entry.name, quant if entry.quants else "", revision)
    return ModelRef("hub", repository, quant, revision)


def _from_cache_unchecked(
    cache: HubCache, ref: ModelRef, repository: str, commit: str, choice: selection.FileSelection
) -> InstalledModel:
    """Returns a model in the cache, without a projector if its files are damaged or do not match."""
    try:
        return _from_cache(cache, ref, repository, commit, choice)
    except GalagoError:
        names = (*choice.weights.parts, *choice.projectors)
        weights = _snapshot_paths(cache, repository, commit, choice.weights.parts)
        return InstalledModel(ref, weights, None, "hub", repository, commit, names)


def _from_cache(
    cache: HubCache, ref: ModelRef, repository: str, commit: str, choice: selection.FileSelection
) -> InstalledModel:
    weights = _snapshot_paths(cache, repository, commit, choice.weights.parts)
    candidates = _snapshot_paths(cache, repository, commit, choice.projectors)
    projector = None
    if candidates:
        projector = pairing.pick_projector(read_header(weights[0]), [read_header(path) for path in candidates])
    names = list(choice.weights.parts)
    if projector is not None:
        names.append(choice.projectors[candidates.index(projector.path)])
    return InstalledModel(
        ref, weights, projector.path if projector else None, "hub", repository, commit, tuple(names)
    )  # fmt: skip


def _snapshot_paths(cache: HubCache, repository: str, commit: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    folder = cache.snapshot(repository, commit)
    return tuple(folder / name for name in names)


def _from_import(entry: imported.ImportedModel) -> InstalledModel:
    made_from = f"{entry.published_as} in {entry.origin}" if entry.published_as else entry.origin
    receipt = Receipt(made_from, entry.left_out, entry.version)
    return InstalledModel(
        ModelRef("name", entry.name), entry.weights, entry.projector, entry.origin, receipt=receipt
    )  # fmt: skip
