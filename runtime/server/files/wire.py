"""The JSON shapes of `/v1/files`. Holds no behaviour."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType


class FileObject(Struct):
    """`bytes` counts them; times are in seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    object: str = "file"
    status: str = "processed"


class FileList(Struct):
    data: list[FileObject]
    has_more: bool
    first_id: str | None | UnsetType = UNSET
    last_id: str | None | UnsetType = UNSET
    object: str = "list"


class Deleted(Struct):
    id: str
    deleted: bool = True
    object: str = "file"
