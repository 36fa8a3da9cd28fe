"""Lays out the messages of a chat as turns that a chat template can show; what it cannot show is written as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..types.messages import Message, ToolCall
from .template_traits import TemplateTraits
from .turns import SYSTEM_ROLES, Protect, Turn, merged, protected, written_call, written_result

EMPTY_USER_TEXT = "(Begin.)"
"""Stands for the user's turn before an assistant's greeting, under a template that refuses an empty one."""
EMPTY_ASSISTANT_TEXT = "(Noted.)"
"""Stands for the assistant's turn between a tool's result and the user, under a template that refuses an empty one."""


@dataclass(frozen=True)
class Plan:
    """How a chat is laid out.

    `as_text`: the indexes of messages whose calls, results or system role become text. `strict_turns`: everything but
    texts of user and assistant becomes text, and they alternate. `one_turn`: all is one message of the user.
    `tools_as_text`: a message explains the tools; `None` if there are no tools.
    """

    tools_as_text: bool | None = None
    as_text: frozenset[int] = frozenset()
    strict_turns: bool = False
    one_turn: bool = False


def lay_out(
    messages: Sequence[Message], contents: Sequence[str], traits: TemplateTraits, protect: Protect, plan: Plan
) -> list[Turn]:
    """The turns for the template. `contents` are the messages' protected contents."""
    layout = _Layout(traits, protect, plan)
    entries = [_Entry(i, m, content) for i, (m, content) in enumerate(zip(messages, contents, strict=True))]
    if traits.calls and not plan.strict_turns and not traits.parallel_calls:
        entries = list(_one_call_each(entries, plan.as_text))
    for i, entry in enumerate(entries):
        layout.add(entry, entries[i + 1].message.role if i + 1 < len(entries) else None)
    turns = layout.finished()
    return [_transcript(turns)] if plan.one_turn else turns


@dataclass(frozen=True)
class _Entry:
    """A message with its index in the request and its protected content."""

    index: int
    message: Message
    content: str


class _Layout:
    """The turns so far."""

    def __init__(self, traits: TemplateTraits, protect: Protect, plan: Plan) -> None:
        self._traits = traits
        self._protect = protect
        self._plan = plan
        self._turns: list[Turn] = []
        self._waiting: list[Turn] = []
        """The user's turns that are put after the results of the open calls."""
        self._open_calls: dict[str, str] = {}
        """The names of the last calls that the template shows, by their ids."""
        self._answered: set[str] = set()
        """The ids of those that have a result."""

    def add(self, entry: _Entry, next_role: str | None) -> None:
        role = entry.message.role
        if role == "tool":
            self._add_result(entry)
            return
        if role in SYSTEM_ROLES and self._open_calls and next_role == "tool" and not self._shows_late_system(entry):
            self._waiting.append(self._turn(entry, "user"))
            return
        self._end_results()
        if role in SYSTEM_ROLES:
            self._add_system(entry)
        elif role == "assistant" and entry.message.tool_calls:
            self._add_calls(entry, next_role)
        else:
            self._append(self._turn(entry, role))

    def finished(self) -> list[Turn]:
        """All turns, merged and filled up as the template requires."""
        self._end_results()
        strict, traits = self._plan.strict_turns, self._traits
        turns: list[Turn] = []
        for turn in self._turns:
            if turns and self._must_merge(turns[-1], turn):
                turns[-1] = merged(turns[-1], turn)
            elif turn.role == "user" and turns and turns[-1].role == "tool" and not traits.users_after_results:
                turns += [Turn("assistant", "" if traits.silence else EMPTY_ASSISTANT_TEXT), turn]
            else:
                turns.append(turn)
        start = next((i for i, turn in enumerate(turns) if turn.role not in SYSTEM_ROLES), len(turns))
        if start == 0 and traits.needs_system:
            turns.insert(0, Turn("system"))
            start = 1
        filler = Turn("user", "" if traits.empty_users and start < len(turns) else EMPTY_USER_TEXT)
        first_role = turns[start].role if start < len(turns) else None
        may_start = first_role == "user" or self._may_start(turns, first_role)
        if not may_start:
            turns.insert(start, filler)
        if strict and turns[-1].role == "assistant" and not traits.final_assistants:
            turns.append(Turn("user", EMPTY_USER_TEXT))
        return turns

    def _may_start(self, turns: Sequence[Turn], first_role: str | None) -> bool:
        """Whether the template shows turns that do not begin with the user's; without a role, only a system message."""
        traits = self._traits
        if self._plan.tools_as_text is False and traits.tools_need_user:
            return False
        if first_role is None:
            return traits.lone_system_messages
        if first_role != "assistant":
            return True
        has_user = any(turn.role == "user" for turn in turns)
        return not self._plan.strict_turns and (traits.greetings if has_user else traits.lone_assistants)

    def _turn(self, entry: _Entry, role: str) -> Turn:
        message, protect = entry.message, self._protect
        name = None if message.name is None else protect(message.name)
        reasoning = protect(message.reasoning) if message.reasoning else None
        return Turn(role, entry.content, reasoning=reasoning, name=name, sources=(entry.index,))

    def _append(self, turn: Turn) -> None:
        silent = turn.role == "assistant" and turn.is_silent
        if not silent or not (self._plan.strict_turns or not self._traits.silence):
            self._turns.append(turn)

    def _end_results(self) -> None:
        self._turns += self._waiting
        self._waiting = []
        self._open_calls, self._answered = {}, set()

    def _shows_late_system(self, entry: _Entry) -> bool:
        if entry.index in self._plan.as_text or self._plan.strict_turns:
            return False
        return self._traits.late_system_messages

    def _add_system(self, entry: _Entry) -> None:
        role = entry.message.role if self._traits.developer_role else "system"
        leads = all(turn.role in SYSTEM_ROLES for turn in self._turns)
        if self._shows_late_system(entry):
            self._turns.append(self._turn(entry, role))
        elif not leads or not self._traits.system_messages or entry.index in self._plan.as_text:
            self._append(self._turn(entry, "user"))
        elif self._turns and (self._plan.strict_turns or not self._traits.repeated_system_messages):
            self._turns[-1] = merged(self._turns[-1], self._turn(entry, role))
        else:
            self._turns.append(self._turn(entry, role))

    def _add_result(self, entry: _Entry) -> None:
        message, traits, plan = entry.message, self._traits, self._plan
        call_id = message.tool_call_id or next((i for i in self._open_calls if i not in self._answered), None)
        is_answer = call_id in self._open_calls
        as_text = plan.strict_turns or entry.index in plan.as_text or not traits.results
        if as_text or call_id is None or not (is_answer or traits.stray_results or not traits.calls):
            text = written_result(entry.content)
            last = self._turns[-1] if self._turns else None
            if last and last.role == "user" and last.content.startswith("<tool_response>"):
                self._turns[-1] = replace(last, content=f"{last.content}\n{text}", sources=(*last.sources, entry.index))
            else:
                self._append(replace(self._turn(entry, "user"), content=text, name=None))
            return
        name = self._protect(message.name) if message.name is not None else self._open_calls.get(call_id, "")
        self._answered.add(call_id)
        self._turns.append(Turn("tool", entry.content, call_id=call_id, name=name, sources=(entry.index,)))

    def _add_calls(self, entry: _Entry, next_role: str | None) -> None:
        traits, plan = self._traits, self._plan
        turn = self._turn(entry, "assistant")
        calls = _protected_calls(entry.message.tool_calls, self._protect)
        answered = next_role in ("tool", None) or traits.unanswered_calls
        native = traits.calls and calls is not None and not plan.strict_turns and entry.index not in plan.as_text
        beside = turn.is_silent or traits.text_beside_calls
        if not (native and answered and (beside or traits.calls_after_text)):
            self._append(replace(turn, content=f"{turn.content}\n{self._calls_as_text(entry.message)}".lstrip()))
            return
        assert calls is not None
        self._open_calls = {call.id: call.name for call in calls}
        if not beside:
            self._append(replace(turn, reasoning=None))
            turn = replace(turn, content="")
        self._turns.append(replace(turn, calls=calls))

    def _calls_as_text(self, message: Message) -> str:
        """The calls in the model's own form, or as plain text if their arguments cannot be written in it."""
        calls = _protected_calls(message.tool_calls, self._protect)
        if calls is not None:
            return self._traits.tool_format.render(calls)
        return "\n".join(self._protect(written_call(call)) for call in message.tool_calls)

    def _must_merge(self, last: Turn, turn: Turn) -> bool:
        if last.role != turn.role or last.calls or (turn.calls and not self._traits.text_beside_calls):
            return False
        if turn.role == "user":
            return self._plan.strict_turns or not self._traits.repeated_users
        return turn.role == "assistant" and (self._plan.strict_turns or not self._traits.repeated_assistants)


def _protected_calls(calls: Sequence[ToolCall], protect: Protect) -> tuple[ToolCall, ...] | None:
    """The calls with their texts protected; `None` if the arguments of one are not a JSON object."""
    protected_calls = []
    for call in calls:
        arguments = call.arguments_object
        if arguments is None:
            return None
        text = json.dumps(protected(arguments, protect), ensure_ascii=False)
        protected_calls.append(ToolCall(call.id, protect(call.name), text))
    return tuple(protected_calls)


def _one_call_each(entries: Sequence[_Entry], as_text: frozenset[int]) -> Iterator[_Entry]:
    """Splits messages with several calls: each call gets its own message, followed by its results."""
    remaining = list(reversed(entries))
    while remaining:
        entry = remaining.pop()
        calls = entry.message.tool_calls
        if len(calls) < 2 or entry.index in as_text or any(call.arguments_object is None for call in calls):
            yield entry
            continue
        results: list[_Entry] = []
        while remaining and remaining[-1].message.role == "tool":
            results.append(remaining.pop())
        for i, call in enumerate(calls):
            message = replace(entry.message, tool_calls=(call,), reasoning=None if i else entry.message.reasoning)
            yield _Entry(entry.index, message, "" if i else entry.content)
            yield from (result for result in results if result.message.tool_call_id == call.id)
        call_ids = {call.id for call in calls}
        yield from (result for result in results if result.message.tool_call_id not in call_ids)


def _transcript(turns: Sequence[Turn]) -> Turn:
    """All turns as one turn of the user, each preceded by its role."""
    lines = [f"{turn.role.capitalize()}: {turn.content}" for turn in turns if turn.sources]
    return Turn("user", "\n\n".join(lines), sources=tuple(i for turn in turns for i in turn.sources))
