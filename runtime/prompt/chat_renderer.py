"""Renders a chat so that everything in it is in the prompt, or a warning names what is not. Knows no tokens.

The chat is laid out as the template's traits suggest. A chat of the same shape with short marks as texts shows whether
the template accepts this layout and loses nothing. If not, the lost parts are written as text, then all calls and
results, and finally the whole chat is written into one message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...models.errors import TemplateRefusal
from ..types.messages import Message, Tool
from .chat_shape import is_shown, shape_of
from .layout import Plan, lay_out
from .template_traits import TOOLS, TemplateTraits
from .turns import Protect, Turn, protected_tool

if TYPE_CHECKING:
    from ..output.reasoning import ReasoningTags
    from ..types.warnings import Warnings

_MAX_PLANS = 8
_SHOWN_CHARS = 60
"""A warning quotes this much of a lost text."""


@dataclass(frozen=True)
class _Attempt:
    """A prompt, how it was laid out, and the indexes of turns that it shows only in part or not at all."""

    rendered: str
    plan: Plan
    turns: Sequence[Turn]
    lost: frozenset[int]


class ChatRenderer:
    """Renders chats with one template. `reasoning_tags` are those around reasoning, if the template mentions any."""

    def __init__(self, traits: TemplateTraits, reasoning_tags: ReasoningTags | None) -> None:
        self._traits = traits
        self._tags = reasoning_tags

    def render(
        self,
        messages: Sequence[Message],
        contents: Sequence[str],
        tools: Sequence[Tool],
        protect: Protect,
        switches: Mapping[str, Any],
        warnings: Warnings,
    ) -> str:
        """The prompt as text. `contents` are the messages' protected contents; `switches` are set for the template.

        Raises `TemplateRefusal` if the template refuses even a single message of the user.
        """
        tools = [protected_tool(tool, protect) for tool in tools]
        attempt, refusal = self._best_attempt(messages, contents, tools, protect, switches)
        self._warn(attempt, refusal, messages, contents, warnings)
        return attempt.rendered

    def _hidden(self, messages: Sequence[Message], contents: Sequence[str], rendered: str) -> Iterator[int]:
        """The indexes of messages whose text a prompt lacks, unless it is an assistant's with reasoning in it."""
        for i, (message, content) in enumerate(zip(messages, contents, strict=True)):
            in_tags = message.role == "assistant" and self._tags is not None and self._tags.closing in message.text
            if content not in rendered and not in_tags and not is_shown(content, rendered):
                yield i

    def _best_attempt(
        self,
        messages: Sequence[Message],
        contents: Sequence[str],
        tools: Sequence[Tool],
        protect: Protect,
        switches: Mapping[str, Any],
    ) -> tuple[_Attempt, TemplateRefusal | None]:
        """The first attempt that lacks nothing, or the one that lacks least; and why the template refused the first."""
        plan: Plan | None = Plan(not self._traits.tools if tools else None)
        best: _Attempt | None = None
        refusal: TemplateRefusal | None = None
        tried = 0
        while plan is not None and tried < _MAX_PLANS:
            tried += 1
            turns = lay_out(messages, contents, self._traits, protect, plan)
            lost = self._traits.lost(shape_of(turns), plan.tools_as_text)
            try:
                rendered = self._traits.render(turns, tools, plan.tools_as_text is True, switches)
            except TemplateRefusal as error:
                if lost is not None and plan.tools_as_text is False:  # it accepts such a chat, but not these tools
                    plan = replace(plan, tools_as_text=True)
                    continue
                refusal, lost = refusal or error, None
            else:
                lost = lost or frozenset()
                if best is None or len(lost) < len(best.lost):
                    best = _Attempt(rendered, plan, turns, lost)
                if not lost:
                    return best, refusal
            plan = _next_plan(plan, turns, lost)
        if best is None:
            assert refusal is not None
            raise refusal
        return best, refusal

    def _warn(
        self,
        attempt: _Attempt,
        refusal: TemplateRefusal | None,
        messages: Sequence[Message],
        contents: Sequence[str],
        warnings: Warnings,
    ) -> None:
        for i, message in enumerate(messages):
            for call in message.tool_calls:
                if call.arguments_object is None:
                    warnings.append(
                        f"the arguments of the call of {call.name} in messages[{i}] are not a JSON object, so "
                        "the model sees the call as text"
                    )
        if refusal is not None:
            form = "written into one message" if attempt.plan.one_turn else "shown to it as text in alternating turns"
            warnings.append(f"{refusal.message}; so they are {form}")
        hidden = {i for turn in attempt.lost - {TOOLS} for i in attempt.turns[turn].sources}
        hidden |= set(self._hidden(messages, contents, attempt.rendered))
        if TOOLS in attempt.lost:
            warnings.add_unless_strict("the model's chat template does not show the tools", "tools")
        for i in sorted(hidden):
            text = repr(messages[i].text[:_SHOWN_CHARS])
            warnings.add_unless_strict(
                f"the model's chat template does not show all of messages[{i}], of the role {messages[i].role}: {text}",
                "messages",
            )
        names = {m.name: None for m in messages if m.name and m.role != "tool"}
        if names and not self._traits.shows_names:
            warnings.add_unless_strict(
                "the names in the messages have no effect, because the model's chat template does not show names: "
                + ", ".join(names),
                "messages",
            )
        if any(m.reasoning for m in messages) and not self._traits.shows_reasoning:
            problem = "the model's chat template has no place for the reasoning in the messages"
            warnings.add_unless_strict(problem, "messages", instead="it is left out")


def _next_plan(plan: Plan, turns: Sequence[Turn], lost: frozenset[int] | None) -> Plan | None:
    """What to try after a plan that lost something, or that the template refused (`None`)."""
    if lost:
        sources = {i for turn in lost - {TOOLS} for i in turns[turn].sources}
        tools_as_text = True if TOOLS in lost else plan.tools_as_text
        better = replace(plan, as_text=plan.as_text | sources, tools_as_text=tools_as_text)
        if better != plan:
            return better
    if not plan.strict_turns:
        return replace(plan, strict_turns=True)
    if plan.tools_as_text is False:
        return replace(plan, tools_as_text=True)
    return None if plan.one_turn else replace(plan, one_turn=True)
