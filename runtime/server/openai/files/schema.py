"""The JSON shapes of `/v1/files`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, field

Purpose: TypeAlias = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]


class Upload(Struct):
    """`POST /v1/files`, as multipart/form-data."""

    file: Annotated[Any, Meta(extra_json_schema={"type": "string", "contentMediaType": "application/octet-stream"})]
    purpose: Purpose
    anchor: Literal["created_at"] | None = field(default=None, name="expires_after[anchor]")
    seconds: int | None = field(default=None, name="expires_after[seconds]")


class FileObject(Struct):
    """`bytes` is the size; times are in seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    object: str = "file"
    status: str = "processed"


class FileList(Struct):
    data: Sequence[FileObject]
    has_more: bool
    first_id: str | None | UnsetType = UNSET
    last_id: str | None | UnsetType = UNSET
    object: str = "list"


class Deleted(Struct):
    id: str
    deleted: bool = True
    object: str = "file"
