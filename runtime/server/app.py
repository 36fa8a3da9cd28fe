"""Builds the application from the endpoints of all APIs. `run` serves it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...models.errors import GalagoError, MethodNotAllowed, NotFound
from ..config import ServerConfig
from ..log import log
from ..service import Service
from ..types.limits import limit
from .accounts.accounts import Accounts
from .accounts.metered_service import metered
from .accounts.record import Recorder
from .anthropic import errors as anthropic_errors
from .anthropic import routes as anthropic
from .galago.estimate import Estimates
from .galago.health import Health
from .galago.metrics import Metrics
from .galago.tokenize import Tokenization
from .galago.usage import UsageReport
from .http import openapi
from .http.errors import ErrorResponses
from .http.origins import AllowedOrigins
from .http.security import REQUEST_ID, Guard
from .ollama import errors as ollama_errors
from .ollama import routes as ollama
from .openai import errors as openai_errors
from .openai.batches.routes import Batches
from .openai.chat.routes import Chat
from .openai.completions.routes import Completions
from .openai.embeddings.routes import Embeddings
from .openai.files.routes import Files
from .openai.models.routes import Models
from .openai.rerank.routes import Reranking
from .openai.responses.routes import Responses
from .resource import Resource, ServerContext
from .storage.database import Database
from .storage.file_store import FileStore

ERROR_RESPONSES = ErrorResponses(
    openai_errors.ERRORS,
    {anthropic.PREFIX: anthropic_errors.ERRORS, ollama.PREFIX: ollama_errors.ERRORS},
)


def build(service: Service, config: ServerConfig) -> Starlette:
    """The application over a service, which the caller loads and closes. A new endpoint needs one line here."""
    database = None if config.store is None else Database(config.store)
    files = None if database is None else FileStore(database)
    accounts = Accounts(config)
    if accounts.are_needed:
        service = metered(service)
    context = ServerContext(service, config, database, files, accounts=accounts)
    versioned: list[Resource] = [  # under /v1, and also without it, because some clients leave it out
        Models(context),
        Chat(context),
        Completions(context),
        Embeddings(context),
        Reranking(context),
        Estimates(context),
        Tokenization(context),
        Responses(context),
        Files(context),
        UsageReport(context),
    ]
    batch_endpoints = {path: answer for one in versioned for path, answer in one.batch_endpoints().items()}
    versioned.append(Batches(context, batch_endpoints, ERROR_RESPONSES))
    unversioned: list[Resource] = [
        Health(context),
        Metrics(context),
        anthropic.Messages(context),
        ollama.Ollama(context),
    ]
    described = [route for one in [*unversioned, *versioned] for route in one.routes("/v1")]
    routes: list[BaseRoute] = [*described, openapi.endpoint(described, ERROR_RESPONSES)]
    routes += [route for one in versioned for route in one.routes("")]
    routes += [route for one in versioned for route in one.sockets("/v1")]
    routes += [route for one in [*unversioned, *versioned] for route in one.sockets("")]

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            threads = ThreadPoolExecutor(limit("connections"), "galago-request")  # one for each request in progress
            asyncio.get_running_loop().set_default_executor(threads)
            stack.callback(accounts.close)
            if database is not None:
                stack.callback(database.close)
            for one in [*unversioned, *versioned]:
                await stack.enter_async_context(one.running())
            yield

    application = Starlette(
        routes=routes,
        middleware=_middleware(context, routes),
        lifespan=lifespan,
        exception_handlers={GalagoError: _galago_error, HTTPException: _http_error, Exception: _unexpected_error},
    )
    application.state.context = context
    return application


def _middleware(context: ServerContext, routes: Sequence[BaseRoute]) -> list[Middleware]:
    config, accounts = context.config, context.accounts
    paths = [route.path for route in routes if isinstance(route, Route)]
    guard = Middleware(
        Guard,
        config=config,
        error_responses=ERROR_RESPONSES,
        budget=context.budget,
        foreground=context.foreground,
        keys=accounts.keys,
    )
    return [
        *([Middleware(AllowedOrigins, config=config)] if config.allowed_origins else []),
        *([Middleware(Recorder, on_end=accounts.write, paths=paths)] if accounts.are_needed else []),
        guard,
    ]


async def _galago_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GalagoError)
    return _error_response(error, request)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        message = f"{request.method} is not allowed for {path}; the Allow header lists the allowed methods"
        response = _error_response(MethodNotAllowed(message), request)
        response.headers.update(error.headers or {})
        return response
    return _error_response(NotFound(f"there is no {request.method} {path}; see /openapi.json"), request)


def _error_response(error: GalagoError, request: Request) -> Response:
    return ERROR_RESPONSES.response(error, request.url.path, request.scope[REQUEST_ID])


async def _unexpected_error(request: Request, error: Exception) -> Response:
    """The response, which does not pass through the guard again. Uvicorn writes the traceback to standard error."""
    request_id = request.scope[REQUEST_ID]
    log(f"request {request_id} failed with an unexpected error:")
    internal = GalagoError(f"internal error: {type(error).__name__}; see the server's log about {request_id}")
    response = _error_response(internal, request)
    response.headers[REQUEST_ID] = request_id
    return response
