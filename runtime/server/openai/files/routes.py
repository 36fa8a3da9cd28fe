"""`/v1/files`: uploads, lists, contents and their removal. I/O only."""

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
from ...http import pagination, request_io
from ...http.openapi import FORM, Endpoint, RouteDescription
from ...storage.database import OPTION
from ...storage.file_store import FileStore
from .schema import Deleted, FileList, FileObject, Purpose, Upload

PURPOSES = get_args(Purpose)
_LONGEST_NAME = 255
_CHUNK = 1 << 20
_MOST_LISTED = 10_000
_SOONEST, _LATEST = 3600, 30 * 86_400  # seconds until a file expires, as in OpenAI's API

_ERRORS = (InvalidRequest, NotFound, ConfigError)

CREATE = RouteDescription(
    "Keep a file",
    {200: FileObject},
    body=Upload,
    media=FORM,
    errors=_ERRORS,
    method="POST",
    bounds={"expires_after[seconds]": (_SOONEST, _LATEST)},
)
LIST = RouteDescription(
    "The files that are kept, the newest first",
    {200: FileList},
    errors=_ERRORS,
    query=pagination.query(_MOST_LISTED) | {"purpose": {"type": "string"}},
)
SHOW = RouteDescription("One file", {200: FileObject}, errors=_ERRORS)
DELETE = RouteDescription("Delete a file", {200: Deleted}, errors=_ERRORS, method="DELETE")
CONTENT = RouteDescription("The bytes of a file", {200: "application/octet-stream"}, errors=_ERRORS)


class Files:
    """Answers over a shelf; without one, by saying which option makes it."""

    def __init__(self, shelf: FileStore | None) -> None:
        self._kept = shelf

    def routes(self, prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/files", self.create, CREATE),
            Endpoint(f"{prefix}/files", self.list, LIST),
            Endpoint(f"{prefix}/files/{{id}}", self.show, SHOW),
            Endpoint(f"{prefix}/files/{{id}}", self.delete, DELETE),
            Endpoint(f"{prefix}/files/{{id}}/content", self.content, CONTENT),
        ]

    async def create(self, request: Request) -> Response:
        shelf = self._shelf("file")
        try:
            async with request.form(max_files=1, max_fields=16) as form:
                file, purpose = form.get("file"), form.get("purpose")
                expires_at = _expiry(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"))
                if not isinstance(file, UploadFile):
                    raise InvalidRequest("file is missing: send it as multipart/form-data, with its purpose", "file")
                if not isinstance(purpose, str) or purpose not in PURPOSES:
                    message = f"purpose is {purpose!r:.100}, and must be one of {', '.join(PURPOSES)}"
                    raise InvalidRequest(message, "purpose")
                name = "".join(c if c.isprintable() else "?" for c in file.filename or "file")[-_LONGEST_NAME:]
                kept = await asyncio.to_thread(shelf.add, _chunks(file.file), name, purpose, expires_at)
        except HTTPException as error:
            raise InvalidRequest(f"the form cannot be read: {error.detail}", "file") from None
        except ClientDisconnect:
            raise Cancelled("the client went away while it sent the file") from None
        return request_io.whole(kept)

    async def list(self, request: Request) -> Response:
        query = request.query_params
        limit, newest_first = pagination.limit(query, _MOST_LISTED), pagination.newest_first(query)
        purpose, after = query.get("purpose"), query.get("after")
        shelf = self._shelf("files")
        files, more = await asyncio.to_thread(shelf.page, purpose, after, limit, newest_first)
        ends = (files[0].id, files[-1].id) if files else (None, None)
        return request_io.whole(FileList(files, more, *ends))

    async def show(self, request: Request) -> Response:
        shelf = self._shelf("file_id")
        return request_io.whole(await asyncio.to_thread(shelf.get, request.path_params["id"]))

    async def content(self, request: Request) -> Response:
        shelf = self._shelf("file_id")
        file = await asyncio.to_thread(shelf.get, request.path_params["id"])
        return FileResponse(shelf.path(file.id), media_type="application/octet-stream", filename=file.filename)

    async def delete(self, request: Request) -> Response:
        name = request.path_params["id"]
        await asyncio.to_thread(self._shelf("file_id").delete, name)
        return request_io.whole(Deleted(name))

    def read(self, name: str, field: str) -> bytes:
        """The bytes of a file that a request refers to in a field."""
        return self._shelf(field).read(name, field)

    def _shelf(self, field: str) -> FileStore:
        if self._kept is None:
            raise InvalidRequest(f"{field}: this server keeps no files; {OPTION} makes it", field)
        return self._kept


def _expiry(anchor: Any, seconds: Any) -> int | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("expires_after[anchor] must be created_at", "expires_after")
    asked = int(seconds) if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) < 10 else seconds
    check_number("expires_after", asked if asked is not None else "", _SOONEST, _LATEST, whole=True)
    return int(time.time()) + int(asked)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
