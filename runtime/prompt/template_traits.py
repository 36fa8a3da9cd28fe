"""Lays a chat with tools out as a chat template expects it, or writes them into messages where it has no place for it.

What a template can do is found out by rendering small chats with it. Knows no tokens.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from ...models.errors import InvalidRequest, TemplateError
from ..output.tool_formats.tool_format import ToolFormat, shown
from ..types.messages import Effort, Message, Tool, ToolCall
from .template import RESERVED, ChatTemplate

Protect = Callable[[str], str]
"""Keeps a text from becoming control tokens."""

_PROBE = "galago-probe"
_USER = {"role": "user", "content": "Hi"}
_THINKING = ("enable_thinking", "thinking")
_EFFORTS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium"}
"""What every template that takes an effort knows; high stands for the others."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What templates call an assistant's thoughts."""


@dataclass(frozen=True)
class TemplateTraits:
    """What a template has a place for.

    `arguments_as_text`: it wants a call's arguments as JSON text. `silent`: what is said beside calls, where that is
    nothing: `None`, or an empty text for templates that cannot do without one. `several` calls may stand in one
    message, and `thoughts` beside what is said with them. `system` messages may stand at the beginning, and `later`
    ones behind them. `twice`: one who has just said something may say more. `names`: it shows who says something.
    """

    template: ChatTemplate
    dialect: ToolFormat
    tools: bool
    calls: bool
    arguments_as_text: bool
    silent: str | None
    several: bool
    thoughts: bool
    results: bool
    system: bool
    later: bool
    developer: bool
    twice: bool
    names: bool

    def messages(
        self, messages: Sequence[Message], contents: Sequence[str], tools: Sequence[Tool], protect: Protect
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """Messages and tools as the template takes them. `contents` are the messages' own, protected already."""
        tools = [_protected_tool(tool, protect) for tool in tools]
        laid: list[dict[str, Any]] = []
        names = {call.id: call.name for message in messages for call in message.calls}
        pairs = zip(messages, contents, strict=True)
        instructions: list[str] = []  # those of system messages that must wait for the next user's
        for message, content in pairs if self.several else _one_call_each(pairs):
            if message.role == "tool" and not self.results:
                _add_result(laid, content)
            elif message.role not in ("system", "developer") or self.later or (self.system and not laid):
                laid.append(self._message(message, content, names, protect))
                if message.role == "user" and instructions:
                    laid[-1]["content"] = "\n\n".join([*instructions, content])
                    instructions.clear()
            elif laid and laid[-1]["role"] in ("system", "developer"):
                laid[-1]["content"] += f"\n\n{content}"
            else:
                instructions.append(content)
        if instructions:
            laid.append({"role": "user", "content": "\n\n".join(instructions)})
        laid = laid if self.twice else _taking_turns(laid)
        if not tools:
            return laid, None
        if self.dialect.tools_in_system:
            _system(laid)["tools"] = json.dumps([shown(tool)["function"] for tool in tools], ensure_ascii=False)
        elif not self.tools:
            first = _system(laid) if self.system else next((m for m in laid if m["role"] == "user"), laid[0])
            texts = [first["content"] or "", self.dialect.describe(tools)]
            first["content"] = "\n\n".join(texts if self.system else reversed(texts)).strip()
            return laid, None
        return laid, [shown(tool) for tool in tools]

    def variables(self, given: Mapping[str, Any], protect: Protect) -> tuple[dict[str, Any], list[str]]:
        """Those of the variables given for the template that it has, and the names of the others.

        Raises `InvalidRequest` for those that are not for a request to set.
        """
        for name in given:
            if name in RESERVED:
                raise InvalidRequest(f"chat_template_kwargs may not set {name!r}", "chat_template_kwargs")
        known = {name: _protected(value, protect) for name, value in given.items() if name in self.template.variables}
        return known, [name for name in given if name not in known]

    def switches(self, effort: Effort | None) -> tuple[dict[str, Any], bool]:
        """The template's variables that stand for an effort, and whether it has any that does."""
        if effort is None:
            return {}, True
        found: dict[str, Any] = {name: effort != "none" for name in _THINKING if name in self.template.variables}
        if "reasoning_effort" in self.template.variables:
            spoken = f"'{effort}'" in self.template.source or f'"{effort}"' in self.template.source
            found["reasoning_effort"] = effort if spoken else _EFFORTS.get(effort, "high")
        return found, bool(found)

    def _message(self, message: Message, content: str, names: dict[str, str], protect: Protect) -> dict[str, Any]:
        role = "system" if message.role == "developer" and not self.developer else message.role
        laid: dict[str, Any] = {"role": role, "content": content}
        if message.name is not None:
            laid["name"] = protect(message.name)
        if message.reasoning:
            thought = protect(message.reasoning)
            if message.calls and content and not self.thoughts:
                thought, content = f"{thought}\n\n{content}", ""
            laid |= {key: thought for key in _THOUGHTS if key in self.template.source}
        if message.answers is not None:
            laid["tool_call_id"] = self._id(message.answers)
            laid.setdefault("name", protect(names.get(message.answers, "")))
        if message.calls:
            calls = [_protected_call(call, protect) for call in message.calls]
            if self.calls:
                laid["tool_calls"] = [self._call(call) for call in calls]
                laid["content"] = content or self.silent
            else:
                laid["content"] = f"{content}\n{self.dialect.write(calls)}".lstrip()
        return laid

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments if self.arguments_as_text else call.parsed()
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _id(self, text: str) -> str:
        """An id as the template takes it: always the same for the same one."""
        length = self.dialect.id_length
        if length is None or (len(text) == length and text.isascii() and text.isalnum()):
            return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "-_"))
        return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()[:length]


def layout_for(template: ChatTemplate, dialect: ToolFormat) -> TemplateTraits:
    """Finds out what a template has a place for."""
    speaks = bool(dialect.detects)
    result = {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": _PROBE}

    def shows_result(way: tuple[bool, str | None]) -> bool:
        as_text, silent = way
        return _shows(template, [_USER, _calling("{}" if as_text else {}, silent), result])

    ways = list(_ways_of_calling(template)) if speaks else []
    as_text, silent = max(ways, key=shows_result, default=(False, ""))
    told = {"role": "assistant", "content": "Hi"}
    first = {"role": "system", "content": "Hi"}
    arguments: Any = "{}" if as_text else {}
    thought = _calling(arguments, "Hi") | dict.fromkeys(_THOUGHTS, _PROBE)
    several = _calling(arguments, silent)
    several["tool_calls"].append(_call(arguments, _PROBE))
    return TemplateTraits(
        template,
        dialect,
        tools=speaks and _shows(template, [_USER], [shown(Tool(_PROBE, "x"))]),
        calls=bool(ways),
        arguments_as_text=as_text,
        silent=silent,
        several=not ways or _shows(template, [_USER, several]),
        thoughts=not ways or bool(_rendered(template, [_USER, thought, result])),
        results=speaks and (shows_result((as_text, silent)) if ways else _shows(template, [_USER, told, result])),
        system=_shows(template, [{"role": "system", "content": _PROBE}, _USER]),
        later=_shows(template, [first, _USER, told, {"role": "system", "content": _PROBE}, _USER]),
        developer="developer" in template.source,
        twice=_shows(template, [_USER, {"role": "user", "content": _PROBE}]),
        names=_shows(template, [{**_USER, "name": _PROBE}]),
    )


def _ways_of_calling(template: ChatTemplate) -> Iterator[tuple[bool, str | None]]:
    """How it shows calls: whether their arguments are to be text, and what is to be said beside them.

    Nothing is tried first: some templates, as DeepSeek R1's, show calls only then, or add an empty answer.
    """
    arguments = {"galago_key": _PROBE}
    for silent in (None, ""):
        for as_text, given in ((False, arguments), (True, json.dumps(arguments))):
            shown = _rendered(template, [_USER, _calling(given, silent)])
            in_pythons_way = "'galago_key'" in shown or (silent is None and "None" in shown)
            if _PROBE in shown and not in_pythons_way:
                yield as_text, silent


def _calling(arguments: object, content: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [_call(arguments, "f")]}


def _call(arguments: object, name: str) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": arguments}}


def _one_call_each(pairs: Iterable[tuple[Message, str]]) -> Iterator[tuple[Message, str]]:
    """Messages and contents, each call in a message of its own, with its results behind it."""
    left = deque(pairs)
    while left:
        message, content = left.popleft()
        if len(message.calls) < 2:
            yield message, content
            continue
        results: list[tuple[Message, str]] = []
        while left and left[0][0].role == "tool":
            results.append(left.popleft())
        for i, call in enumerate(message.calls):
            yield replace(message, calls=(call,), reasoning=None if i else message.reasoning), "" if i else content
            yield from (result for result in results if result[0].answers == call.id)
        known = {call.id for call in message.calls}
        yield from (result for result in results if result[0].answers not in known)


def _shows(template: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> bool:
    return _PROBE in _rendered(template, messages, tools)


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    try:
        return template.render(messages, tools=tools)
    except TemplateError:
        return ""


def _system(laid: list[dict[str, Any]]) -> dict[str, Any]:
    """The system message, made where there is none."""
    if laid[0]["role"] not in ("system", "developer"):
        laid.insert(0, {"role": "system", "content": ""})
    return laid[0]


def _add_result(laid: list[dict[str, Any]], content: str) -> None:
    """Writes a tool's result into a user's message, that of several tools into one."""
    written = f"<tool_response>\n{content}\n</tool_response>"
    if laid and laid[-1]["role"] == "user" and laid[-1]["content"].startswith("<tool_response>"):
        laid[-1]["content"] += "\n" + written
    else:
        laid.append({"role": "user", "content": written})


def _taking_turns(laid: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, what one says after another of the same role in one with it."""
    turns: list[dict[str, Any]] = []
    for message in laid:
        last = turns[-1] if turns else {}
        if (
            message["role"] in ("user", "assistant")
            and last.get("role") == message["role"]
            and not last.get("tool_calls")
        ):
            turns[-1] = {**last, **message, "content": "\n\n".join(filter(None, (last["content"], message["content"])))}
        else:
            turns.append(message)
    return turns


def _protected_tool(tool: Tool, protect: Protect) -> Tool:
    description = None if tool.description is None else protect(tool.description)
    return replace(tool, description=description, parameters=_protected(tool.parameters, protect))


def _protected_call(call: ToolCall, protect: Protect) -> ToolCall:
    arguments = json.dumps(_protected(call.parsed(), protect), ensure_ascii=False)
    return ToolCall(call.id, protect(call.name), arguments)


def _protected(value: Any, protect: Protect) -> Any:
    if isinstance(value, str):
        return protect(value)
    if isinstance(value, list):
        return [_protected(item, protect) for item in value]
    if isinstance(value, dict):
        return {protect(key): _protected(item, protect) for key, item in value.items()}
    return value


def texts_of(messages: Iterable[Message], tools: Iterable[Tool]) -> list[str]:
    """Every text in a chat but those of its parts."""
    texts = [text for m in messages for text in (m.name, m.reasoning, m.answers) if text]
    texts += [text for m in messages for call in m.calls for text in (call.name, call.arguments)]
    texts += [json.dumps(call.parsed(), ensure_ascii=False) for m in messages for call in m.calls]
    return texts + [json.dumps(shown(tool), ensure_ascii=False) for tool in tools]
