"""Lists told page by page, as OpenAI's API has them: what a query may say, and which entries it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from ....models.errors import InvalidRequest, NotFound
from ...types.request import check_number

_ORDER = "order"


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


class ListEntry(NamedTuple):
    """What has no `id` of its own."""

    id: str
    told: Any = None


def query(most: int, ordered: bool = True) -> dict[str, Any]:
    """The schemas of what a query may say."""
    limits: dict[str, Any] = {"limit": {"type": "integer", "minimum": 1, "maximum": most}, "after": {"type": "string"}}
    return limits | ({_ORDER: {"enum": ["asc", "desc"]}} if ordered else {})


def limit(asked: Mapping[str, str], most: int) -> int:
    """How many to list, from 1 to `most`; all that may be where nothing is said."""
    text = asked.get("limit")
    count = int(text) if text is not None and text.isdecimal() and len(text) < 10 else text
    check_number("limit", count, 1, most, whole=True)
    return most if count is None else int(count)


def newest_first(asked: Mapping[str, str]) -> bool:
    order = asked.get(_ORDER, "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order is {order!r:.100}, and must be asc or desc", _ORDER)
    return order == "desc"


def cut(entries: Sequence[T], after: str | None, count: int) -> tuple[Sequence[T], bool]:
    """So many entries behind the one named `after`, and whether there are more. Raises `NotFound`."""
    begin = next((i + 1 for i, entry in enumerate(entries) if entry.id == after), 0)
    if after is not None and not begin:
        raise NotFound(f"after: there is no {after!r:.100} here", "after")
    return entries[begin : begin + count], len(entries) > begin + count
