"""Names a smaller variant of a model that does not fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...models.errors import GalagoError, ModelError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ...models.registry import catalog, installed
from ...models.registry.name import parse_ref


def smaller_variant(files: ModelFiles, excess: int) -> str | None:
    """Returns what to use or download in place of a model: its largest variant that is smaller by `excess` bytes.

    Installed variants come first, then those of the catalog. Returns `None` if there is none.
    """
    most = sum(path.stat().st_size for path in files.parts) - excess
    for variants in (_installed(files), _published(files)):
        size, name = max(((size, name) for size, name in variants if size <= most), default=(0, None))
        if name is not None:
            return name
    return None


def _installed(files: ModelFiles) -> Iterator[tuple[int, str]]:
    """Yields the bytes and names of installed models whose files give the same name to the model."""
    for model in installed.all_models():
        with contextlib.suppress(OSError, ModelError):
            header = read_header(model.weights[0])
            if (header.architecture, header.name) == (files.header.architecture, files.header.name):
                yield sum(path.stat().st_size for path in model.weights), str(model.ref)


def _published(files: ModelFiles) -> Iterator[tuple[int, str]]:
    """Yields the bytes of the catalog's quantizations of the model, and how to download them."""
    with contextlib.suppress(GalagoError):
        entry = catalog.find(parse_ref(files.id).name)
        if entry is None:
            return
        for quant in entry.quants:
            if size := quant.weights or quant.total:
                yield size, f"{entry.name}:{quant.name} (galago pull {entry.name}:{quant.name})"
