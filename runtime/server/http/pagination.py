"""Paginated lists with the parameters of OpenAI's API: `limit`, `after` and `order`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from ....models.errors import InvalidRequest, NotFound
from ...types.request import check_number

_ORDER = "order"


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


class ListEntry(NamedTuple):
    """A list item with an id, for items that have no `id` attribute."""

    id: str
    item: Any = None


def query_schemas(max_limit: int, ordered: bool = True) -> dict[str, Any]:
    """The JSON schemas of the query parameters."""
    schemas: dict[str, Any] = {
        "limit": {"type": "integer", "minimum": 1, "maximum": max_limit},
        "after": {"type": "string"},
    }
    return schemas | ({_ORDER: {"enum": ["asc", "desc"]}} if ordered else {})


def limit(query: Mapping[str, str], max_limit: int) -> int:
    """The number of entries to list, from 1 to `max_limit`, which is also the default."""
    text = query.get("limit")
    count = int(text) if text is not None and text.isdecimal() and len(text) < 10 else text
    check_number("limit", count, 1, max_limit, whole=True)
    return max_limit if count is None else int(count)


def newest_first(query: Mapping[str, str]) -> bool:
    order = query.get(_ORDER, "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order is {order!r:.100}; it must be asc or desc", _ORDER)
    return order == "desc"


def page(entries: Sequence[T], after: str | None, count: int) -> tuple[Sequence[T], bool]:
    """At most `count` entries after the one with the id `after`, and whether there are more. Raises `NotFound`."""
    begin = next((i + 1 for i, entry in enumerate(entries) if entry.id == after), 0)
    if after is not None and not begin:
        raise NotFound(f"after: there is no entry {after!r:.100} in this list", "after")
    return entries[begin : begin + count], len(entries) > begin + count
