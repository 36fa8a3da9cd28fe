"""Reads switches of reasoning in the forms of other programs, for the dialects of all APIs."""

from __future__ import annotations

from typing import Any

REASONING_FIELDS = ("reasoning", "think", "thinking", "enable_thinking")
"""Fields of OpenRouter, Ollama, Anthropic and Qwen for what the chat API calls `reasoning_effort`."""
_SWITCHES = {
    "true": True, "on": True, "yes": True, "enabled": True, "adaptive": True,
    "false": False, "off": False, "no": False, "none": False, "disabled": False,
}  # fmt: skip


_MEMBERS = ("effort", "enabled", "type")
"""Members of an object that say whether to reason, and how much."""


def effort_or_switch(given: Any) -> Any:
    """An effort by its name, or whether to reason at all; any other value is left as it is."""
    if isinstance(given, dict):
        members = [given[name] for name in _MEMBERS if given.get(name) is not None]
        return effort_or_switch(members[0]) if members and not isinstance(members[0], dict) else given
    if isinstance(given, str):
        word = given.strip().lower()
        return _SWITCHES.get(word, word)
    return bool(given) if given in (0, 1) else given


def effort(given: Any) -> Any:
    """An effort by its name; reasoning without one is of medium effort."""
    read = effort_or_switch(given)
    return {True: "medium", False: "none"}[read] if isinstance(read, bool) else read


def other_members(given: Any) -> list[str]:
    """The members of an object that ask for more than an effort, such as a budget of tokens."""
    members = given.items() if isinstance(given, dict) else ()
    return [name for name, value in members if name not in _MEMBERS and value is not None and value is not False]
