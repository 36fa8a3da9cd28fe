"""Requests that clients send beyond the documented form, each with the plain request that means the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import pytest

from galago.models.errors import UnsupportedField
from galago.runtime.server.http import request_io
from galago.runtime.types.request import Request
from galago.runtime.types.warnings import Warnings


class Case(NamedTuple):
    name: str
    body: dict[str, Any]
    """What is changed in the default request."""
    plain: dict[str, Any] | None = None
    """The same for the request that means the same; `None` if the default request does."""
    warning: str = ""
    """Words of the warning that the answer carries."""
    stays_warning: bool = False
    """Whether strict servers warn, too. They refuse other requests with a warning."""


@dataclass(frozen=True)
class Api:
    """How an API is asked. `prompt_tokens` reads the length of the prompt from a whole answer."""

    path: str
    default: dict[str, Any]
    prompt_tokens: Callable[[Any], int]
    struct: type[Any]
    to_request: Callable[[Any, Warnings], Request]

    def check(self, case: Case, client: httpx.Client) -> None:
        """The answer has the expected warning and a prompt as long as that of the plain request."""
        answer = client.post(self.path, json=self.default | case.body)
        assert answer.status_code == 200, answer.text
        warnings = answer.json().get("warnings", [])
        assert case.warning in " ".join(warnings) and bool(case.warning) == bool(warnings), warnings
        plain = client.post(self.path, json=self.default | (case.plain or {}))
        assert plain.status_code == 200, plain.text
        assert self.prompt_tokens(answer.json()) == self.prompt_tokens(plain.json())
        self._check_strictly(case)

    def _check_strictly(self, case: Case) -> None:
        body = json.dumps(self.default | case.body).encode()
        if case.warning and not case.stays_warning:
            with pytest.raises(UnsupportedField):
                self._prepare(body)
        else:
            self._prepare(body)

    def _prepare(self, body: bytes) -> None:
        request, warnings = request_io.parse_body(body, self.struct, True)
        self.to_request(request, warnings)
