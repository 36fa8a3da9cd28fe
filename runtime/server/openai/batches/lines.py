"""The lines of a batch: what is read from an input file, checked as a whole before any is answered. No I/O."""

from __future__ import annotations

from .....models.errors import InvalidRequest
from ..convert import decode_object, typed
from .schema import LineError, LineRequest

MOST_LINES = 50_000
MOST_ERRORS = 100


def read(data: bytes, endpoint: str) -> tuple[list[LineRequest], list[LineError]]:
    """The requests in a JSONL file; or what is wrong with it, the first `MOST_ERRORS`."""
    lines: list[LineRequest] = []
    errors: list[LineError] = []
    seen: set[str] = set()
    for number, text in enumerate(data.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            lines.append(_line(text, endpoint, seen))
        except InvalidRequest as error:
            errors.append(LineError("invalid_request", error.message, number, error.param))
        if len(lines) > MOST_LINES:
            errors.append(LineError("too_many_lines", f"a batch holds at most {MOST_LINES} lines", number))
        if len(errors) >= MOST_ERRORS or len(lines) > MOST_LINES:
            break
    if not lines and not errors:
        errors.append(LineError("empty_file", "the input file holds no line"))
    return lines, errors


def _line(text: bytes, endpoint: str, seen: set[str]) -> LineRequest:
    line = typed(decode_object(text), LineRequest, {})
    if line.url != endpoint:
        raise InvalidRequest(f"url is {line.url!r:.100}, and the batch's endpoint is {endpoint}", "url")
    if line.custom_id in seen:
        raise InvalidRequest(f"custom_id {line.custom_id!r:.100} stands in an earlier line, too", "custom_id")
    if line.body.get("stream"):
        raise InvalidRequest("stream: nobody reads along with a batch; leave it out", "body.stream")
    seen.add(line.custom_id)
    return line
