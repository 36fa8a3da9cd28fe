"""`/api/pull` and `/api/delete`, for users who have allowed them. Knows no wire format but its own lines."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator

from ....models.errors import Cancelled, Forbidden, GalagoError, InvalidRequest, NotFound
from ....models.hub import pull
from ....models.hub.client import HubFile
from ....models.registry import installed
from ....models.registry.name import parse_ref
from ...service import Service
from . import schema

_EVERY = 1 << 22
"""Bytes between two lines about a file."""


async def pulled(name: str) -> AsyncIterator[schema.Status]:
    """Brings a model here and says so on the way. When nobody listens any more it stops; what is here is kept."""
    lines: queue.SimpleQueue[schema.Status | GalagoError | None] = queue.SimpleQueue()
    gone = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(_pull, name, lines, gone))
    try:
        while (line := await asyncio.to_thread(lines.get)) is not None:
            if isinstance(line, GalagoError):
                raise line
            yield line
        await work
    finally:
        gone.set()


def _pull(name: str, lines: queue.SimpleQueue[schema.Status | GalagoError | None], gone: threading.Event) -> None:
    told: dict[HubFile, int] = {}

    def report(file: HubFile, done: int) -> None:
        if gone.is_set():
            raise Cancelled("nobody waits for this model any more")
        if done == file.size or done - told.get(file, -_EVERY) >= _EVERY:
            told[file] = done
            digest = f"sha256:{file.etag}"
            lines.put(schema.Status(f"pulling {file.etag[:12]}", digest, file.size, done))

    try:
        lines.put(schema.Status("pulling manifest"))
        plan = pull.plan(parse_ref(name))
        pull.pull(plan, report)
        for step in ("verifying sha256 digest", "writing manifest", "success"):
            lines.put(schema.Status(step))
    except GalagoError as error:
        lines.put(error)
    finally:
        lines.put(None)


def deleted(service: Service, name: str) -> None:
    """Raises `NotFound`, and `InvalidRequest` for a model that is in use or no download."""
    ref = parse_ref(name)
    if service.serves(name):
        raise InvalidRequest(f"{name} is loaded; stop the server before you delete it", "model")
    if ref.kind == "builtin":
        raise NotFound("the built-in model is a part of Galago and stays", "model")
    if ref.kind == "path":
        raise NotFound(f"there is no model {name!r:.100} here", "model")
    installed.remove(ref)


def check(allowed: bool, command: str) -> None:
    """Raises `Forbidden` for what the user has not allowed."""
    if not allowed:
        raise Forbidden(
            f"clients of this server may not do this: galago serve --allow-{command} allows it, and galago {command} "
            "does it without a server"
        )
