"""`/api/pull` and `/api/delete`, if the user has allowed them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator

from ....models.errors import Cancelled, Forbidden, GalagoError, InvalidRequest, NotFound
from ....models.hub import pull
from ....models.hub.client import HubFile
from ....models.presets import remove_table
from ....models.registry import removal
from ....models.registry.name import parse_ref
from ...pool.presets import find_preset
from ...service import Service
from . import schema

_PROGRESS_BYTES = 1 << 22
"""Bytes between two lines about the progress of a file."""


async def pull_model(name: str) -> AsyncGenerator[schema.Status, None]:
    """Downloads a model and reports progress. Stops when the client leaves; what has been downloaded is kept."""
    lines: queue.SimpleQueue[schema.Status | GalagoError | None] = queue.SimpleQueue()
    disconnected = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(_pull, name, lines, disconnected))
    try:
        while (line := await asyncio.to_thread(lines.get)) is not None:
            if isinstance(line, GalagoError):
                raise line
            yield line
        await work
    finally:
        disconnected.set()


def _pull(
    name: str, lines: queue.SimpleQueue[schema.Status | GalagoError | None], disconnected: threading.Event
) -> None:
    reported_bytes: dict[HubFile, int] = {}

    def report(file: HubFile, done_bytes: int) -> None:
        if disconnected.is_set():
            raise Cancelled("the client that asked for this model disconnected")
        if done_bytes == file.size or done_bytes - reported_bytes.get(file, -_PROGRESS_BYTES) >= _PROGRESS_BYTES:
            reported_bytes[file] = done_bytes
            digest = f"sha256:{file.etag}"
            lines.put(schema.Status(f"pulling {file.etag[:12]}", digest, file.size, done_bytes))

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


def delete_model(service: Service, name: str) -> None:
    """Deletes a preset or a model, which is unloaded first.

    Raises `NotFound`, and `InvalidRequest` if the model always stays loaded or was not downloaded.
    """
    if preset := find_preset(name):
        if service.is_loaded(name) and service.loads_on_demand:
            service.unload_model(name)
        remove_table(preset.name)
        return
    ref = parse_ref(name)
    if service.is_loaded(name) and not service.loads_on_demand:
        raise InvalidRequest(f"{name} is loaded; stop the server before you delete it", "model")
    if ref.kind == "builtin":
        raise NotFound("the built-in model is part of Galago and cannot be deleted", "model")
    if ref.kind == "path":
        raise NotFound(f"there is no model {name!r:.100} on this machine", "model")
    if service.is_loaded(name):
        service.unload_model(name)
    removal.remove(ref)


def check_allowed(allowed: bool, option: str, command: str = "") -> None:
    """Raises `Forbidden` unless the user has allowed it with --allow-OPTION. `command` is by default the same word."""
    if not allowed:
        raise Forbidden(
            f"this server does not let clients do this; allow it with `galago serve --allow-{option}`, or run "
            f"`galago {command or option}`"
        )
