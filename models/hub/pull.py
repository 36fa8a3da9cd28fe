"""Brings a model here: what its name stands for on the Hub, which files that takes, whether they fit each other.

The pair is judged by the beginnings of its files before gigabytes are transferred, and again when all is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ModelError, NotFound
from ..gguf.header import GGUFHeader
from ..gguf.reader import read_header, read_leading_metadata
from ..registry import installed, pairing
from ..registry.installed import InstalledModel, Wanted
from ..registry.name import ModelRef
from . import client, download
from .cache import HubCache
from .client import HubFile, HubRepository

_LEADING_BYTES = 1 << 20
"""Bytes that hold a header's keys up to the vocabulary; `general.*` and the widths stand before it."""
_MAX_PROJECTORS = 8


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull will do. `missing` are the files that are not here yet."""

    ref: ModelRef
    wanted: Wanted
    repository: HubRepository
    files: tuple[HubFile, ...]
    missing: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


def plan(ref: ModelRef, store: HubCache | None = None) -> PullPlan:
    """Asks the Hub what a name stands for. Raises `NotFound`, `HubError`, or `ModelError` for files that do not fit."""
    if ref.kind not in ("name", "hub"):
        raise NotFound(f"{ref} is on this disk, not on the Hub; there is nothing to pull", "model")
    store = store or HubCache(client.cache_root())
    wanted = installed.wanted(ref)
    repository = client.fetch_repository(wanted.repository, ref.revision or "main")
    remote = {file.name: file for file in repository.files}
    choice = wanted.choose(list(remote), ref.quant)
    weights = [remote[name] for name in choice.weights.parts]
    projectors = [remote[name] for name in choice.projectors[:_MAX_PROJECTORS]]
    if wanted.entry and wanted.entry.projector and not projectors:
        raise ModelError(f"{repository.name} has no projector, which {ref} needs", "model")
    download.check_names(repository, [*weights, *projectors])
    projector = _matching_projector(repository, weights[0], projectors, store)
    files = (*weights, *([projector] if projector else ()))
    return PullPlan(ref, wanted, repository, files, tuple(download.missing_files(repository, files, store)))


def pull(plan: PullPlan, report: download.DownloadProgress, store: HubCache | None = None) -> InstalledModel:
    """Does it. Only when every file is here and right is the revision's name moved to the new commit."""
    store = store or HubCache(client.cache_root())
    repository = plan.repository
    paths = download.download(repository, plan.files, store, report)
    headers = [read_header(path) for path in paths]
    pairing.check_parts(headers[0], [f.name for f in plan.files if not headers[plan.files.index(f)].is_projector])
    store.set_revision(repository.name, repository.revision, repository.commit)
    return installed.find(replace(plan.ref, revision=plan.ref.revision and repository.commit))


def _matching_projector(
    repository: HubRepository, weights: HubFile, projectors: Sequence[HubFile], store: HubCache
) -> HubFile | None:
    """The first projector that goes with the weights, by the beginnings of both."""
    model = _read_leading_header(repository, weights, store)
    if model.is_projector:
        raise ModelError(f"{weights.name} of {repository.name} is a projector, not a model", "model")
    candidates = [_read_leading_header(repository, file, store) for file in projectors]
    found = pairing.pick_projector(model, candidates)
    return projectors[candidates.index(found)] if found is not None else None


def _read_leading_header(repository: HubRepository, file: HubFile, store: HubCache) -> GGUFHeader:
    """The keys at the start of a file, here or on the Hub, as a header without tensors."""
    blob = store.blob(repository.name, file.etag)
    if blob.is_file() and blob.stat().st_size == file.size:
        with blob.open("rb") as opened:
            data = opened.read(_LEADING_BYTES)
    else:
        data = client.fetch_start(repository, file.name, min(_LEADING_BYTES, file.size))
    path = Path(file.name)
    return GGUFHeader(path, 3, read_leading_metadata(data, path), (), 0, file.size)
