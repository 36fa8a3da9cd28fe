"""`/v1/files`: uploads, lists, contents and their removal. I/O only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ....models.errors import Cancelled, InvalidRequest
from ...values import check_number
from .. import exchange
from ..store import OPTION
from .shelf import Shelf
from .wire import Deleted, FileList

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
_LONGEST_NAME = 255
_CHUNK = 1 << 20
_SOONEST, _LATEST = 3600, 30 * 86_400  # seconds until a file expires, as in OpenAI's API


class Files:
    """Answers over a shelf; without one, by saying which option makes it."""

    def __init__(self, shelf: Shelf | None) -> None:
        self._kept = shelf

    def routes(self, prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/files", self.create, methods=["POST"]),
            Route(f"{prefix}/files", self.list),
            Route(f"{prefix}/files/{{id}}", self.show),
            Route(f"{prefix}/files/{{id}}", self.delete, methods=["DELETE"]),
            Route(f"{prefix}/files/{{id}}/content", self.content),
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
        return exchange.whole(kept)

    async def list(self, request: Request) -> Response:
        query = request.query_params
        limit, order = page(query.get("limit"), 10_000), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest(f"order is {order!r:.100}, and must be asc or desc", "order")
        purpose, after = query.get("purpose"), query.get("after")
        shelf = self._shelf("files")
        files, more = await asyncio.to_thread(shelf.page, purpose, after, limit, order == "desc")
        ends = (files[0].id, files[-1].id) if files else (None, None)
        return exchange.whole(FileList(files, more, *ends))

    async def show(self, request: Request) -> Response:
        shelf = self._shelf("file_id")
        return exchange.whole(await asyncio.to_thread(shelf.get, request.path_params["id"]))

    async def content(self, request: Request) -> Response:
        shelf = self._shelf("file_id")
        file = await asyncio.to_thread(shelf.get, request.path_params["id"])
        return FileResponse(shelf.path(file.id), media_type="application/octet-stream", filename=file.filename)

    async def delete(self, request: Request) -> Response:
        name = request.path_params["id"]
        await asyncio.to_thread(self._shelf("file_id").delete, name)
        return exchange.whole(Deleted(name))

    def read(self, name: str, field: str) -> bytes:
        """The bytes of a file that a request refers to in a field."""
        return self._shelf(field).read(name, field)

    def _shelf(self, field: str) -> Shelf:
        if self._kept is None:
            raise InvalidRequest(f"{field}: this server keeps no files; {OPTION} makes it", field)
        return self._kept


def page(limit: str | None, most: int) -> int:
    """How many to list, from 1 to `most`; all that may be where nothing is said."""
    asked = int(limit) if limit is not None and limit.isdecimal() and len(limit) < 10 else limit
    check_number("limit", asked, 1, most, whole=True)
    return most if asked is None else int(asked)


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
