"""Adapts chats to what a chat template supports; what it does not support is written into the messages.

What a template supports is detected by rendering small chats with it. Knows no tokens.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from ...models.errors import InvalidRequest, TemplateError
from ..output.tool_formats.tool_format import ToolFormat, template_tool
from ..types.messages import Message, ReasoningEffort, Tool, ToolCall
from .template import RESERVED, ChatTemplate

Protect = Callable[[str], str]
"""Prevents a text from becoming control tokens."""

_PROBE = "galago-probe"
_USER = {"role": "user", "content": "Hi"}
_REASONING_SWITCHES = ("enable_thinking", "thinking")
_COMMON_EFFORTS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium"}
"""The efforts that every template with an effort supports. All others become `high`."""
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The names that templates use for an assistant's reasoning."""


@dataclass(frozen=True)
class TemplateTraits:
    """What a template supports.

    `tools`: it shows the tools. `calls`: it shows tool calls, with arguments as JSON text if `arguments_as_text`.
    `empty_content`: the content of a message that only calls tools: `None`, or an empty text if the template fails
    without one. `parallel_calls`: a message may hold several calls. `reasoning_with_content`: a message may hold
    reasoning, content and calls. `results`: it shows tool results. `system_messages` may come first, and
    `late_system_messages` anywhere. `developer_role`: it knows this role. `repeated_roles`: consecutive messages may
    have the same role. `shows_names`: it shows the names in messages.
    """

    template: ChatTemplate
    tool_format: ToolFormat
    tools: bool
    calls: bool
    arguments_as_text: bool
    empty_content: str | None
    parallel_calls: bool
    reasoning_with_content: bool
    results: bool
    system_messages: bool
    late_system_messages: bool
    developer_role: bool
    repeated_roles: bool
    shows_names: bool

    def lay_out(
        self, messages: Sequence[Message], contents: Sequence[str], tools: Sequence[Tool], protect: Protect
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """The messages and tools to render the template with. `contents` are the messages' protected contents."""
        tools = [_protected_tool(tool, protect) for tool in tools]
        laid_out = self._laid_out(messages, contents, protect)
        if not tools:
            return laid_out, None
        if self.tool_format.tools_in_system:
            functions = [template_tool(tool)["function"] for tool in tools]
            _system_message(laid_out)["tools"] = json.dumps(functions, ensure_ascii=False)
        elif not self.tools:
            if self.system_messages:
                first = _system_message(laid_out)
            else:
                first = next((m for m in laid_out if m["role"] == "user"), laid_out[0])
            texts = [first["content"] or "", self.tool_format.instructions(tools)]
            first["content"] = "\n\n".join(texts if self.system_messages else reversed(texts)).strip()
            return laid_out, None
        return laid_out, [template_tool(tool) for tool in tools]

    def _laid_out(self, messages: Sequence[Message], contents: Sequence[str], protect: Protect) -> list[dict[str, Any]]:
        laid_out: list[dict[str, Any]] = []
        tool_names = {call.id: call.name for message in messages for call in message.tool_calls}
        pairs = zip(messages, contents, strict=True)
        waiting: list[str] = []  # contents of system messages that are put before the next user message
        for message, content in pairs if self.parallel_calls else _one_call_each(pairs):
            is_system = message.role in ("system", "developer")
            if message.role == "tool" and not self.results:
                _add_result(laid_out, content)
            elif not is_system or self.late_system_messages or (self.system_messages and not laid_out):
                laid_out.append(self._message(message, content, tool_names, protect))
                if message.role == "user" and waiting:
                    laid_out[-1]["content"] = "\n\n".join([*waiting, content])
                    waiting.clear()
            elif laid_out and laid_out[-1]["role"] in ("system", "developer"):
                laid_out[-1]["content"] += f"\n\n{content}"
            else:
                waiting.append(content)
        if waiting:
            laid_out.append({"role": "user", "content": "\n\n".join(waiting)})
        return laid_out if self.repeated_roles else _merge_repeated_roles(laid_out)

    def variables(self, given: Mapping[str, Any], protect: Protect) -> tuple[dict[str, Any], list[str]]:
        """The given variables that the template has, and the names of the unknown ones.

        Raises `InvalidRequest` for reserved variables.
        """
        for name in given:
            if name in RESERVED:
                raise InvalidRequest(
                    f"chat_template_kwargs must not set {name!r}, which is set by the server", "chat_template_kwargs"
                )
        known = {name: _protected(value, protect) for name, value in given.items() if name in self.template.variables}
        return known, [name for name in given if name not in known]

    def reasoning_switches(self, effort: ReasoningEffort | None) -> tuple[dict[str, Any], bool]:
        """The template's variables that set the reasoning effort, and whether it has any."""
        if effort is None:
            return {}, True
        switches: dict[str, Any] = {
            name: effort != "none" for name in _REASONING_SWITCHES if name in self.template.variables
        }
        if "reasoning_effort" in self.template.variables:
            is_known = f"'{effort}'" in self.template.source or f'"{effort}"' in self.template.source
            switches["reasoning_effort"] = effort if is_known else _COMMON_EFFORTS.get(effort, "high")
        return switches, bool(switches)

    def _message(self, message: Message, content: str, tool_names: dict[str, str], protect: Protect) -> dict[str, Any]:
        role = "system" if message.role == "developer" and not self.developer_role else message.role
        laid_out: dict[str, Any] = {"role": role, "content": content}
        if message.name is not None:
            laid_out["name"] = protect(message.name)
        if message.reasoning:
            reasoning = protect(message.reasoning)
            if message.tool_calls and content and not self.reasoning_with_content:
                reasoning, content = f"{reasoning}\n\n{content}", ""
            laid_out |= {key: reasoning for key in _REASONING_KEYS if key in self.template.source}
        if message.tool_call_id is not None:
            laid_out["tool_call_id"] = self._id(message.tool_call_id)
            laid_out.setdefault("name", protect(tool_names.get(message.tool_call_id, "")))
        if message.tool_calls:
            calls = [_protected_call(call, protect) for call in message.tool_calls]
            if self.calls:
                laid_out["tool_calls"] = [self._call(call) for call in calls]
                laid_out["content"] = content or self.empty_content
            else:
                laid_out["content"] = f"{content}\n{self.tool_format.render(calls)}".lstrip()
        return laid_out

    def _call(self, call: ToolCall) -> dict[str, Any]:
        arguments = call.arguments if self.arguments_as_text else call.parsed()
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _id(self, text: str) -> str:
        """An id in the form that the template accepts. The same id always gives the same result."""
        length = self.tool_format.id_length
        if length is None or (len(text) == length and text.isascii() and text.isalnum()):
            return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "-_"))
        return blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()[:length]


def traits_of(template: ChatTemplate, tool_format: ToolFormat) -> TemplateTraits:
    """Detects what a template supports by rendering small chats."""
    has_format = bool(tool_format.template_markers)
    result = {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": _PROBE}

    def shows_result(style: tuple[bool, str | None]) -> bool:
        as_text, empty_content = style
        return _shows(template, [_USER, _calling("{}" if as_text else {}, empty_content), result])

    styles = list(_call_styles(template)) if has_format else []
    as_text, empty_content = max(styles, key=shows_result, default=(False, ""))
    assistant = {"role": "assistant", "content": "Hi"}
    system = {"role": "system", "content": "Hi"}
    arguments: Any = "{}" if as_text else {}
    with_reasoning = _calling(arguments, "Hi") | dict.fromkeys(_REASONING_KEYS, _PROBE)
    two_calls = _calling(arguments, empty_content)
    two_calls["tool_calls"].append(_call(arguments, _PROBE))
    if styles:
        results = shows_result((as_text, empty_content))
    else:
        results = has_format and _shows(template, [_USER, assistant, result])
    return TemplateTraits(
        template,
        tool_format,
        tools=has_format and _shows(template, [_USER], [template_tool(Tool(_PROBE, "x"))]),
        calls=bool(styles),
        arguments_as_text=as_text,
        empty_content=empty_content,
        parallel_calls=not styles or _shows(template, [_USER, two_calls]),
        reasoning_with_content=not styles or bool(_rendered(template, [_USER, with_reasoning, result])),
        results=results,
        system_messages=_shows(template, [{"role": "system", "content": _PROBE}, _USER]),
        late_system_messages=_shows(template, [system, _USER, assistant, {"role": "system", "content": _PROBE}, _USER]),
        developer_role="developer" in template.source,
        repeated_roles=_shows(template, [_USER, {"role": "user", "content": _PROBE}]),
        shows_names=_shows(template, [{**_USER, "name": _PROBE}]),
    )


def _call_styles(template: ChatTemplate) -> Iterator[tuple[bool, str | None]]:
    """The ways in which the template shows calls: whether arguments are text, and the content beside the calls.

    No content is tried first: some templates, such as DeepSeek R1's, show calls only then, or else add an empty answer.
    """
    arguments = {"galago_key": _PROBE}
    for empty_content in (None, ""):
        for as_text, given in ((False, arguments), (True, json.dumps(arguments))):
            rendered = _rendered(template, [_USER, _calling(given, empty_content)])
            as_python_repr = "'galago_key'" in rendered or (empty_content is None and "None" in rendered)
            if _PROBE in rendered and not as_python_repr:
                yield as_text, empty_content


def _calling(arguments: object, content: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [_call(arguments, "f")]}


def _call(arguments: object, name: str) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": name, "arguments": arguments}}


def _one_call_each(pairs: Iterable[tuple[Message, str]]) -> Iterator[tuple[Message, str]]:
    """Splits messages with several calls: each call gets its own message, followed by its results."""
    remaining = deque(pairs)
    while remaining:
        message, content = remaining.popleft()
        if len(message.tool_calls) < 2:
            yield message, content
            continue
        results: list[tuple[Message, str]] = []
        while remaining and remaining[0][0].role == "tool":
            results.append(remaining.popleft())
        for i, call in enumerate(message.tool_calls):
            yield replace(message, tool_calls=(call,), reasoning=None if i else message.reasoning), "" if i else content
            yield from (result for result in results if result[0].tool_call_id == call.id)
        call_ids = {call.id for call in message.tool_calls}
        yield from (result for result in results if result[0].tool_call_id not in call_ids)


def _shows(template: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> bool:
    return _PROBE in _rendered(template, messages, tools)


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    try:
        return template.render(messages, tools=tools)
    except TemplateError:
        return ""


def _system_message(laid_out: list[dict[str, Any]]) -> dict[str, Any]:
    """The system message; adds an empty one if there is none."""
    if laid_out[0]["role"] not in ("system", "developer"):
        laid_out.insert(0, {"role": "system", "content": ""})
    return laid_out[0]


def _add_result(laid_out: list[dict[str, Any]], content: str) -> None:
    """Writes a tool's result into a user message; consecutive results share one message."""
    text = f"<tool_response>\n{content}\n</tool_response>"
    if laid_out and laid_out[-1]["role"] == "user" and laid_out[-1]["content"].startswith("<tool_response>"):
        laid_out[-1]["content"] += "\n" + text
    else:
        laid_out.append({"role": "user", "content": text})


def _merge_repeated_roles(laid_out: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merges consecutive messages of the same role into one."""
    merged: list[dict[str, Any]] = []
    for message in laid_out:
        last = merged[-1] if merged else {}
        if (
            message["role"] in ("user", "assistant")
            and last.get("role") == message["role"]
            and not last.get("tool_calls")
        ):
            merged[-1] = {
                **last,
                **message,
                "content": "\n\n".join(filter(None, (last["content"], message["content"]))),
            }
        else:
            merged.append(message)
    return merged


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


def other_texts(messages: Iterable[Message], tools: Iterable[Tool]) -> list[str]:
    """Every text in a chat except the text parts of its messages."""
    texts = [text for m in messages for text in (m.name, m.reasoning, m.tool_call_id) if text]
    texts += [text for m in messages for call in m.tool_calls for text in (call.name, call.arguments)]
    texts += [json.dumps(call.parsed(), ensure_ascii=False) for m in messages for call in m.tool_calls]
    return texts + [json.dumps(template_tool(tool), ensure_ascii=False) for tool in tools]
