"""Runs the application: listens, loads the model while requests are already accepted, and shuts down."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from functools import partial

import uvicorn

from ...models.errors import ConfigError
from ..config import ServerConfig
from ..process.limits import return_freed_memory
from ..service import Service
from ..types.limits import limit
from .app import ERROR_RESPONSES, build
from .http.security import ConnectionLimits, LimitedConnection
from .http.sockets import LimitedSocket

BACKLOG = 2048
"""Connections that may wait to be accepted. The operating system makes further clients try again after a second."""

SHUTDOWN_SECONDS = 3
"""Time for connections to close after the answers in progress have been ended."""


def serve(service: Service, config: ServerConfig, log: Callable[[str], None]) -> None:
    """Runs until interrupted. `log` gets a line when the port is open and one when the model is ready.

    Raises the error that kept the model from loading, and `ConfigError` if it cannot listen on the port.
    """
    return_freed_memory()
    listener = _listen(config)
    application = build(service, config)
    limits = ConnectionLimits(application.state.budget, ERROR_RESPONSES)
    settings = uvicorn.Config(
        application,
        http=partial(LimitedConnection, limits=limits),  # type: ignore[arg-type]
        ws=partial(LimitedSocket, limits=limits),  # type: ignore[arg-type]
        backlog=BACKLOG,
        timeout_keep_alive=limit("idle_seconds"),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        ws_max_size=limit("body_bytes"),
        ws_per_message_deflate=False,
    )
    server = _Server(settings, service)
    errors: list[BaseException] = []

    def load() -> None:
        try:
            service.load()
            for model in service.models():
                for warning in model.warnings:
                    log(f"warning: {warning}")
                log(f"{model.id} is ready")
        except BaseException as error:  # raised below, on the thread that reports it
            errors.append(error)
            server.should_exit = True

    log(f"listening on {_url(listener)}")
    threading.Thread(target=load, name="galago-load", daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        service.close()
    if errors:
        raise errors[0]


class _Server(uvicorn.Server):
    """At shutdown, closes the service first, so that answers in progress end with an error that their clients get."""

    def __init__(self, settings: uvicorn.Config, service: Service) -> None:
        super().__init__(settings)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # set again: asyncio accepts as many at once as may wait

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = threading.Thread(target=self._service.close)  # the loop's threads may all be waiting for the model
        closing.start()
        await asyncio.to_thread(closing.join)
        await super().shutdown(sockets)


def _listen(config: ServerConfig) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port}: {reason}; choose another --host or --port", "port"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
