"""25 shapes of conversations under the rules of 71 models' templates: every text is in the prompt or in a warning."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fakes.template_rules import RULES, composed
from galago.models.errors import TemplateError, UnsupportedField
from galago.runtime.output.reasoning import tags_of
from galago.runtime.output.tool_formats.detect import tool_format_of
from galago.runtime.prompt.chat_renderer import ChatRenderer
from galago.runtime.prompt.template import ChatTemplate
from galago.runtime.prompt.template_traits import TemplateTraits
from galago.runtime.types.messages import Message, Role, Text, Tool, ToolCall
from galago.runtime.types.warnings import Warnings

TOOLS = (
    Tool("look_up", "ToolAbout", {"type": "object", "properties": {"ToolArgument": {"type": "string"}}}),
    Tool("write_down", "OtherAbout"),
)
TOOL_TEXTS = ("look_up", "ToolAbout", "ToolArgument", "write_down", "OtherAbout")


class Chat:
    """Makes messages whose texts are all different."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def messages(self, words: str) -> list[Message]:
        return [self._message(word) for word in words.split()]

    def _text(self, kind: str) -> str:
        return f"{kind.capitalize()}{next(self._numbers)}z"

    def _message(self, word: str) -> Message:
        roles: dict[str, Role] = {"S": "system", "D": "developer", "U": "user", "A": "assistant"}
        if word in roles:
            return Message(roles[word], (Text(self._text(roles[word])),))
        if word.startswith("R"):
            return Message("tool", (Text(self._text("result")),), tool_call_id=f"call_{word[1:]}")
        if word == "named":
            return Message("user", (Text(self._text("user")),), name=self._text("name"))
        thought = self._text("thought") if "thinks" in word else None
        text = (Text(self._text("text")),) if "says" in word else ()
        calls = tuple(self._call(f"call_{c[1:]}", c[0]) for c in word.split("+") if c[0] in "CX")
        return Message("assistant", text, tool_calls=calls, reasoning=thought)

    def _call(self, call_id: str, kind: str) -> ToolCall:
        argument = self._text("argument")
        arguments = json.dumps({self._text("key"): argument}) if kind == "C" else f'{{"{argument}": "cut o'
        return ToolCall(call_id, self._text("function"), arguments)


SHAPES = {
    "a plain chat": "S U A U",
    "a greeting": "A U",
    "a greeting after the system message": "S A U A U",
    "two system messages": "S S U",
    "a late system message": "S U A S U",
    "a system message at the end": "U A S",
    "only a system message": "S",
    "developers": "D U A D U",
    "a developer after the system message": "S D U",
    "several users": "U U U",
    "several assistants": "U A A U",
    "an empty answer": "U silent U",
    "only reasoning": "U thinks U",
    "a call": "S U C1 R1",
    "a call and its answer": "S U C1 R1 A U",
    "a result and the user": "U C1 R1 U",
    "text and a call": "U says+C1 R1 A U",
    "reasoning, text and a call": "U thinks+says+C1 R1",
    "several calls with text": "U says+C1+C2 R2 R1 A U",
    "a chain of calls": "U C1 R1 C2 R2 A U",
    "calls without results": "U C1 U C2",
    "results without calls": "R7 U A R8 U R9",
    "a result before its call": "U R1 C1 R1 U",
    "a system message within a call": "U C1 S R1 A named",
    "a cut-off call": "U X1 R1 A says+X2 U",
}
LAST = {"assistant last": "U A", "a call first": "S C1 R1 U", "only an assistant": "A", "only a result": "R1"}


def renderer(source: str) -> ChatRenderer:
    traits = TemplateTraits(ChatTemplate(source, "<s>", "</s>"), tool_format_of(source))
    return ChatRenderer(traits, tags_of(source))


def rendered(chat: ChatRenderer, messages: Sequence[Message], tools: Sequence[Tool], warnings: Warnings) -> str:
    return chat.render(messages, [m.text for m in messages], tools, str, {}, warnings)


def texts(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield message.text
        yield from filter(None, (message.name,))
        for call in message.tool_calls:
            yield call.name
            arguments = call.arguments_object
            yield from [call.arguments] if arguments is None else [*arguments, *map(str, arguments.values())]


@pytest.mark.parametrize("model", RULES)
def test_every_text_is_in_the_prompt_or_in_a_warning(model: str) -> None:
    rules, chat = RULES[model], renderer(composed(RULES[model]))
    for i, (shape, words) in enumerate((SHAPES | LAST).items()):
        messages, tools = Chat().messages(words), TOOLS[i % 2 * 2 :]
        warnings = Warnings()
        prompt = rendered(chat, messages, tools, warnings)
        shown = prompt + "".join(warnings)
        assert [text for text in texts(messages) if text not in shown] == [], shape
        assert not tools or [text for text in TOOL_TEXTS if text not in prompt] == [], shape
        if any(m.reasoning and m.reasoning not in prompt for m in messages) and rules.get("reasoning") is None:
            assert any("reasoning" in warning for warning in warnings), shape
        lost = [warning for warning in warnings if "does not show" in warning and "names" not in warning]
        assert not lost, f"{shape}: {lost}"


def test_there_are_enough_shapes_and_templates() -> None:
    assert (len(RULES), len(SHAPES)) == (71, 25)


OWN_RULES = {"system": "last user", "tools": "last user", "reasoning": "last answer", "silence": "refused"}
"""Rules by which templates change the prompt's beginning later."""
GROWING = {str(rules): m for m, rules in RULES.items() if not OWN_RULES.items() & rules.items()}
"""One model for each set of rules."""


@pytest.mark.parametrize("model", GROWING.values())
def test_the_prompt_of_a_growing_chat_begins_alike(model: str) -> None:
    """So that the prefix cache serves conversations in unusual forms, too."""
    chat = renderer(composed(RULES[model]))
    for shape, words in SHAPES.items():
        messages = Chat().messages(words)
        whole = rendered(chat, messages, (), Warnings())
        for end in range(1, len(messages)):
            if messages[end - 1].role in ("user", "tool") and messages[end].role == "assistant":
                beginning = rendered(chat, messages[:end], (), Warnings()).removesuffix("[assistant]")
                assert whole.startswith(beginning), f"{shape} after {end}"


MENDED: dict[str, tuple[str, str, Callable[[str], bool]]] = {
    "an empty turn precedes a greeting": ("gemma-3-4b-it", "A U", lambda p: p.startswith("[user][end]\n[assistant]")),
    "an empty answer follows a result": (
        "mistral-nemo-instruct-2407", "U C1 R1 U", lambda p: "[end]\n[assistant][end]\n[user]" in p,
    ),
    "a neutral answer follows a result": (
        "ministral-3-14b-reasoning-2512", "U C1 R1 U", lambda p: "[end]\n[assistant](Noted.)[end]\n[user]" in p,
    ),
    "an empty answer is left out": ("ministral-3-14b-reasoning-2512", "U silent U", lambda p: p.count("[user]") == 1),
    "a result without its call is text": ("gpt-oss-120b", "R1 U", lambda p: "[user]<tool_response>\nResult" in p),
    "system messages are merged": ("smollm3-3b", "S S U", lambda p: p.count("[system]") == 1),
    "text precedes its call": ("deepseek-r1", "U says+C1 R1", lambda p: p.index("Text") < p.index("[call]")),
}  # fmt: skip


@pytest.mark.parametrize("case", MENDED)
def test_turns_are_mended_with_the_least_change(case: str) -> None:
    model, words, is_mended = MENDED[case]
    prompt = rendered(renderer(composed(RULES[model])), Chat().messages(words), (), Warnings())
    assert is_mended(prompt), prompt


SHOW = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
HOSTILE = {
    "more than one message is refused": "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}" + SHOW,
    "only the last message is shown": "[{{ messages[-1].role }}]{{ messages[-1].content }}",
    "only users are shown": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "systems are refused, calls fail": "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('x') }}"
    "{% endif %}{{ '' + m.content }}{% endfor %}{# <tool_call> #}",
    "results are no questions": "{% set ns = namespace(asked=false) %}{% for m in messages %}{% if m.role == 'user' "
    "and not m.content.startswith('<tool_response>') %}{% set ns.asked = true %}{% endif %}[{{ m.role }}]"
    "{{ m.content }}{% endfor %}{% if not ns.asked %}{{ raise_exception('no question') }}{% endif %}",
    "nobody speaks twice": "{% for m in messages %}{% if not loop.first and m.role == messages[loop.index0 - 1].role %}"
    "{{ raise_exception('twice') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_template_that_shows_a_single_message_gets_every_chat(case: str) -> None:
    chat = renderer(HOSTILE[case])
    for shape, words in (SHAPES | LAST).items():
        messages, warnings = Chat().messages(words), Warnings()
        shown = rendered(chat, messages, TOOLS, warnings) + "".join(warnings)
        assert [text for text in (*texts(messages), *TOOL_TEXTS) if text not in shown] == [], shape


def test_a_template_that_shows_nothing_loses_every_text_with_a_warning_or_an_error_in_strict_mode() -> None:
    chat, messages = renderer("nothing"), Chat().messages("S U A U")
    warnings = Warnings()
    rendered(chat, messages, TOOLS, warnings)
    assert all(any(m.text in warning for warning in warnings) for m in messages)
    assert any("tools" in warning for warning in warnings)
    strict = Warnings()
    strict.strict = True
    with pytest.raises(UnsupportedField, match="--strict refuses it"):
        rendered(chat, messages, (), strict)
    with pytest.raises(TemplateError, match="never"):
        rendered(renderer("{{ raise_exception('never') }}"), messages, (), Warnings())


def test_tools_that_the_template_cannot_show_are_explained_and_the_rest_stays_as_it_is() -> None:
    source = composed(RULES["qwen-qwen2.5-7b-instruct"])
    strict = "{% for t in tools or [] %}{{ t.function.parameters.properties.ToolArgument.type + '' }}{% endfor %}"
    messages, warnings = Chat().messages("U C1 R1"), Warnings()
    prompt = rendered(renderer(strict + source), messages, TOOLS, warnings)
    assert "You may call" in prompt and "[call]" in prompt and not warnings


def test_tools_do_not_make_a_greeting_the_users() -> None:
    source = "{% set first = messages[0] if messages[0].role != 'system' else messages[1] %}"
    source += "{% if tools %}[user]{{ tools | tojson }}{{ first.content }}{% endif %}"
    source += "{% for m in messages if not (tools and m == first) %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    chat = renderer(source + "{# <tool_call> #}")
    for words in ("A U", "S A U"):
        prompt = rendered(chat, Chat().messages(words), TOOLS, Warnings())
        assert "[assistant]Assistant" in prompt and "[user]User" in prompt
    assert "Begin" not in rendered(chat, Chat().messages("A U"), (), Warnings())


def test_results_without_ids_answer_the_calls_in_order() -> None:
    source = "{% for m in messages %}{{ m.tool_call_id or m.role }} {% for c in m.tool_calls or [] %}{{ c.id }}"
    source += "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{{ m.content }} {% endfor %}"
    messages = [replace(m, tool_call_id=None) for m in Chat().messages("U C1+C2 R1 R2")]
    prompt = rendered(renderer(source + "{# <tool_call> #}"), messages, (), Warnings())
    assert "call_1 Result" in prompt and "call_2 Result" in prompt


def test_a_text_that_the_template_changes_is_named() -> None:
    source = "{% for m in messages %}{{ m.content.split('---')[-1] }}{% endfor %}"
    messages, warnings = [Message("user", (Text("secret---shown"),))], Warnings()
    rendered(renderer(source), messages, (), warnings)
    assert len(warnings) == 1 and "messages[0]" in warnings[0] and "secret" in warnings[0]


def test_a_plain_chat_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = renderer(composed(RULES["qwen-qwen2.5-7b-instruct"]))
    messages = Chat().messages("S U A U A U")
    rendered(chat, messages, (), Warnings())
    calls: list[str] = []
    render = ChatTemplate.render

    def counted(template: ChatTemplate, *arguments: Any, **switches: Any) -> str:
        calls.append(render(template, *arguments, **switches))
        return calls[-1]

    monkeypatch.setattr(ChatTemplate, "render", counted)
    rendered(chat, messages, (), Warnings())
    assert len(calls) == 1
    rendered(chat, Chat().messages("S " + "U C1 R1 A " * 20 + "U"), TOOLS, Warnings())
    before = len(calls)
    rendered(chat, Chat().messages("S " + "U C1 R1 A " * 30 + "U"), TOOLS, Warnings())
    assert len(calls) == before + 1  # rounds that repeat need no further test
