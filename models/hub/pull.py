"""Pulls a model from the Hub: finds its files, checks that they belong together, and downloads them.

Weights and projector are checked against each other by the first bytes of their files, before gigabytes are
transferred, and again after the download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ModelError, NotFound
from ..gguf.header import GGUFHeader
from ..gguf.reader import read_header, read_leading_metadata
from ..registry import installed, pairing
from ..registry.installed import InstalledModel
from ..registry.name import ModelRef
from ..regular_file import open_regular
from . import client, connection, download
from .cache import HubCache
from .client import HubFile, HubRepository
from .source import HubSource, find_source

_LEADING_BYTES = 1 << 20
"""Contains a header's keys up to the vocabulary; `general.*` and the embedding widths come before it."""
_MAX_PROJECTORS = 8


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull will do. `missing` are the files that are not in the cache yet."""

    ref: ModelRef
    source: HubSource
    repository: HubRepository
    files: tuple[HubFile, ...]
    missing: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def plan(ref: ModelRef, cache: HubCache | None = None) -> PullPlan:
    """Asks the Hub which files a model has.

    Raises `NotFound`, `HubError`, or `ModelError` for weights and projectors that do not belong together.
    """
    if ref.kind not in ("name", "hub"):
        raise NotFound(f"{ref} is a model on this machine, not on the Hub; there is nothing to pull", "model")
    cache = cache or HubCache(connection.cache_root())
    source = find_source(ref)
    repository = client.fetch_repository(source.repository, ref.revision or "main")
    files_by_name = {file.name: file for file in repository.files}
    selection = source.select(list(files_by_name), ref.quant)
    weights = [files_by_name[name] for name in selection.weights.parts]
    projectors = [files_by_name[name] for name in selection.projectors[:_MAX_PROJECTORS]]
    if source.entry and source.entry.projector and not projectors:
        raise ModelError(f"{repository.name} has no projector, which {ref} needs", "model")
    download.check_names(repository, [*weights, *projectors])
    projector = _matching_projector(repository, weights[0], projectors, cache)
    files = (*weights, *([projector] if projector else ()))
    return PullPlan(ref, source, repository, files, tuple(download.missing_files(repository, files, cache)))


def pull(plan: PullPlan, progress: download.DownloadProgress, cache: HubCache | None = None) -> InstalledModel:
    """Carries out a plan. The revision points to the new commit only once every file is complete and correct."""
    cache = cache or HubCache(connection.cache_root())
    repository = plan.repository
    paths = download.download(repository, plan.files, cache, progress)
    headers = [read_header(path) for path in paths]
    parts = [file.name for file, header in zip(plan.files, headers, strict=True) if not header.is_projector]
    pairing.check_parts(headers[0], parts)
    cache.set_revision(repository.name, repository.revision, repository.commit)
    return installed.find(replace(plan.ref, revision=plan.ref.revision and repository.commit))


def _matching_projector(
    repository: HubRepository, weights: HubFile, projectors: Sequence[HubFile], cache: HubCache
) -> HubFile | None:
    """Returns the first projector that belongs to the weights, by the first bytes of both."""
    model = _read_leading_header(repository, weights, cache)
    if model.is_projector:
        raise ModelError(f"{weights.name} of {repository.name} is a projector, not a model", "model")
    candidates = [_read_leading_header(repository, file, cache) for file in projectors]
    match = pairing.pick_projector(model, candidates)
    return projectors[candidates.index(match)] if match is not None else None


def _read_leading_header(repository: HubRepository, file: HubFile, cache: HubCache) -> GGUFHeader:
    """Reads the keys at the start of a file in the cache or on the Hub, as a header without tensors."""
    blob = cache.blob_path(repository.name, file.etag)
    if blob.is_file() and blob.stat().st_size == file.size:
        with open_regular(blob) as opened:
            data = opened.read(_LEADING_BYTES)
    else:
        data = client.fetch_start(repository, file.name, min(_LEADING_BYTES, file.size))
    path = Path(file.name)
    return GGUFHeader(path, 3, read_leading_metadata(data, path), (), 0, file.size)
