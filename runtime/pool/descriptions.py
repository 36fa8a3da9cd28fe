"""Describes models that are not loaded, from the headers of their files."""

from __future__ import annotations

import contextlib
from typing import Literal

from ...models.errors import GalagoError
from ...models.files import ModelFiles
from ...models.gguf.reader import read_header
from ...models.registry import installed
from ...models.registry.installed import InstalledModel
from ..types.model_info import ModelInfo
from ..types.request import Sampling, recommended_sampling
from .budget import default_context


def describe_installed(model: InstalledModel) -> ModelInfo:
    """Describes a model on this disk. Raises `ModelError` if its files are damaged."""
    facts = installed.summarize(model)
    title = "".join(c if c.isprintable() else "?" for c in facts.title[:80])
    return ModelInfo(
        id=str(model.ref),
        description=f"{title}, {facts.quant}",
        context_length=facts.context or 0,
        parameters=facts.parameters,
        size_bytes=model.size,
        vision=facts.vision,
        audio=facts.audio,
        created=facts.modified_at,
    )


def describe_files(files: ModelFiles, context_length: int | None) -> ModelInfo:
    """Describes a model as it will be once it is loaded, with a context of `context_length` or its default one."""
    header = files.header
    projector = read_header(files.projector) if files.projector else None
    sampling = Sampling(0.0)
    with contextlib.suppress(GalagoError):  # loading the model warns about settings that cannot be used
        sampling = recommended_sampling(lambda key: _number(header.get(key)))
    kind: Literal["chat", "embedding", "rerank"] = "chat"
    if header.pooling is not None:
        kind = "rerank" if header.pooling == "rank" else "embedding"
    return ModelInfo(
        id=files.id,
        description=header.name,
        context_length=context_length or default_context(files),
        parameters=header.parameters,
        size_bytes=sum(path.stat().st_size for path in files.paths),
        vision=projector is not None and projector.get("clip.has_vision_encoder") is True,
        audio=projector is not None and projector.get("clip.has_audio_encoder") is True,
        created=int(files.weights.stat().st_mtime),
        kind=kind,
        sampling=sampling,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
