"""Parts of a JSON schema that are not enforced: a warning for each, or an error if every part must be."""

from __future__ import annotations

from ....models.errors import InvalidRequest
from ...types.warnings import Warnings

_MAX_PLACE_CHARS = 200
_MAX_REASON_CHARS = 300


class Omissions:
    """Collects warnings about the parts of a schema that are not enforced.

    With `complete`, everything must be enforced: the first omission raises `InvalidRequest` with the request's `field`.
    `tool`: the name of the tool that the schema belongs to, if it is not an answer's.
    """

    def __init__(
        self, warnings: Warnings, *, complete: bool = True, field: str = "json_schema", tool: str | None = None
    ):
        self.warnings = warnings
        self.complete = complete
        self._field = field
        self._subject = "" if tool is None else f"the tool {tool!r}: "
        self._refusal = "" if tool is None else f"the parameters of the tool {tool!r} cannot be enforced: "

    def omit(self, keyword: str, place: str, reason: str) -> None:
        """Leaves a keyword unenforced; `reason` continues a sentence that begins with the keyword."""
        where, reason = f"{keyword} at {place[:_MAX_PLACE_CHARS]}", reason[:_MAX_REASON_CHARS]
        if self.complete:
            raise InvalidRequest(f"{self._refusal}{where} {reason}", self._field)
        self.warnings.add_unless_strict(f"{self._subject}{where} is not enforced: it {reason}", self._field)

    def change(self, keyword: str, place: str, problem: str, instead: str | None = None) -> None:
        """Notes that a keyword is enforced as something else, or that it is an annotation of unknown meaning."""
        text = f"{self._subject}{keyword} at {place[:_MAX_PLACE_CHARS]} {problem}"
        self.warnings.add_unless_strict(text, self._field, instead=instead)

    def unknown(self, keyword: str, place: str) -> None:
        """Notes that a keyword is not one of JSON Schema, which allows any others."""
        problem = (
            f"{self._subject}the keyword {keyword[:80]!r} at {place[:_MAX_PLACE_CHARS]} of the JSON schema is unknown"
        )
        self.warnings.add_unless_strict(problem, self._field, instead="it is ignored")


class Omitted(Exception):
    """Why a keyword cannot be enforced, as the end of a sentence that begins with the keyword."""
