"""How each error of the tree travels over HTTP: status, type and code, in OpenAI's error shape."""

from __future__ import annotations

from starlette.responses import Response

from ...models import errors
from .wire import ErrorBody, ErrorResponse, encode

_INVALID, _SERVER = "invalid_request_error", "server_error"

TABLE: dict[type[errors.GalagoError], tuple[int, str, str]] = {
    errors.GalagoError: (500, _SERVER, "internal_error"),
    errors.InvalidRequest: (400, _INVALID, "invalid_value"),
    errors.UnsupportedField: (400, _INVALID, "unsupported_parameter"),
    errors.MediaError: (400, _INVALID, "invalid_media"),
    errors.SenseMissing: (400, _INVALID, "unsupported_modality"),
    errors.PromptTooLong: (400, _INVALID, "context_length_exceeded"),
    errors.TemplateError: (400, _INVALID, "chat_template_error"),
    errors.Forbidden: (403, "permission_error", "forbidden"),
    errors.Unauthorized: (401, "authentication_error", "invalid_api_key"),
    errors.NotFound: (404, _INVALID, "not_found"),
    errors.MethodNotAllowed: (405, _INVALID, "method_not_allowed"),
    errors.TooLarge: (413, _INVALID, "request_too_large"),
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


def body(error: errors.GalagoError) -> ErrorResponse:
    _, kind, code = TABLE[type(error)]
    if isinstance(error, errors.NotFound) and error.param == "model":
        code = "model_not_found"
    return ErrorResponse(ErrorBody(error.message, kind, error.param, code))


def response(error: errors.GalagoError) -> Response:
    status = TABLE[type(error)][0]
    headers = {"retry-after": "1"} if status == 503 else {}
    if isinstance(error, errors.DeadlineExceeded):
        headers["x-should-retry"] = "false"  # OpenAI's clients would ask again, for an answer that takes as long
    if isinstance(error, errors.Unauthorized):
        headers["www-authenticate"] = "Bearer"
    return Response(encode(body(error)), status, headers, "application/json")
