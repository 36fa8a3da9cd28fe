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

from ...models.errors import ConfigError, GalagoError, MethodNotAllowed, NotFound, NotReady
from ..config import ServerConfig
from ..service import Service
from .anthropic.routes import Messages
from .galago import estimate, metrics, tokenize
from .http import errors, openapi
from .http.activity import Activity, ActivityMiddleware
from .http.openapi import Endpoint, RouteDescription
from .http.security import REQUEST_ID, Guard
from .ollama.routes import Ollama
from .openai import chat, completions, embeddings, models, schema
from .openai.batches.routes import Batches
from .openai.files.routes import Files
from .openai.responses.routes import Responses
from .storage.database import Storage
from .storage.file_store import FileStore

_HELLO = RouteDescription("Whether anybody is there", {200: "text/plain; charset=utf-8"})
_HEALTH = RouteDescription("Whether the model is ready", {200: schema.Health, 503: schema.Health})
_METRICS = RouteDescription("What the model is doing, for Prometheus", {200: metrics.CONTENT_TYPE}, errors=(NotReady,))


def build(service: Service, config: ServerConfig) -> Starlette:
    """The application, over a service that is loaded by whoever runs it."""

    async def greet(_request: Request) -> Response:
        return Response("Galago is running", media_type="text/plain")

    async def health(_request: Request) -> Response:
        status = schema.Health("ok" if service.ready else "loading")
        return Response(schema.encode(status), 200 if status.status == "ok" else 503, media_type="application/json")

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics.render(service.stats()), headers={"Content-Type": metrics.CONTENT_TYPE})

    traffic = Activity()
    api, lifespan = _api(service, config, traffic)
    described = [
        Endpoint("/", greet, _HELLO),
        Endpoint("/health", health, _HEALTH),
        Endpoint("/metrics", show_metrics, _METRICS),
        *api("/v1"),
        *Messages(service, config.strict).routes(),
        *Ollama(service, config).routes(),
    ]
    return Starlette(
        routes=[*described, openapi.endpoint(described), *api("")],  # some clients leave /v1 out
        middleware=[Middleware(Guard, config=config), Middleware(ActivityMiddleware, traffic=traffic)],
        lifespan=lifespan,
        exception_handlers={GalagoError: _galago_error, HTTPException: _http_error, Exception: _unforeseen},
    )


def _api(
    service: Service, config: ServerConfig, traffic: Activity
) -> tuple[Callable[[str], list[Endpoint]], Callable[[Starlette], AbstractAsyncContextManager[None]]]:
    """What answers under a prefix, and what runs and is closed beside it."""
    strict = config.strict
    store = None if config.store is None else Storage(config.store)
    shelf = None if store is None else FileStore(store)
    files = Files(shelf)
    listed = models.ModelEndpoints(service)
    chats = chat.ChatEndpoint(service, strict, files.read)
    prompts = completions.CompletionEndpoint(service, strict)
    vector = embeddings.VectorEndpoints(service, strict)
    plans = estimate.PlanEndpoint(service, strict, files.read)
    token = tokenize.TokenEndpoints(service, strict, files.read)
    responses = Responses(service, strict, store, files.read)
    in_background = {
        "/v1/chat/completions": chat.ChatEndpoint(service, strict, files.read, background=True).complete,
        "/v1/completions": completions.CompletionEndpoint(service, strict, background=True).complete,
        "/v1/embeddings": vector.embed,
    }
    batches = Batches(in_background, service, traffic, shelf)

    def api(prefix: str) -> list[Endpoint]:
        return [
            Endpoint(f"{prefix}/models", listed.list, models.LIST),
            Endpoint(f"{prefix}/models/{{id:path}}", listed.show, models.SHOW),
            Endpoint(f"{prefix}/chat/completions", chats.complete, chat.ABOUT),
            Endpoint(f"{prefix}/completions", prompts.complete, completions.ABOUT),
            Endpoint(f"{prefix}/embeddings", vector.embed, embeddings.EMBED),
            Endpoint(f"{prefix}/rerank", vector.rerank, embeddings.RERANK),
            Endpoint(f"{prefix}/plan", plans.plan, estimate.ABOUT),
            Endpoint(f"{prefix}/tokenize", token.tokenize, tokenize.TOKENIZE),
            Endpoint(f"{prefix}/detokenize", token.detokenize, tokenize.DETOKENIZE),
            *responses.routes(prefix),
            *files.routes(prefix),
            *batches.routes(prefix),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with batches.running(), responses.running():
            yield
        if store is not None:
            store.close()

    return api, lifespan


async def _galago_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GalagoError)
    return errors.response(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        refusal = errors.response(
            MethodNotAllowed(f"{where} is not offered; the path answers to another method"), request.url.path
        )
        refusal.headers.update(error.headers or {})  # which methods it answers to
        return refusal
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
