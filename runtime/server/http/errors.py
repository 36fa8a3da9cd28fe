"""How each error of the tree travels over HTTP: status, type and code, in the shape of the API that was asked."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ....models import errors
from ..anthropic import schema as anthropic
from ..ollama import schema as ollama
from ..openai.schema import ErrorBody, ErrorResponse, encode

_INVALID, _SERVER = "invalid_request_error", "server_error"

TABLE: dict[type[errors.GalagoError], tuple[int, str, str]] = {
    errors.GalagoError: (500, _SERVER, "internal_error"),
    errors.InvalidRequest: (400, _INVALID, "invalid_value"),
    errors.UnsupportedField: (400, _INVALID, "unsupported_parameter"),
    errors.MediaError: (400, _INVALID, "invalid_media"),
    errors.UnsupportedModality: (400, _INVALID, "unsupported_modality"),
    errors.PromptTooLong: (400, _INVALID, "context_length_exceeded"),
    errors.TemplateError: (400, _INVALID, "chat_template_error"),
    errors.Forbidden: (403, "permission_error", "forbidden"),
    errors.Unauthorized: (401, "authentication_error", "invalid_api_key"),
    errors.NotFound: (404, _INVALID, "not_found"),
    errors.MethodNotAllowed: (405, _INVALID, "method_not_allowed"),
    errors.RequestTooLarge: (413, _INVALID, "request_too_large"),
    errors.NotReady: (503, _SERVER, "not_ready"),
    errors.Cancelled: (499, _INVALID, "client_closed_request"),  # nobody reads it; nginx's number for the log
    errors.ModelError: (500, _SERVER, "model_error"),
    errors.GGUFError: (500, _SERVER, "model_error"),
    errors.HubError: (502, _SERVER, "hub_error"),
    errors.ConfigError: (500, _SERVER, "configuration_error"),
    errors.EngineError: (500, _SERVER, "engine_error"),
    errors.EngineCrashed: (500, _SERVER, "engine_crashed"),
    errors.DeadlineExceeded: (504, _SERVER, "deadline_exceeded"),
}


_NO_MODEL = "model_not_found"


def codes(kind: type[errors.GalagoError]) -> list[str]:
    """The codes that errors of this class have."""
    return [TABLE[kind][2], *([_NO_MODEL] if kind is errors.NotFound else [])]


def body(error: errors.GalagoError) -> ErrorResponse:
    _, kind, code = TABLE[type(error)]
    if isinstance(error, errors.NotFound) and error.param == "model":
        code = _NO_MODEL
    return ErrorResponse(ErrorBody(error.message, kind, error.param, code))


_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_body(error: errors.GalagoError) -> anthropic.ErrorResponse:
    status = TABLE[type(error)][0]
    kind = _ANTHROPIC.get(status, _INVALID if status < 500 else "api_error")
    told = anthropic.ErrorBody(kind, _located(error))
    if isinstance(error, errors.UnsupportedField) and error.param == "thread":
        told.details = anthropic.ErrorDetails(["thread"])
    return anthropic.ErrorResponse(told)


def ollama_body(error: errors.GalagoError) -> ollama.ErrorResponse:
    return ollama.ErrorResponse(_located(error))


def _located(error: errors.GalagoError) -> str:
    """The message with the field at fault, for shapes that have no place of their own for that."""
    known = error.param is None or error.param in error.message
    return error.message if known else f"{error.param}: {error.message}"


def response(error: errors.GalagoError, path: str = "") -> Response:
    """The answer to whoever asked for `path`, which tells the API that they speak."""
    status = TABLE[type(error)][0]
    told: Any = body(error)
    if path.startswith("/v1/messages"):
        told = anthropic_body(error)
    elif path.startswith("/api/"):
        told = ollama_body(error)
    headers = {"retry-after": "1"} if status == 503 else {}
    if isinstance(error, errors.DeadlineExceeded):
        headers["x-should-retry"] = "false"  # OpenAI's clients would ask again, for an answer that takes as long
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = "Bearer"
    return Response(encode(told), status, headers, "application/json")
