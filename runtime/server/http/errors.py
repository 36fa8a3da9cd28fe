"""The HTTP status, type and code of each error class, and error responses.

Each dialect says in an `ErrorFormat` how it writes an error; none is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec import Struct
from starlette.responses import Response

from ....models import errors
from .request_io import encode_json

_INVALID, _SERVER = "invalid_request_error", "server_error"

TABLE: dict[type[errors.GalagoError], tuple[int, str, str]] = {
    errors.GalagoError: (500, _SERVER, "internal_error"),
    errors.InvalidRequest: (400, _INVALID, "invalid_value"),
    errors.UnsupportedField: (400, _INVALID, "unsupported_parameter"),
    errors.MediaError: (400, _INVALID, "invalid_media"),
    errors.UnsupportedModality: (400, _INVALID, "unsupported_modality"),
    errors.PromptTooLong: (400, _INVALID, "context_length_exceeded"),
    errors.TemplateError: (400, _INVALID, "chat_template_error"),
    errors.TemplateRefusal: (400, _INVALID, "chat_template_error"),
    errors.Forbidden: (403, "permission_error", "forbidden"),
    errors.Unauthorized: (401, "authentication_error", "invalid_api_key"),
    errors.RateLimited: (429, "rate_limit_error", "rate_limit_exceeded"),
    errors.NotFound: (404, _INVALID, "not_found"),
    errors.MethodNotAllowed: (405, _INVALID, "method_not_allowed"),
    errors.RequestTooLarge: (413, _INVALID, "request_too_large"),
    errors.RequestTimeout: (408, _INVALID, "request_timeout"),
    errors.NotReady: (503, _SERVER, "not_ready"),
    errors.QueueFull: (503, _SERVER, "queue_full"),
    errors.Unloaded: (503, _SERVER, "not_ready"),
    errors.Cancelled: (499, _INVALID, "client_closed_request"),  # only for logs, with nginx's status
    errors.ModelError: (500, _SERVER, "model_error"),
    errors.GGUFError: (500, _SERVER, "model_error"),
    errors.HubError: (502, _SERVER, "hub_error"),
    errors.ConfigError: (500, _SERVER, "configuration_error"),
    errors.EngineError: (500, _SERVER, "engine_error"),
    errors.EngineCrashed: (500, _SERVER, "engine_crashed"),
    errors.DeadlineExceeded: (504, _SERVER, "deadline_exceeded"),
}
"""Status, type and code by error class. Types and codes are those of OpenAI's API."""

_MODEL_NOT_FOUND = "model_not_found"


def status(error: errors.GalagoError) -> int:
    return TABLE[type(error)][0]


def code(error: errors.GalagoError) -> str:
    if isinstance(error, errors.NotFound) and error.param == "model":
        return _MODEL_NOT_FOUND
    return TABLE[type(error)][2]


def codes(error_class: type[errors.GalagoError]) -> list[str]:
    """All codes that errors of this class can have."""
    return [TABLE[error_class][2], *([_MODEL_NOT_FOUND] if error_class is errors.NotFound else [])]


def message_with_field(error: errors.GalagoError) -> str:
    """The message with the name of the field, for dialects whose error bodies have no separate place for it."""
    named = error.param is None or error.param in error.message
    return error.message if named else f"{error.param}: {error.message}"


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """A dialect's error body: its struct, for the OpenAPI document, and the function that fills it.

    The function gets the error and the request's id.
    """

    struct: type[Struct]
    write: Callable[[errors.GalagoError, str | None], Struct]


class ErrorResponses:
    """Builds error responses in the format of the API that owns the requested path."""

    def __init__(self, default: ErrorFormat, by_prefix: Mapping[str, ErrorFormat]) -> None:
        self._default = default
        self._by_prefix = by_prefix

    def format(self, path: str) -> ErrorFormat:
        matches = (form for prefix, form in self._by_prefix.items() if path.startswith(prefix))
        return next(matches, self._default)

    def response(self, error: errors.GalagoError, path: str, request_id: str | None = None) -> Response:
        headers = {}
        if status(error) == 503:
            headers["retry-after"] = "1"
        if isinstance(error, errors.RateLimited):
            headers["retry-after"] = str(error.retry_after_seconds)
        if isinstance(error, errors.DeadlineExceeded):
            headers["x-should-retry"] = "false"  # OpenAI's clients retry by default, which would take as long
        if isinstance(error, errors.Unauthorized):
            headers["www-authenticate"] = "Bearer"
        body = encode_json(self.format(path).write(error, request_id))
        return Response(body, status(error), headers, "application/json")
