"""The input file of a batch. It is checked in full before any line is answered, one line in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from .....models.errors import InvalidRequest
from ....types.warnings import Warnings
from ...http.request_io import convert_object, decode_object
from .schema import LineError, LineRequest

MAX_LINES = 50_000
MAX_ERRORS = 100


def check_lines(texts: Iterable[bytes], endpoint: str) -> tuple[int, list[LineError]]:
    """The number of requests in a JSONL file, and the errors in it, of which the first `MAX_ERRORS` are reported."""
    errors: list[LineError] = []
    custom_ids: set[str] = set()
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = _parse_line(text, endpoint)
            if line.custom_id in custom_ids:
                problem = f"custom_id {line.custom_id!r:.100} is already used by an earlier line"
                raise InvalidRequest(problem, "custom_id")
            custom_ids.add(line.custom_id)
        except InvalidRequest as error:
            errors.append(LineError("invalid_request", error.message, number, error.param))
        if len(custom_ids) > MAX_LINES:
            errors.append(LineError("too_many_lines", f"a batch may have at most {MAX_LINES} lines", number))
        if len(errors) >= MAX_ERRORS or len(custom_ids) > MAX_LINES:
            break
    if not custom_ids and not errors:
        errors.append(LineError("empty_file", "the input file has no lines"))
    return len(custom_ids), errors


def parse_lines(texts: Iterable[bytes], endpoint: str) -> Iterator[LineRequest]:
    """The requests in a file without errors."""
    return (_parse_line(text, endpoint) for text in texts if text.strip())


def _parse_line(text: bytes, endpoint: str) -> LineRequest:
    warnings = Warnings()
    line = convert_object(decode_object(text, warnings), LineRequest, warnings)
    if warnings:  # keeps the original text, so that the line's answer will have the warnings about it
        line.body = json.loads(text)["body"]
    if line.url != endpoint:
        raise InvalidRequest(f"url is {line.url!r:.100}; it must be the batch's endpoint, {endpoint}", "url")
    if line.body.get("stream"):
        raise InvalidRequest("stream: answers of a batch cannot be streamed; leave it out", "body.stream")
    return line
