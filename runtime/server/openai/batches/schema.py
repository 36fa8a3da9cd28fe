"""The JSON shapes of `/v1/batches`, and of the lines of its input, output and error files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


class ExpiresAfter(Struct):
    anchor: Literal["created_at"]
    seconds: int


class BatchRequest(Struct, forbid_unknown_fields=True):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


class LineRequest(Struct, forbid_unknown_fields=True):
    """A line of an input file."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]

    @property
    def encoded_body(self) -> bytes:
        """The body as JSON, with halves of surrogate pairs as in the file."""
        return json.dumps(self.body).encode()


class LineError(Struct):
    """A problem with a line of an input file; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class LineErrors(Struct):
    data: list[LineError]
    object: str = "list"


class RequestCounts(Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Struct, kw_only=True):
    """`POST` and `GET /v1/batches`. Times are in seconds since 1970."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    object: str = "batch"
    errors: LineErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    metadata: dict[str, str] | None = None


class BatchList(Struct):
    data: Sequence[Batch]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: str = "list"


class LineResponse(Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class LineFailure(Struct):
    """Why a line was not answered."""

    code: str
    message: str


class LineResult(Struct):
    """A line of an output or error file: a response, whatever its status, or the reason why there is none."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineFailure | None
