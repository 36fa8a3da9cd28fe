"""Errors in the shape of Ollama's API."""

from __future__ import annotations

from ....models.errors import GalagoError
from ..http.errors import ErrorFormat, message_with_field
from .schema import ErrorResponse


def error_response(error: GalagoError) -> ErrorResponse:
    return ErrorResponse(message_with_field(error))


ERRORS = ErrorFormat(ErrorResponse, lambda error, _request_id: error_response(error))
