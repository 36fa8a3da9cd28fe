"""What a chat template supports, detected by rendering small chats when it is first asked. Knows no tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

from ...models.errors import TemplateRefusal
from ..output.tool_formats.tool_format import ToolFormat
from ..types.messages import Tool, ToolCall
from .chat_shape import MARKED_TOOL, TOOL_MARKS, ChatShape, TurnShape, marked_turns, shape_of
from .template import ChatTemplate
from .template_input import REASONING_KEYS, TemplateInput, calling_message, rendered
from .turns import Turn

_PROBE = "galago-probe"
_USER = {"role": "user", "content": "Hi"}
MAX_REMEMBERED_CHATS = 1000

TOOLS = -1
"""Stands for the tools among the indexes of turns missing from a prompt."""


class TemplateTraits:
    """What a template supports. Each property is detected once, when it is first needed."""

    def __init__(self, template: ChatTemplate, tool_format: ToolFormat) -> None:
        self.template = template
        self.tool_format = tool_format
        self._input = TemplateInput(template, tool_format)
        self._lost: dict[tuple[tuple[TurnShape, ...], bool | None], frozenset[int] | None] = {}

    def shows(self, chat: str) -> bool:
        """Whether the template shows all texts of a chat, given as words.

        The words are roles and: `nothing` and `silence` for empty turns of a user and an assistant, `call`,
        `two-calls`, and `text+call` for an assistant's calls, `result` and `other-result` for their results.
        """
        return self.lost(shape_of(_example(chat)), None) == frozenset()

    def lost(self, chat: ChatShape, tools_as_text: bool | None) -> frozenset[int] | None:
        """The indexes of turns that the prompt does not show in full; `None` if the template refuses such a chat.

        Reasoning and names may be missing. `tools_as_text`: the chat has tools, and they are written into a message;
        `None` if there are none.
        """
        key = chat.shapes, tools_as_text
        known = self._lost
        if key not in known:
            if len(known) >= MAX_REMEMBERED_CHATS:
                known = self._lost = {}
            known[key] = self._probe(chat.shapes, tools_as_text)
        lost = known[key]
        return None if lost is None else frozenset(i for turn in lost for i in _represented(chat, turn))

    def _probe(self, shapes: Sequence[TurnShape], tools_as_text: bool | None) -> frozenset[int] | None:
        turns, marks = marked_turns(shapes)
        tools = () if tools_as_text is None else (MARKED_TOOL,)
        try:
            text = self.render(turns, tools, tools_as_text is True)
        except TemplateRefusal:
            return None
        lost = {m.turn for m in marks if m.part not in ("reasoning", "name") and m.text not in text}
        if tools and not all(mark in text for mark in TOOL_MARKS):
            lost.add(TOOLS)
        return frozenset(lost)

    def render(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Tool],
        tools_as_text: bool,
        switches: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Renders the template; with `tools_as_text` a message explains the tools. Raises `TemplateRefusal`."""
        messages = self._input.messages(turns)
        if not tools:
            return self.template.render(messages, **switches)
        if tools_as_text:
            self._input.explain(tools, messages, in_system=self.system_messages)
            return self.template.render(messages, **switches)
        return self.template.render(messages, tools=self._input.tools(tools, messages), **switches)

    @property
    def calls(self) -> bool:
        """It shows tool calls."""
        return self._input.call_style is not None

    @cached_property
    def tools(self) -> bool:
        """It shows the tools."""
        lost = self.lost(shape_of(_example("user")), False) if self._input.has_format else None
        return lost is not None and TOOLS not in lost

    @cached_property
    def tools_need_user(self) -> bool:
        """With tools it takes the first message for the user's, whoever wrote it, as Llama 3's templates do."""
        prompts = []
        for first in ("user", "assistant"):
            turns, _ = marked_turns(shape_of(_example(f"{first} user")).shapes)
            try:
                prompts.append(self.render(turns, (MARKED_TOOL,), False))
            except TemplateRefusal:
                prompts.append(first)
        return prompts[0] == prompts[1]

    @cached_property
    def parallel_calls(self) -> bool:
        """A message may hold several calls."""
        return not self.calls or self.shows("user two-calls")

    @cached_property
    def text_beside_calls(self) -> bool:
        """It shows the text of a message that also calls tools."""
        return self.shows("user text+call result assistant user" if self.results else "user text+call")

    @cached_property
    def calls_after_text(self) -> bool:
        """An assistant's message that calls tools may follow one with text."""
        return self.shows("user assistant call result assistant user")

    @cached_property
    def results(self) -> bool:
        """It shows tool results."""
        return self._input.has_format and self.shows("user call result" if self.calls else "user assistant result")

    @cached_property
    def stray_results(self) -> bool:
        """It shows results of calls that it has not seen."""
        return self.results and self.shows("result user") and self.shows("user result user assistant user")

    @cached_property
    def users_after_results(self) -> bool:
        """A user's message may follow a result."""
        return self.shows("user call result user")

    @cached_property
    def unanswered_calls(self) -> bool:
        """A user's message may follow a call without a result."""
        return self.shows("user call user")

    @cached_property
    def system_messages(self) -> bool:
        """System messages may come first."""
        return self.shows("system user")

    @cached_property
    def repeated_system_messages(self) -> bool:
        """Several system messages may come first."""
        return self.shows("system system user")

    @cached_property
    def late_system_messages(self) -> bool:
        """System messages may stand anywhere."""
        return self.shows("system user assistant system user") and self.shows("user system")

    @cached_property
    def developer_role(self) -> bool:
        """It knows the role of developers."""
        return (
            "developer" in self.template.source
            and self.shows("developer user")
            and (not self.late_system_messages or self.shows("user developer user"))
        )

    @cached_property
    def repeated_users(self) -> bool:
        """Several messages of the user may follow each other."""
        return self.shows("user user assistant user")

    @cached_property
    def repeated_assistants(self) -> bool:
        """Several messages of the assistant may follow each other."""
        return self.shows("user assistant assistant user")

    @cached_property
    def greetings(self) -> bool:
        """The assistant may speak first."""
        return self.shows("assistant user") and (not self.system_messages or self.shows("system assistant user"))

    @cached_property
    def silence(self) -> bool:
        """An assistant's message may be empty."""
        return self.shows("user silence user")

    @cached_property
    def empty_users(self) -> bool:
        """A user's message may be empty."""
        return self.shows("nothing assistant user")

    @cached_property
    def needs_system(self) -> bool:
        """A chat must have a system message."""
        return not self.shows("user") and self.shows("system user")

    @cached_property
    def lone_system_messages(self) -> bool:
        """A chat may have only a system message."""
        return self.shows("system")

    @cached_property
    def lone_assistants(self) -> bool:
        """A chat may have no message of the user."""
        return self.shows("assistant") and (not self.calls or self.shows("call result"))

    @cached_property
    def final_assistants(self) -> bool:
        """A chat may end with the assistant."""
        return self.shows("user assistant")

    @cached_property
    def shows_names(self) -> bool:
        """It shows the names in messages."""
        return _PROBE in rendered(self.template, [{**_USER, "name": _PROBE}])

    @cached_property
    def shows_reasoning(self) -> bool:
        """It shows an assistant's reasoning at least in an unfinished answer."""
        if not any(key in self.template.source for key in REASONING_KEYS):
            return False
        reasoning = dict.fromkeys(REASONING_KEYS, _PROBE)
        answer, calling = {"role": "assistant", "content": "Hi"}, calling_message({}, self._input.empty_content)
        return any(_PROBE in rendered(self.template, [_USER, m | reasoning]) for m in (answer, calling))


_CALL, _OTHER_CALL = ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}")
_WORDS = {role: Turn(role, "x") for role in ("system", "developer", "user", "assistant")} | {
    "nothing": Turn("user"),
    "silence": Turn("assistant"),
    "call": Turn("assistant", calls=(_CALL,)),
    "two-calls": Turn("assistant", calls=(_CALL, _OTHER_CALL)),
    "text+call": Turn("assistant", "x", calls=(_CALL,)),
    "result": Turn("tool", "x", call_id="a", name="f"),
    "other-result": Turn("tool", "x", call_id="b", name="f"),
}


def _represented(chat: ChatShape, turn: int) -> tuple[int, ...]:
    return (TOOLS,) if turn == TOOLS else chat.turns[turn]


def _example(chat: str) -> list[Turn]:
    """A chat whose turns are given as words."""
    return [_WORDS[word] for word in chat.split()]
