"""Warnings about a request: what it asked for and does not get; in strict mode it is refused instead."""

from __future__ import annotations

from ...models.errors import UnsupportedField


class Warnings(list[str]):
    """What a request asked for and does not get, a sentence each. With `strict` the request is refused instead.

    `append` is for what changes nothing that the caller could want: it stays a warning in strict mode.
    """

    strict = False

    def add_unless_strict(self, text: str, field: str | None = None) -> None:
        """Adds a warning once. Raises `UnsupportedField`, which names the request's field, in strict mode."""
        if self.strict:
            raise UnsupportedField(f"{text}; this is refused in strict mode", field)
        if text not in self:
            self.append(text)
