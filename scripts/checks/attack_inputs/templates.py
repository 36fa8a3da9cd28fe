"""Chats that trigger the hostile parts of the attacked server's chat template. Other chats get a normal prompt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from fakes.hostile_templates import BOMBS

from .target import CHAT, Target

_NEXT = itertools.cycle(BOMBS)
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def _set_off(target: Target, names: Iterable[str], **fields: object) -> list[int]:
    return [target.post(CHAT, {"messages": [{"role": "user", "content": name}], **fields}) for name in names]


def template_that_grows(target: Target) -> list[int]:
    return _set_off(target, ["list in a list", "doubled list", "doubled text", "replaced text"])


def template_that_never_ends(target: Target) -> list[int]:
    return _set_off(target, ["loop", "repr", "power of a rounded number", "chain of comparisons"])


def template_with_tools(target: Target) -> list[int]:
    """Other layouts of the chat are tried when a template refuses tools."""
    return _set_off(target, ["loop", "doubled list"], tools=[_TOOL])


def template_of_every_kind(target: Target) -> list[int]:
    return _set_off(target, [next(_NEXT)])
