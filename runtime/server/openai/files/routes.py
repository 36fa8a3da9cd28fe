"""`/v1/files`: upload, list, download and delete files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, get_args

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from .....models.errors import Cancelled, ConfigError, InvalidRequest, NotFound
from ....types.request import check_number
from ...http import pagination
from ...http.openapi import FORM, Endpoint, RouteDescription
from ...http.request_io import json_response
from ...resource import Resource
from ...storage.file_store import FileStore
from .schema import Deleted, FileList, FileObject, Purpose, Upload

PURPOSES = get_args(Purpose)
_MAX_NAME_CHARACTERS = 255
_CHUNK_BYTES = 1 << 20
_MAX_LISTED = 10_000
_MIN_EXPIRY_SECONDS, _MAX_EXPIRY_SECONDS = 3600, 30 * 86_400  # as in OpenAI's API

_ERRORS = (InvalidRequest, NotFound, ConfigError)

CREATE = RouteDescription(
    "Upload a file",
    {200: FileObject},
    body=Upload,
    media=FORM,
    errors=_ERRORS,
    method="POST",
    bounds={"expires_after[seconds]": (_MIN_EXPIRY_SECONDS, _MAX_EXPIRY_SECONDS)},
)
LIST = RouteDescription(
    "The uploaded files, newest first",
    {200: FileList},
    errors=_ERRORS,
    query=pagination.query_schemas(_MAX_LISTED) | {"purpose": {"type": "string"}},
)
SHOW = RouteDescription("One file", {200: FileObject}, errors=_ERRORS)
DELETE = RouteDescription("Delete a file", {200: Deleted}, errors=_ERRORS, method="DELETE")
CONTENT = RouteDescription("The bytes of a file", {200: "application/octet-stream"}, errors=_ERRORS)


class Files(Resource):
    """Uploaded files need a server with a store."""

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/files", self.create, CREATE),
            Endpoint(f"{prefix}/files", self.list, LIST),
            Endpoint(f"{prefix}/files/{{id}}", self.show, SHOW),
            Endpoint(f"{prefix}/files/{{id}}", self.delete, DELETE),
            Endpoint(f"{prefix}/files/{{id}}/content", self.content, CONTENT),
        ]

    async def create(self, request: Request) -> Response:
        store = self.context.file_store("file")
        try:
            async with request.form(max_files=1, max_fields=16) as form:
                upload, purpose = form.get("file"), form.get("purpose")
                expires_at = _expires_at(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"))
                if not isinstance(upload, UploadFile):
                    raise InvalidRequest("file is missing; send it with its purpose as multipart/form-data", "file")
                if not isinstance(purpose, str) or purpose not in PURPOSES:
                    message = f"purpose is {purpose!r:.100}; it must be one of {', '.join(PURPOSES)}"
                    raise InvalidRequest(message, "purpose")
                name = "".join(c if c.isprintable() else "?" for c in upload.filename or "file")
                name = name[-_MAX_NAME_CHARACTERS:]
                file = await asyncio.to_thread(store.add, _chunks(upload.file), name, purpose, expires_at)
        except HTTPException as error:
            raise InvalidRequest(f"the form data cannot be read: {error.detail}", "file") from None
        except ClientDisconnect:
            raise Cancelled("the client disconnected while it sent the file") from None
        return json_response(file)

    async def list(self, request: Request) -> Response:
        query = request.query_params
        limit, newest_first = pagination.limit(query, _MAX_LISTED), pagination.newest_first(query)
        purpose, after = query.get("purpose"), query.get("after")
        store = self.context.file_store("files")
        files, more = await asyncio.to_thread(store.page, purpose, after, limit, newest_first)
        ends = (files[0].id, files[-1].id) if files else (None, None)
        return json_response(FileList(files, more, *ends))

    async def show(self, request: Request) -> Response:
        store = self.context.file_store("file_id")
        return json_response(await asyncio.to_thread(store.get, request.path_params["id"]))

    async def content(self, request: Request) -> Response:
        store = self.context.file_store("file_id")
        file = await asyncio.to_thread(_checked, store, request.path_params["id"])
        return FileResponse(store.path(file.id), media_type="application/octet-stream", filename=file.filename)

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        await asyncio.to_thread(self.context.file_store("file_id").delete, file_id)
        return json_response(Deleted(file_id))


def _expires_at(anchor: Any, seconds: Any) -> int | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("expires_after[anchor] must be created_at", "expires_after")
    value = int(seconds) if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) < 10 else seconds
    check_number("expires_after", "" if value is None else value, _MIN_EXPIRY_SECONDS, _MAX_EXPIRY_SECONDS, whole=True)
    return int(time.time()) + int(value)


def _checked(store: FileStore, file_id: str) -> FileObject:
    """The file. Raises `NotFound` if there is none, or if it was damaged on the disk."""
    with store.open(file_id, "file_id") as data:
        store.check(file_id, "file_id", data)
    return store.get(file_id)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
