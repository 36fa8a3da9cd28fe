"""Puts routes, guards and error shapes together, and runs them. Loads the model while the port answers already."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...models.errors import ConfigError, GalagoError, MethodNotAllowed, NotFound
from ..config import ServerConfig
from ..service import Service
from . import errors, metrics, wire
from .anthropic.routes import Messages
from .batches.routes import Batches
from .chat import ChatEndpoint
from .completions import CompletionEndpoint
from .files.routes import Files
from .files.shelf import Shelf
from .guards import REQUEST_ID, Guard
from .idle import Counted, Traffic
from .models import ModelEndpoints
from .ollama.routes import Ollama
from .plan import PlanEndpoint
from .responses.routes import Responses
from .store import Store
from .tokens import TokenEndpoints
from .vectors import VectorEndpoints


def build(service: Service, config: ServerConfig) -> Starlette:
    """The application, over a service that is loaded by whoever runs it."""

    async def health(_request: Request) -> Response:
        status = "ok" if service.ready else "loading"
        return Response(wire.encode(wire.Health(status)), 200 if service.ready else 503, media_type="application/json")

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics.render(service.stats()), headers={"Content-Type": metrics.CONTENT_TYPE})

    traffic = Traffic()
    api, lifespan = _api(service, config, traffic)
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", show_metrics),
            *Messages(service, config.strict).routes(),
            *Ollama(service, config).routes(),
            *(route for prefix in ("/v1", "") for route in api(prefix)),  # some clients leave /v1 out
        ],
        middleware=[Middleware(Guard, config=config), Middleware(Counted, traffic=traffic)],
        lifespan=lifespan,
        exception_handlers={GalagoError: _galago_error, HTTPException: _http_error, Exception: _unforeseen},
    )


def _api(
    service: Service, config: ServerConfig, traffic: Traffic
) -> tuple[Callable[[str], list[Route]], Callable[[Starlette], AbstractAsyncContextManager[None]]]:
    """What answers under a prefix; and what runs and is closed beside it."""
    store = None if config.store is None else Store(config.store)
    shelf = None if store is None else Shelf(store)
    files = Files(shelf)
    models = ModelEndpoints(service)
    chat = ChatEndpoint(service, config.strict, files.read)
    completions = CompletionEndpoint(service, config.strict)
    plan = PlanEndpoint(service, config.strict, files.read)
    tokens = TokenEndpoints(service, config.strict, files.read)
    vectors = VectorEndpoints(service, config.strict)
    responses = Responses(service, config.strict, store, files.read)
    in_background = {
        "/v1/chat/completions": ChatEndpoint(service, config.strict, files.read, background=True).complete,
        "/v1/completions": CompletionEndpoint(service, config.strict, background=True).complete,
        "/v1/embeddings": vectors.embed,
    }
    batches = Batches(in_background, service, traffic, shelf)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with batches.running(), responses.running():
            yield
        if store is not None:
            store.close()

    def routes(prefix: str) -> list[Route]:
        return [
            Route(f"{prefix}/models", models.list),
            Route(f"{prefix}/models/{{id:path}}", models.show),
            Route(f"{prefix}/chat/completions", chat.complete, methods=["POST"]),
            Route(f"{prefix}/completions", completions.complete, methods=["POST"]),
            Route(f"{prefix}/embeddings", vectors.embed, methods=["POST"]),
            Route(f"{prefix}/rerank", vectors.rerank, methods=["POST"]),
            Route(f"{prefix}/plan", plan.plan, methods=["POST"]),
            Route(f"{prefix}/tokenize", tokens.tokenize, methods=["POST"]),
            Route(f"{prefix}/detokenize", tokens.detokenize, methods=["POST"]),
            *responses.routes(prefix),
            *files.routes(prefix),
            *batches.routes(prefix),
        ]

    return routes, lifespan


async def _galago_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GalagoError)
    return errors.response(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        allowed = MethodNotAllowed(f"{where} is not offered; the path answers to another method")
        return errors.response(allowed, request.url.path)
    return errors.response(NotFound(f"there is no {where} here"), request.url.path)


async def _unforeseen(request: Request, error: Exception) -> Response:
    """The answer, which no longer passes the guard; uvicorn writes the traceback to standard error."""
    request_id = request.scope[REQUEST_ID]
    print(f"galago: {request_id} failed, unforeseen:", file=sys.stderr, flush=True)
    response = errors.response(GalagoError(f"unforeseen: {type(error).__name__}"), request.url.path)
    response.headers[REQUEST_ID] = request_id
    return response


def serve(service: Service, config: ServerConfig, say: Callable[[str], None]) -> None:
    """Runs until interrupted. `say` gets a line when the port is open and when the model is ready.

    Raises what kept the model from loading, and `ConfigError` where the port cannot be had.
    """
    listener = _listen(config)
    settings = uvicorn.Config(
        build(service, config), log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
    server = _Server(settings, service)
    failures: list[BaseException] = []

    def load() -> None:
        try:
            service.load()
            for warning in service.models()[0].warnings:
                say(f"warning: {warning}")
            say(f"{service.model_id} is ready")
        except BaseException as error:  # raised again below, on the thread that can report it
            failures.append(error)
            server.should_exit = True

    say(f"listening on {_url(listener)}")
    threading.Thread(target=load, name="galago-load", daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        service.close()
    if failures:
        raise failures[0]


class _Server(uvicorn.Server):
    """uvicorn, which on its way out first ends the answers still being made, each with an error its client can read."""

    def __init__(self, settings: uvicorn.Config, service: Service) -> None:
        super().__init__(settings)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = threading.Thread(target=self._service.close)  # the loop's own threads may all wait for the model
        closing.start()
        await asyncio.to_thread(closing.join)
        await super().shutdown(sockets)


def _listen(config: ServerConfig) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port}: {reason}; choose another --host or --port", "port"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
