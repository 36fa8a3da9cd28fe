"""The input file of a batch: all of it is checked before any line is answered."""

from __future__ import annotations

import json

from .....models.errors import InvalidRequest
from ....types.warnings import Warnings
from ...http.request_io import convert_object, decode_object
from .schema import LineError, LineRequest

MAX_LINES = 50_000
MAX_ERRORS = 100


def parse_lines(data: bytes, endpoint: str) -> tuple[list[LineRequest], list[LineError]]:
    """The requests in a JSONL file and the errors in it, of which only the first `MAX_ERRORS` are reported."""
    lines: list[LineRequest] = []
    errors: list[LineError] = []
    custom_ids: set[str] = set()
    for number, text in enumerate(data.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            lines.append(_parse_line(text, endpoint, custom_ids))
        except InvalidRequest as error:
            errors.append(LineError("invalid_request", error.message, number, error.param))
        if len(lines) > MAX_LINES:
            errors.append(LineError("too_many_lines", f"a batch may have at most {MAX_LINES} lines", number))
        if len(errors) >= MAX_ERRORS or len(lines) > MAX_LINES:
            break
    if not lines and not errors:
        errors.append(LineError("empty_file", "the input file has no lines"))
    return lines, errors


def _parse_line(text: bytes, endpoint: str, custom_ids: set[str]) -> LineRequest:
    warnings = Warnings()
    line = convert_object(decode_object(text, warnings), LineRequest, warnings)
    if warnings:  # keeps what was replaced in a text, so that the line's answer will have the warnings about it
        line.body = json.loads(text)["body"]
    if line.url != endpoint:
        raise InvalidRequest(f"url is {line.url!r:.100}; it must be the batch's endpoint, {endpoint}", "url")
    if line.custom_id in custom_ids:
        raise InvalidRequest(f"custom_id {line.custom_id!r:.100} is already used by an earlier line", "custom_id")
    if line.body.get("stream"):
        raise InvalidRequest("stream: answers of a batch cannot be streamed; leave it out", "body.stream")
    custom_ids.add(line.custom_id)
    return line
