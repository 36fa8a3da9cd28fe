"""Runs the application: listens, loads the model while requests are already accepted, and shuts down."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn

from ...models.errors import ConfigError
from ..config import ServerConfig
from ..process.limits import return_freed_memory
from ..service import Service
from ..types.limits import limit
from . import signals
from .app import ERROR_RESPONSES, build
from .http.security import ConnectionLimits, LimitedConnection
from .http.sockets import LimitedSocket
from .resource import ServerContext
from .tracebacks import WithoutMessages

BACKLOG = 2048
"""Connections that may wait to be accepted. The operating system makes further clients try again after a second."""

_POLL_SECONDS = 0.05

SHUTDOWN_SECONDS = 3
"""Time for connections to close after the answers in progress have been ended."""


def serve(service: Service, config: ServerConfig, log: Callable[[str], None]) -> None:
    """Runs until interrupted. `log` gets a line when the port is open and one when the model is ready.

    Raises the error that kept the model from loading, and `ConfigError` if it cannot listen on the port.
    """
    return_freed_memory()
    listener = _listen(config)
    application = build(service, config)
    context: ServerContext = application.state.context
    signals.on_hangup(context.accounts.reload)
    limits = ConnectionLimits(context.budget, ERROR_RESPONSES)
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
    logging.getLogger("uvicorn.error").addFilter(WithoutMessages())
    server = _Server(settings, context, log)
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
    """At SIGTERM, takes no new requests and lets the running ones finish, for a time. A second signal ends that time.

    Then it closes the service, so that answers in progress end with an error that their clients get.
    """

    def __init__(self, settings: uvicorn.Config, context: ServerContext, log: Callable[[str], None]) -> None:
        super().__init__(settings)
        self._context = context
        self._log = log
        self._grace_seconds = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_first = sig == signal.SIGTERM and not self.should_exit
        self._grace_seconds = self._context.config.grace_seconds if is_first else 0.0
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        signals.server_runs()
        for listener in sockets or ():
            listener.listen(BACKLOG)  # set again: asyncio accepts as many at once as may wait

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        await self._finish_requests()
        # the loop's threads may all be waiting for the model
        closing = threading.Thread(target=self._context.service.close)
        closing.start()
        await asyncio.to_thread(closing.join)
        await super().shutdown(sockets)

    async def _finish_requests(self) -> None:
        """Waits until nothing runs, at most for the time of grace, and closes connections that wait for a request."""
        began, shutdown = time.monotonic(), self._context.shutdown
        shutdown.has_begun = True
        is_logged = False
        while time.monotonic() - began < self._grace_seconds:
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedSocket):
                    connection.end()
                else:
                    connection.shutdown()
            await asyncio.sleep(_POLL_SECONDS)
            state = self.server_state
            if not (state.connections or state.tasks or self._context.foreground or shutdown.batch_lines):
                return
            if not is_logged:
                is_logged = True
                self._log(f"running requests have {self._grace_seconds:g} s to finish")


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
