"""The JSON shapes of `/v1/models`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ModelCard(Struct):
    id: str
    created: int
    context_length: int
    input_modalities: list[str]
    parameters: int
    size_bytes: int
    description: str
    loaded: bool
    object: Literal["model"] = "model"
    owned_by: str = "galago"


class ModelList(Struct):
    data: list[ModelCard]
    object: Literal["list"] = "list"
