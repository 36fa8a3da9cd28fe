"""The variables of a chat template that a request sets: its own, and those for the reasoning effort."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...models.errors import InvalidRequest
from ..types.messages import ReasoningEffort
from .template import RESERVED, ChatTemplate
from .turns import Protect, protected

_REASONING_SWITCHES = ("enable_thinking", "thinking")
_COMMON_EFFORTS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium"}
"""The efforts that every template with an effort supports. All others become `high`."""


def known_variables(
    template: ChatTemplate, given: Mapping[str, Any], protect: Protect
) -> tuple[dict[str, Any], list[str]]:
    """The given variables that the template has, and the names of the unknown ones.

    Raises `InvalidRequest` for reserved variables.
    """
    for name in given:
        if name in RESERVED:
            raise InvalidRequest(
                f"chat_template_kwargs must not set {name!r}, which is set by the server", "chat_template_kwargs"
            )
    known = {name: protected(value, protect) for name, value in given.items() if name in template.variables}
    return known, [name for name in given if name not in known]


def other_switch(template: ChatTemplate, variables: Mapping[str, Any]) -> str | None:
    """A given variable that switches reasoning in other templates but not in this one, if there is one."""
    given = (name for name in _REASONING_SWITCHES if isinstance(variables.get(name), bool))
    return next((name for name in given if name not in template.variables), None)


def reasoning_switches(template: ChatTemplate, effort: ReasoningEffort | None) -> tuple[dict[str, Any], bool]:
    """The template's variables that set the reasoning effort, and whether it has any."""
    if effort is None:
        return {}, True
    switches: dict[str, Any] = {name: effort != "none" for name in _REASONING_SWITCHES if name in template.variables}
    if "reasoning_effort" in template.variables:
        is_known = f"'{effort}'" in template.source or f'"{effort}"' in template.source
        switches["reasoning_effort"] = effort if is_known else _COMMON_EFFORTS.get(effort, "high")
    return switches, bool(switches)
