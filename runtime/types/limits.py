"""The limits on what one request, client or file may use, in one table.

`galago serve --limit NAME=VALUE` or the variable `GALAGO_LIMIT_NAME` changes one, also in the library and in child
processes. `docs/reference/limits.md` is generated from the table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...models.errors import (
    ConfigError,
    EngineError,
    GalagoError,
    InvalidRequest,
    MediaError,
    ModelError,
    NotReady,
    RequestTimeout,
    RequestTooLarge,
    TemplateError,
)
from ..environment import limit_from_environment, limit_variable, set_limit_in_environment

Unit: TypeAlias = Literal["bytes", "seconds", "count"]
"""Bytes may be written as `64MiB` or `64MB`."""

_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. `help` is a phrase without a full stop; `error` is raised when it is exceeded."""

    name: str
    default: int
    unit: Unit
    help: str
    error: type[GalagoError]

    @property
    def variable(self) -> str:
        return limit_variable(self.name)

    def parse(self, text: str) -> int:
        """Reads a value such as "200", "64MiB" or "1.5 GB". Raises `ConfigError`."""
        match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?) ?(|[kmg]i?)b?", text.strip().lower())
        if not match or (match[2] and self.unit != "bytes"):
            example = "64MiB" if self.unit == "bytes" else str(self.default)
            raise ConfigError(f"the limit {self.name} is {text!r}; use a number such as {example}", "limit")
        return math.ceil(float(match[1]) * _MULTIPLES[match[2]])

    def format(self, value: int) -> str:
        """Formats a value for people."""
        if self.unit == "seconds":
            return f"{value} s"
        for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if self.unit == "bytes" and value >= factor:
                return f"{value / factor:.4g} {unit}"
        return f"{value:,}" + (" bytes" if self.unit == "bytes" else "")


LIMITS = (
    Limit("body_bytes", 64 << 20, "bytes", "size of a request's body", RequestTooLarge),
    Limit("json_values", 500_000, "count", "commas and opening brackets in a request's body", RequestTooLarge),
    Limit("parts", 1000, "count", "images, audio clips, videos and files in a request", RequestTooLarge),
    Limit("held_bytes", 64 << 20, "bytes", "media and stored files in a request", RequestTooLarge),
    Limit("total_held_bytes", 136 << 20, "bytes", "bodies and files that all requests together hold", NotReady),
    Limit("prompt_characters", 64_000_000, "count", "characters of a request's messages", RequestTooLarge),
    Limit("media_bytes", 64 << 20, "bytes", "size of one encoded image, audio clip or video", MediaError),
    Limit("media_pixels", 64_000_000, "count", "pixels of an image", MediaError),
    Limit("audio_seconds", 600, "seconds", "length of an audio clip", MediaError),
    Limit("decoding_seconds", 10, "seconds", "CPU time to decode one image or audio clip", MediaError),
    Limit("schema_bytes", 1 << 20, "bytes", "size of one JSON schema", InvalidRequest),
    Limit("schema_depth", 120, "count", "nesting depth of the objects and lists of a JSON schema", InvalidRequest),
    Limit("grammar_characters", 256 << 10, "count", "characters of one grammar or regular expression", InvalidRequest),
    Limit("grammar_seconds", 4, "seconds", "CPU time to compile one schema or grammar", InvalidRequest),
    Limit("grammar_memory", 1 << 30, "bytes", "memory to compile one schema or grammar", InvalidRequest),
    Limit("template_characters", 512 << 10, "count", "characters of a chat template", TemplateError),
    Limit("template_seconds", 2, "seconds", "CPU time to render the chat template for a request", TemplateError),
    Limit("template_memory", 512 << 20, "bytes", "memory to render a chat template", TemplateError),
    Limit("result_bytes", 64 << 20, "bytes", "size of one result, such as the tokens of a text", EngineError),
    Limit("header_bytes", 64 << 10, "bytes", "size of a request's headers", RequestTooLarge),
    Limit("header_seconds", 10, "seconds", "time in which a client must send a request's headers", RequestTimeout),
    Limit("body_seconds", 60, "seconds", "time in which more of a request's body must arrive", RequestTimeout),
    Limit("idle_seconds", 75, "seconds", "time that a connection may stay open without a request", NotReady),
    Limit("connections", 512, "count", "open connections", NotReady),
    Limit("client_requests", 512, "count", "requests that one client may have waiting or running", NotReady),
    Limit("load_seconds", 600, "seconds", "time that a request waits until its model is loaded", NotReady),
    Limit("load_check_seconds", 5, "seconds", "time to try a new model, and 1 s per 2 MiB of its files", ModelError),
    Limit("load_check_memory", 1 << 30, "bytes", "memory to try a new model, and 3 times its files", ModelError),
)  # fmt: skip
"""Every limit. A test at each limit, and one past it, is in `tests/runtime/test_limits.py`, or in a file like it in a
subfolder."""

_BY_NAME = {limit.name: limit for limit in LIMITS}


def limit(name: str) -> int:
    """Returns the value of a limit in this process. Raises `ConfigError` if its variable is malformed."""
    row = _BY_NAME[name]
    text = limit_from_environment(name)
    return row.default if text is None else row.parse(text)


def set_limits(assignments: Iterable[str]) -> None:
    """Sets limits, each given as "NAME=VALUE", in this process and its children. Raises `ConfigError`."""
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in _BY_NAME:
            raise ConfigError(f"there is no limit {name!r}; use one of {', '.join(_BY_NAME)}", "limit")
        _BY_NAME[name].parse(text)
        set_limit_in_environment(name, text)


def check_limits() -> None:
    """Raises `ConfigError` if a variable of a limit is malformed."""
    for one in LIMITS:
        limit(one.name)


def limit_error(name: str, what: str, param: str | None = None) -> GalagoError:
    """Returns the error for an exceeded limit: `what`, such as "the image is too large", and how to raise the limit."""
    row = _BY_NAME[name]
    shown = row.format(limit(name))
    return row.error(f"{what}; the limit is {shown} ({how_to_change(name)})", param)


def how_to_change(name: str) -> str:
    """Returns how a limit is changed, for the end of an error."""
    return f"change it with --limit {name}=VALUE"
