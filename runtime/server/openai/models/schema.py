"""The JSON shapes of `/v1/models`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from ....types.model_info import ModelState


class ModelCard(Struct):
    """A model. `seconds_left` is as in `ModelStatus`."""

    id: str
    created: int
    context_length: int
    input_modalities: list[str]
    parameters: int
    size_bytes: int
    description: str
    loaded: bool
    state: ModelState
    seconds_left: float | UnsetType = UNSET
    object: Literal["model"] = "model"
    owned_by: str = "galago"


class ModelList(Struct):
    data: list[ModelCard]
    object: Literal["list"] = "list"


class ModelStatus(Struct):
    """What a model does.

    `memory_bytes` is what it may take. `keep_alive` is in seconds, -1 if it stays loaded. `seconds_left` is the time
    until it is unloaded if no request comes, and left out while it is used or stays loaded.
    """

    id: str
    state: ModelState
    busy: bool
    memory_bytes: int
    keep_alive: float
    seconds_left: float | UnsetType = UNSET
    object: Literal["model.status"] = "model.status"


class LoadRequest(Struct):
    """`POST /v1/models/{id}/load`; the body may be left out."""

    keep_alive: float | str | None = None
