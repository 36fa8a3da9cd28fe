"""Pulls a model from the Hub: finds its files, checks that they belong together, and downloads them.

Weights and projector are checked against each other by the first bytes of their files, before gigabytes are
transferred, and again after the download.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import GGUFError, ModelError, NotFound
from ..gguf.file_name import quant_of, split_name, usual_quant, without_quant
from ..gguf.header import GGUFHeader
from ..gguf.kind import check_is_model, kind_of, kinds_by_name, with_header
from ..gguf.reader import read_header, read_leading_metadata
from ..registry import installed, pairing
from ..registry.installed import InstalledModel
from ..registry.name import ModelRef
from ..registry.selection import WeightSet
from ..regular_file import open_regular
from . import client, connection, download, mirrors
from .cache import HubCache
from .client import HubFile, HubRepository
from .source import HubSource, find_source

_LEADING_BYTES = 1 << 20
"""Contains a header's keys up to the vocabulary; `general.*` and the embedding widths come before it."""
_MAX_PROJECTORS = 8
_MAX_OTHERS = 4
"""Files with other names to read at most, if no file is named like a projector or several weights fit."""


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull will do. `missing` are the files that are not in the cache yet.

    `is_checked` is false if the Hub was not asked, because the user is offline and the model is installed.
    """

    ref: ModelRef
    source: HubSource
    repository: HubRepository
    files: tuple[HubFile, ...]
    missing: tuple[HubFile, ...]
    is_checked: bool = True

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def plan(ref: ModelRef, cache: HubCache | None = None) -> PullPlan:
    """Asks the Hub which files a model has.

    Raises `NotFound`, `HubError`, or `ModelError` for weights and projectors that do not belong together.
    """
    if ref.kind not in ("name", "hub"):
        raise NotFound(f"{ref} is a model on this machine, not on the Hub{_hint(ref)}", "model")
    cache = cache or HubCache(connection.cache_root())
    source = find_source(ref)
    if connection.is_offline():
        return _offline_plan(ref, source, cache)
    repository = client.fetch_repository(source.repository, ref.revision or "main")
    listing = _Listing(repository, cache)
    files = listing.select(source, ref.quant)
    if source.entry and source.entry.projector and len(files) == 1:
        raise ModelError(f"{repository.name} has no projector, which {ref} needs", "model")
    if ref.kind == "hub":
        ref = replace(ref, name=repository.name)
    return PullPlan(ref, source, repository, files, tuple(download.missing_files(repository, files, cache)))


def _offline_plan(ref: ModelRef, source: HubSource, cache: HubCache) -> PullPlan:
    """Returns a plan that leaves an installed model as it is. Raises `HubError` for any other."""
    try:
        model = installed.find(ref)
    except NotFound as error:
        raise connection.offline_error() from error
    if not model.repository:
        raise connection.offline_error()
    links = cache.links(model.repository)
    files = tuple(
        HubFile(name, path.stat().st_size, links.get(path, ""))
        for name, path in zip(model.names, model.paths, strict=True)
    )
    hub = mirrors.source_of(model.repository, model.commit) or mirrors.DEFAULT_ENDPOINT
    repository = HubRepository(model.repository, ref.revision or "main", model.commit, files, "", False, hub)
    return PullPlan(ref, source, repository, files, (), is_checked=False)


def _hint(ref: ModelRef) -> str:
    """Says how to name a file in a repository, if a path may mean that."""
    owner, _, rest = ref.name.partition("/")
    name, _, file = rest.partition("/")
    if ref.kind != "path" or not file or owner.startswith((".", "~")) or not owner:
        return "; there is nothing to pull"
    command = f"galago pull {shlex.quote(f'{owner}/{name}:{file}')}"
    return f". If it is a file of the repository {owner}/{name}, write: {command}"


def pull(plan: PullPlan, progress: download.DownloadProgress, cache: HubCache | None = None) -> InstalledModel:
    """Carries out a plan. The revision points to the new commit only once every file is complete and correct.

    Raises `HubError`, or `ModelError` if the files turn out not to be a model; then the downloaded files are deleted.
    """
    if not plan.is_checked:
        return installed.find(plan.ref)
    cache = cache or HubCache(connection.cache_root())
    repository = plan.repository
    paths = download.download(repository, plan.files, cache, progress)
    try:
        _check_headers(plan, [read_header(path) for path in paths])
    except ModelError:
        cache.remove(repository.name, repository.commit, [file.name for file in plan.missing])
        raise
    cache.set_revision(repository.name, repository.revision, repository.commit)
    mirrors.remember(repository.name, repository.commit, repository.endpoint)
    return installed.find(replace(plan.ref, revision=plan.ref.revision and repository.commit))


def _check_headers(plan: PullPlan, headers: Sequence[GGUFHeader]) -> None:
    """Checks the files by their whole headers. Raises `ModelError`."""
    check_is_model(headers[0])
    parts = [file.name for file, header in zip(plan.files, headers, strict=True) if not header.is_projector]
    pairing.check_parts(headers[0], parts)


class _Listing:
    """The files of a repository, the kind of each, and the first keys of those that were read.

    File names only suggest kinds; the headers of the files that matter decide.
    """

    def __init__(self, repository: HubRepository, cache: HubCache) -> None:
        self._repository = repository
        self._cache = cache
        self._files = {file.name: file for file in repository.files}
        self._kinds = dict(kinds_by_name(self._files))
        self._headers: dict[str, GGUFHeader] = {}
        self._has_tensors: dict[str, bool] = {}

    def select(self, source: HubSource, quant: str) -> tuple[HubFile, ...]:
        """Returns the weights and the projector that belongs to them. Raises `NotFound`, `HubError` or `ModelError`."""
        while not all([self._is_as_named(name) for name in self._doubtful(source, quant)]):
            pass  # other files fit, now that these have other kinds
        choice = source.select(list(self._files), quant, self._kinds)
        if source.projector is not None and not choice.projectors:
            self._read_other_names(choice.weights)
        for name in choice.projectors[:_MAX_PROJECTORS]:
            self._is_as_named(name)
        candidates = source.select(list(self._files), quant, self._kinds).projectors[:_MAX_PROJECTORS]
        headers = {name: self._header(name) for name in candidates}
        match = pairing.pick_projector(self._header(choice.weights.parts[0]), list(headers.values()))
        names = [*choice.weights.parts, *(name for name, header in headers.items() if header is match)]
        files = [self._files[name] for name in names]
        download.check_names(self._repository, files)
        return tuple(files)

    def _doubtful(self, source: HubSource, quant: str) -> list[str]:
        """Returns the files whose kinds decide the choice: the weights that fit, or else files not named as models."""
        if sets := source.fitting_sets(self._kinds, quant):
            return [group.parts[0] for group in sets[:_MAX_OTHERS]]
        others = [name for name, kind in self._kinds.items() if kind not in ("model", "part", "draft")]
        return [name for name in others if not quant or quant_of(name) == usual_quant(quant)][:_MAX_OTHERS]

    def _is_as_named(self, name: str) -> bool:
        """Whether a file is of the kind that its name suggests. Corrects the kind if not."""
        header, expected = self._header(name), self._kinds[name]
        tensors = None if self._has_tensors[name] else ()  # the start of a file only says how many there are
        self._kinds[name] = with_header(expected, kind_of(header.metadata, tensors))
        return self._kinds[name] == expected

    def _read_other_names(self, weights: WeightSet) -> None:
        """Corrects the kinds of files that are named differently from the weights, if they are few."""
        own = without_quant(weights.stem)
        others = [n for n, kind in self._kinds.items() if kind == "model" and without_quant(split_name(n)[0]) != own]
        if len(others) <= _MAX_OTHERS:
            for name in others:
                with contextlib.suppress(GGUFError):
                    self._is_as_named(name)

    def _header(self, name: str) -> GGUFHeader:
        """Reads the keys at the start of a file in the cache or on the Hub, as a header without tensors."""
        if name not in self._headers:
            file = self._files[name]
            download.check_names(self._repository, [file])
            blob = self._cache.blob_path(self._repository.name, file.etag)
            if blob.is_file() and blob.stat().st_size == file.size:
                with open_regular(blob) as opened:
                    data = opened.read(_LEADING_BYTES)
            else:
                data = client.fetch_start(self._repository, name, min(_LEADING_BYTES, file.size))
            path = Path(name)
            self._has_tensors[name] = any(data[8:16])
            self._headers[name] = GGUFHeader(path, 3, read_leading_metadata(data, path), (), 0, file.size)
        return self._headers[name]
