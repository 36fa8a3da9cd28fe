"""Opens a model that a request names, without loading it: finds its files and its settings."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...models.errors import NotFound
from ...models.files import ModelFiles
from ...models.log import log_once
from ...models.registry import installed
from ...models.registry.name import parse_ref
from ..config import ModelConfig
from .presets import find_preset, resolve_model, resolve_preset
from .resident import ResidentModel

MAX_NAME_CHARACTERS = 250
"""A longer name is not that of a file, and the system refuses to look for it."""


class ModelOpener:
    """Opens installed models and presets, whose own options take precedence over those given here.

    `loading` are options by their names in the table. `keep_alive` is the time in seconds after which an idle model is
    unloaded.
    """

    def __init__(self, loading: Mapping[str, Any], keep_alive: float) -> None:
        self._loading = loading
        self._keep_alive = keep_alive

    def __call__(self, name: str) -> ResidentModel:
        """Raises `NotFound`, also for a path: clients may use installed models and presets only."""
        if len(name) > MAX_NAME_CHARACTERS:
            raise NotFound(f"there is no model {name!r:.100} on this machine: the name is too long", "model")
        preset = find_preset(name)
        if preset is None and parse_ref(name).kind == "path":
            raise NotFound(
                f"there is no model {name!r:.100} on this machine; GET /v1/models lists the models, and "
                "galago import FILE adds one",
                "model",
            )
        if preset is not None:
            own = {key: value for key, value in self._loading.items() if key not in preset.loading}
            resolved = resolve_preset(preset, own)
            files = resolved.files
        else:
            resolved = resolve_model(name, self._loading)
            files = replace(resolved.files, id=_listed_name(resolved.files))
        keep_alive = self._keep_alive if resolved.keep_alive is None else resolved.keep_alive
        names = resolved.aliases if preset else None
        config = _limited(resolved.config, files)
        model = ResidentModel(files, config, isolated=True, keep_alive=keep_alive, own_names=names)
        model.state = "unloaded"
        return model


def _limited(config: ModelConfig, files: ModelFiles) -> ModelConfig:
    """The settings with a context that the model was trained for: the server's options are for all models."""
    most = files.header.context_length
    if most is None or config.context_length is None or config.context_length <= most:
        return config
    log_once(f"{files.id} was trained for {most} tokens: its context is not longer, whatever --context says")
    return replace(config, context_length=most)


def _listed_name(files: ModelFiles) -> str:
    """The name under which a model is listed, however it was spelled."""
    for model in installed.all_models():
        with contextlib.suppress(OSError):
            if model.weights and _is_same(model.weights[0], files.weights):
                return str(model.ref)
    return files.id


def _is_same(one: Path, other: Path) -> bool:
    return one == other or one.samefile(other)
