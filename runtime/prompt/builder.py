"""Builds a model's prompt from chat messages. User text never becomes a control token, whatever it contains.

The chat template sees every message unchanged, except that texts which the tokenizer would turn into control tokens are
broken by a character that occurs nowhere else. The rendered prompt is split at this character and at the media, and
tokenized piece by piece. So the template's own control tokens are parsed and a user's are not, and ordinary text is
tokenized as it would be anywhere else.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...models.errors import InvalidRequest, PromptTooLong, TemplateError, TemplateRefusal
from ..output.tool_formats.tool_format import template_tool
from ..types.messages import Message, ReasoningEffort, Text, Tool, Video
from ..types.prompt import Item, MediaSpan, Prompt, count_cells
from ..types.warnings import Warnings
from .chat_renderer import ChatRenderer

if TYPE_CHECKING:
    from ..llamacpp.weights import Weights
    from ..output.reasoning import ReasoningTags
    from .media_parts import MediaParts
    from .template_traits import TemplateTraits

LONG_TEXT_CHARS = 1_000_000
"""A longer text is refused without tokenizing it if it cannot fit, whatever its tokens are."""

_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that Unicode reserves for use inside one program; no text in any language contains them."""

_STRUCTURAL = re.compile(r"\||think|reason|tool|function", re.IGNORECASE)


class PromptBuilder:
    """Turns messages into prompts for one model. `media` is `None` if the model has no projector."""

    def __init__(
        self,
        weights: Weights,
        traits: TemplateTraits,
        media: MediaParts | None,
        context_length: int,
        reasoning_tags: ReasoningTags | None = None,
    ) -> None:
        self._weights = weights
        self._traits = traits
        self._renderer = ChatRenderer(traits, reasoning_tags)
        self._media = media
        self._context_length = context_length
        self._tags = reasoning_tags
        self.control_texts = _control_pattern(weights, traits.template.source)
        """Matches the texts that must not reach the tokenizer in one piece."""

    def build(
        self,
        messages: Sequence[Message],
        cancelled: Callable[[], bool] = lambda: False,
        tools: Sequence[Tool] = (),
        reasoning_effort: ReasoningEffort | None = None,
        continue_last: bool = False,
        template_variables: Mapping[str, Any] = MappingProxyType({}),
        strict: bool = False,
        effort_field: str = "reasoning_effort",
    ) -> Prompt:
        """Builds the prompt of a chat, with its media decoded and counted but not encoded yet.

        `tools` are shown to the model. `template_variables` are set for the template if it has them. With
        `continue_last` the prompt ends with the text of the last message, which the model then continues. Anything
        missing from the prompt is named in its warnings, or refused with `strict`. `effort_field` is the name of the
        effort in warnings.
        Raises `PromptTooLong` as early as possible, and `Cancelled` once `cancelled` returns `True` during decoding.
        """
        warnings = Warnings()
        warnings.strict = strict
        if any(isinstance(part, Video) for message in messages for part in message.parts):
            messages = [self._media_parts().with_frames(message, warnings, cancelled) for message in messages]
        self._check_characters(sum(map(_shown_characters, messages)))
        if continue_last and len(messages) == 1:
            messages = [Message("user", (Text(""),)), *messages]  # the assistant speaks first
        media = _media(messages)
        try:
            break_mark, media_mark = self._marks(messages, tools, template_variables)
            contents = self._contents(messages, break_mark, media_mark)
            switches = self._switches(reasoning_effort, effort_field, template_variables, break_mark, warnings)

            def protect(text: str) -> str:
                return break_up(text, self.control_texts, break_mark)

            end = len(messages) - continue_last
            with self._traits.template.one_request():
                rendered = "" if tools else self._plain(messages[:end], contents[:end], switches)
                if not rendered:
                    rendered = self._renderer.render(messages[:end], contents[:end], tools, protect, switches, warnings)
        except RecursionError:
            raise InvalidRequest("the tools or their arguments are nested too deeply", "messages") from None
        if continue_last:
            rendered += self._traits.tool_format.answer_header + contents[-1]
        texts, order = _split_at_media(rendered, len(media), media_mark)
        media = [media[number] for number in order]
        items, media_cells = self._tokenized(texts, media, len(rendered), break_mark, warnings, cancelled)
        if self._weights.adds_bos and items[:1] != [self._weights.bos]:
            items.insert(0, self._weights.bos)
        if not items or isinstance(items[-1], MediaSpan):
            raise TemplateError("the model's chat template adds no text after these messages, so no answer can begin")
        media_cells = tuple(cells for _, cells in sorted(zip(order, media_cells, strict=True)))
        in_reasoning = self._tags is not None and rendered.rstrip().endswith(self._tags.opening)
        return Prompt(tuple(items), tuple(warnings), in_reasoning, media_cells)

    def unbounded(self) -> PromptBuilder:
        """A copy without the limit of the context length, to count prompts that do not fit."""
        other = copy.copy(self)
        other._context_length = sys.maxsize
        return other

    def count(self, text: str) -> int:
        """The number of tokens of a text as part of a message."""
        mark = next((c for c in _NONCHARACTERS if c not in text), _NONCHARACTERS[0])
        return len(self._tokens(break_up(text, self.control_texts, mark), mark))

    def _media_parts(self) -> MediaParts:
        """Imported only if a message has media: without a projector it is needed only to refuse them."""
        if self._media is None:
            from .media_parts import MediaParts

            self._media = MediaParts(None)
        return self._media

    def _tokenized(
        self,
        texts: list[str],
        media: list[tuple[Any, bool]],
        rendered_chars: int,
        break_mark: str,
        warnings: Warnings,
        cancelled: Callable[[], bool],
    ) -> tuple[list[Item], tuple[int, ...]]:
        """The items of texts with media between them, and the cells of each medium. Checks the length as it goes.

        `media` are pairs: a part, and whether it is in the question.
        """
        self._check_characters(rendered_chars, len(media))
        tokens = [self._tokens(text, break_mark) for text in texts]
        cells = sum(map(len, tokens))
        self._check_length(cells + len(media), exact=not media)
        items: list[Item] = [*tokens[0]]
        media_cells = []
        for i, (part, in_question) in enumerate(media):
            spans: Sequence[Item] | str = self._media_parts().items_or_text(part, in_question, warnings, cancelled)
            if isinstance(spans, str):
                spans = self._tokens(break_up(spans, self.control_texts, break_mark), break_mark)
            media_cells.append(count_cells(spans))
            cells += media_cells[-1]
            remaining = len(media) - i - 1
            self._check_length(cells + remaining, exact=not remaining)
            items += [*spans, *tokens[i + 1]]
        return items, tuple(media_cells)

    def _check_characters(self, characters: int, media: int = 0) -> None:
        """Refuses a long text that cannot fit, whatever its tokens are, before it is rendered or tokenized."""
        if characters > LONG_TEXT_CHARS:
            self._check_length(characters // self._weights.longest_piece + media, exact=False)

    def _check_length(self, cells: int, *, exact: bool) -> None:
        """Refuses a prompt that does not fit. Media that are not counted yet count as one token each.

        LiteLLM recognizes this error by its first words, which are those of OpenAI's error.
        """
        if cells >= self._context_length:
            raise PromptTooLong(
                f"this model's maximum context length is {self._context_length} tokens, one of them for the answer, "
                f"and the prompt has {'' if exact else 'at least '}{cells}; "
                + ways_to_fit("messages", self._context_length, self._weights),
                "messages",
            )

    def _plain(self, messages: Sequence[Message], contents: Sequence[str], switches: Mapping[str, Any]) -> str:
        """The prompt of a chat that the template can take as it is; empty for others."""
        if not self._takes_unchanged(messages):
            return ""
        plain = [{"role": m.role, "content": text} for m, text in zip(messages, contents, strict=True)]
        try:
            rendered = self._traits.template.render(plain, **switches)
        except TemplateRefusal:
            return ""
        return rendered if all(text.strip() in rendered for text in contents) else ""

    def _takes_unchanged(self, messages: Sequence[Message]) -> bool:
        """Whether the messages are a plain chat: a system message or none, then user and assistant in turns."""
        previous = ""
        for i, m in enumerate(messages):
            if m.tool_calls or m.reasoning or m.tool_call_id is not None or m.name is not None or not m.parts:
                return False
            if m.role == "system":
                if i or not self._traits.system_messages:
                    return False
            elif m.role == previous == "user":
                if not self._traits.repeated_users:
                    return False
            elif m.role != ("assistant" if previous == "user" else "user"):
                return False
            previous = m.role
        return previous == "user"

    def _switches(
        self,
        effort: ReasoningEffort | None,
        effort_field: str,
        variables: Mapping[str, Any],
        break_mark: str,
        warnings: Warnings,
    ) -> dict[str, Any]:
        """The variables that are set for the template in addition to messages and tools."""
        if effort is None and not variables:
            return {}
        from .template_variables import known_variables, other_switch, reasoning_switches

        template = self._traits.template
        if effort is None and (switch := other_switch(template, variables)) is not None:
            effort, effort_field = "medium" if variables[switch] else "none", f"chat_template_kwargs.{switch}"
            variables = {name: value for name, value in variables.items() if name != switch}
        switches, has_switch = reasoning_switches(template, effort)
        if not has_switch and (effort != "none" or self._tags is not None):
            problem = f"{effort_field} has no effect: this model's chat template has no switch for it"
            warnings.add_unless_strict(problem, effort_field)
        own, unknown = known_variables(template, variables, lambda text: break_up(text, self.control_texts, break_mark))
        for name in unknown:
            problem = f"chat_template_kwargs: this model's chat template has no variable {name[:80]!r}"
            warnings.add_unless_strict(problem, "chat_template_kwargs")
        return switches | own

    def _contents(self, messages: Sequence[Message], break_mark: str, media_mark: str) -> list[str]:
        """The protected text of each message. A newline separates neighbouring texts; media are numbered marks."""
        contents, numbers = [], itertools.count()
        for message in messages:
            groups: list[list[str]] = [[]]
            for part in message.parts:
                if isinstance(part, Text):
                    groups[-1].append(part.text)
                else:
                    groups += [[f"{media_mark}{next(numbers)}{media_mark}"], []]
            text = "".join("\n".join(texts) for texts in groups)
            contents.append(break_up(text, self.control_texts, break_mark))
        return contents

    def _tokens(self, text: str, break_mark: str) -> tuple[int, ...]:
        """Tokenizes piece by piece: llama.cpp takes quadratic time over many control tokens in one text."""
        pieces = (part for piece in text.split(break_mark) for part in split_before(piece, self.control_texts))
        return tuple(token for piece in pieces for token in self._weights.tokenize(piece, parse_special=True))

    def _marks(
        self, messages: Sequence[Message], tools: Sequence[Tool], variables: Mapping[str, Any]
    ) -> tuple[str, str]:
        """Two characters that occur in none of the texts."""
        texts = [part.text for m in messages for part in m.parts if isinstance(part, Text)]
        if tools or any(m.tool_calls or m.name or m.reasoning or m.tool_call_id for m in messages):
            texts += _other_texts(messages, tools)
        if variables:
            texts.append(json.dumps(dict(variables), ensure_ascii=False))
        free = [c for c in _NONCHARACTERS if not any(c in text for text in texts)]
        if len(free) < 2:
            raise InvalidRequest("the messages contain all of Unicode's noncharacters U+FDD0 to U+FDEF", "messages")
        return free[0], free[1]


def _media(messages: Sequence[Message]) -> list[tuple[Any, bool]]:
    """The parts that are not text, and whether each is in the question: the last message of a user."""
    question = next((m for m in reversed(messages) if m.role == "user"), None)
    return [(part, m is question) for m in messages for part in m.parts if not isinstance(part, Text)]


def _shown_characters(message: Message) -> int:
    """The characters that a chat template always shows: some leave out reasoning in earlier answers."""
    return 0 if message.role == "assistant" else sum(len(one.text) for one in message.parts if isinstance(one, Text))


def break_up(text: str, control_texts: re.Pattern[str] | None, mark: str) -> str:
    """Inserts `mark` after the first character of each match, until the pieces between marks contain no match."""
    while control_texts is not None:
        broken = control_texts.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        if broken == text:
            break
        text = broken
    return text


def ways_to_fit(too_long: str, context_length: int, weights: Weights) -> str:
    """What to do about a prompt that does not fit. A context longer than the model was trained for is refused."""
    if context_length < weights.context_length:
        return f"shorten the {too_long} or load the model with a larger --context"
    return f"shorten the {too_long}, since this model was trained for no larger context"


def split_before(text: str, control_texts: re.Pattern[str] | None) -> Iterator[str]:
    """Splits a text before each match."""
    starts = [0, *(match.start() for match in control_texts.finditer(text))] if control_texts else [0]
    return (text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True))


def _control_pattern(weights: Weights, template_source: str) -> re.Pattern[str] | None:
    """Matches control tokens, and user-defined tokens that structure a chat.

    Other user-defined tokens are ordinary text, such as Gemma's runs of spaces and newlines, and its HTML tags.
    """
    structural = (
        t for t in weights.user_defined_texts if t.strip() and (t in template_source or _STRUCTURAL.search(t))
    )
    texts = {t for t in (*weights.control_texts, *structural) if len(t) > 1}
    return re.compile("|".join(re.escape(t) for t in sorted(texts, key=len, reverse=True))) if texts else None


def _split_at_media(rendered: str, media: int, mark: str) -> tuple[list[str], list[int]]:
    """The texts of a prompt between its media, and the media's numbers in the prompt's order."""
    texts = re.split(f"{mark}([0-9]+){mark}", rendered)
    numbers = [int(number) for number in texts[1::2]]
    if sorted(numbers) != list(range(media)):
        raise InvalidRequest(
            f"the model's chat template kept only {len(set(numbers))} of the {media} images and audio clips in "
            "these messages"
        )
    return texts[::2], numbers


def _other_texts(messages: Iterable[Message], tools: Iterable[Tool]) -> list[str]:
    """Every text in a chat except the text parts of its messages."""
    texts = [text for m in messages for text in (m.name, m.reasoning, m.tool_call_id) if text]
    for call in (call for message in messages for call in message.tool_calls):
        texts += [call.name, call.arguments, json.dumps(call.arguments_object, ensure_ascii=False)]
    return texts + [json.dumps(template_tool(tool), ensure_ascii=False) for tool in tools]
