"""Errors in the shape of OpenAI's API."""

from __future__ import annotations

from ....models.errors import GalagoError
from ..http.errors import TABLE, ErrorFormat, code
from .schema import ErrorBody, ErrorResponse


def error_response(error: GalagoError) -> ErrorResponse:
    return ErrorResponse(ErrorBody(error.message, TABLE[type(error)][1], error.param, code(error)))


ERRORS = ErrorFormat(ErrorResponse, lambda error, _request_id: error_response(error))
