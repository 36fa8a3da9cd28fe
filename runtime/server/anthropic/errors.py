"""Errors in the shape of Anthropic's API."""

from __future__ import annotations

from ....models.errors import GalagoError, UnsupportedField
from ..http.errors import ErrorFormat, message_with_field, status
from .schema import ErrorBody, ErrorDetails, ErrorResponse

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_response(error: GalagoError, request_id: str | None = None) -> ErrorResponse:
    default = "invalid_request_error" if status(error) < 500 else "api_error"
    body = ErrorBody(_TYPES.get(status(error), default), message_with_field(error))
    if isinstance(error, UnsupportedField) and error.param == "thread":
        body.details = ErrorDetails(["thread"])
    return ErrorResponse(body, request_id)


ERRORS = ErrorFormat(ErrorResponse, error_response)
