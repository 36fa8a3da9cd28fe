"""Resolves the references within a JSON schema."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from .keywords import ANNOTATIONS

_MAX_HOPS = 16


class References:
    """The places of one schema, as JSON pointers that start with `#`. Other documents are never read."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._names: dict[str, str] | None = None

    def pointer(self, target: str, place: str) -> str | None:
        """The pointer to the schema that a reference at `place` points to, or `None` if there is no schema."""
        document, _, fragment = target.partition("#")
        fragment = unquote(fragment)
        bases = self._bases(place) if not document else self._documents(document)
        for base in bases:
            if fragment and not fragment.startswith("/"):
                pointer = self._named().get("#" + fragment)
            else:
                pointer = base + fragment
            if pointer is not None and isinstance(self.value(pointer), dict | bool):
                return pointer
        return None

    def value(self, pointer: str) -> Any:
        """What a pointer points to, or `None`."""
        value = self._root
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, dict) and name in value:
                value = value[name]
            else:
                return None
        return value

    def resolve(self, schema: Any) -> Any:
        """A schema, or what it points to if it is only a reference. References are followed from the root."""
        for _ in range(_MAX_HOPS):
            is_reference = isinstance(schema, dict) and isinstance(schema.get("$ref"), str)
            if not is_reference or schema.keys() - ANNOTATIONS - {"$ref"}:
                return schema
            pointer = self.pointer(schema["$ref"], "#")
            if pointer is None:
                return schema
            schema = self.value(pointer)
        return schema

    def _bases(self, place: str) -> list[str]:
        """The bases of references without a document: the closest schema with an `$id`, and the root."""
        identified = set(self._named().values()) if self._has_ids() else set()
        steps = place.split("/")
        inner = [base for end in range(len(steps), 1, -1) if (base := "/".join(steps[:end])) in identified]
        return [*inner[:1], "#"]

    def _documents(self, document: str) -> list[str]:
        return [self._named()[document]] if document in self._named() else []

    def _has_ids(self) -> bool:
        return any(not name.startswith("#") for name, pointer in self._named().items() if pointer != "#")

    def _named(self) -> dict[str, str]:
        """Pointers to schemas by their `$id`, without an empty fragment, or by `#` and their `$anchor`."""
        if self._names is None:
            self._names = {}
            pending = [("#", self._root)]
            while pending:
                place, value = pending.pop()
                if isinstance(value, dict):
                    for keyword in ("$id", "id"):
                        if isinstance(value.get(keyword), str):
                            self._names.setdefault(value[keyword].removesuffix("#"), place)
                    for keyword in ("$anchor", "$dynamicAnchor"):
                        if isinstance(value.get(keyword), str):
                            self._names.setdefault("#" + value[keyword], place)
                    pending += [(f"{place}/{escaped(str(name))}", inner) for name, inner in value.items()]
                elif isinstance(value, list):
                    pending += [(f"{place}/{i}", inner) for i, inner in enumerate(value)]
        return self._names


def escaped(name: str) -> str:
    """Escapes a name for a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
