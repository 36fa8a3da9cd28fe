"""Warnings about a request: what it asked for and does not get; in strict mode it is refused instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...models.errors import UnsupportedField


class Warnings(list[str]):
    """What a request asked for and does not get, a sentence each. With `strict` the request is refused instead.

    `append` is for notes about what the caller does not miss: they stay warnings in strict mode.
    `caller_fields` maps fields to the caller's names for them, if those differ, for errors.
    """

    strict = False
    caller_fields: Mapping[str, str] = MappingProxyType({})

    def add_unless_strict(self, problem: str, field: str | None = None, *, instead: str | None = None) -> None:
        """Adds a warning once: the problem, and what is done instead.

        In strict mode nothing is done instead: it raises `UnsupportedField`, which names the request's field.
        """
        if self.strict:
            raise UnsupportedField(f"{problem}; --strict refuses it", field)
        text = problem if instead is None else f"{problem}; {instead}"
        if text not in self:
            self.append(text)
