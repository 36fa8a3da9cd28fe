"""Makes a model's prompt from chat messages. User text never becomes a control token, whatever it contains.

The chat template sees every message as it is, except that texts which the tokenizer would turn into control tokens are
broken by a character that stands nowhere else; after rendering, the prompt is cut there and at the media, and tokenized
piece by piece. So the template's own control tokens are parsed, a user's are not, and ordinary text is tokenized as
everywhere else.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ...models.errors import Cancelled, InvalidRequest, PromptTooLong, TemplateError, UnsupportedModality
from ..llamacpp.projector import Projector
from ..llamacpp.weights import Weights
from ..media.decode import MediaLimits, decode_audio, decode_image
from ..media.video import decode_video, pixels_of
from ..output.reasoning import ReasoningTags
from ..output.tool_formats.detect import tool_format_of
from ..output.tool_formats.tool_format import ToolFormat
from ..types.messages import Audio, Effort, Frame, Image, Message, Part, Text, Tool, Video
from ..types.prompt import Item, MediaSpan, Prompt, count_cells
from .completion import LONG, CompletionPrompts, cut_before
from .template import ChatTemplate
from .template_traits import layout_for, texts_of

_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that Unicode reserves for use inside one program; no text in any language contains them."""

_STRUCTURAL = re.compile(r"\||think|reason|tool|function", re.IGNORECASE)


class PromptBuilder:
    """Turns messages into prompts for one model."""

    def __init__(
        self,
        weights: Weights,
        projector: Projector | None,
        template: ChatTemplate,
        source: str,
        limits: MediaLimits,
        context_length: int,
        dialect: ToolFormat | None = None,
        tags: ReasoningTags | None = None,
    ) -> None:
        self._layout = layout_for(template, dialect or tool_format_of(source))
        self._tags = tags
        self._context_length = context_length
        self._weights = weights
        self._projector = projector
        self._template = template
        self._limits = limits
        self._dangerous = _pattern(weights, source)
        self.plain = CompletionPrompts(weights, self._dangerous, context_length)
        """Makes prompts without the template."""
        self._one_at_a_time = threading.Lock()  # a picture may take 200 MB while it is decoded

    def build(
        self,
        messages: Sequence[Message],
        cancelled: Callable[[], bool] = lambda: False,
        tools: Sequence[Tool] = (),
        effort: Effort | None = None,
        continued: Message | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> Prompt:
        """The prompt of a chat that may call `tools`, its media decoded and counted but not encoded yet.

        `variables` are set for the template, those that it has. What is said in a `continued` last message stands at
        the end, where the model will go on from it.
        Raises `PromptTooLong` as soon as it is certain, and `Cancelled` where `cancelled` says so between two media.
        """
        warnings: list[str] = []
        messages = [self._unrolled(message, warnings, cancelled) for message in messages]
        asked = messages[:-1] if continued else messages
        if not asked:
            raise InvalidRequest("before the message to continue there must be one to answer", "messages")
        try:
            break_mark, media_mark = _unused_characters(messages, tools, variables)
            switches = self._switches(effort, variables, break_mark, warnings)
            rendered = self._rendered(asked, tools, switches, break_mark, media_mark, warnings)
        except RecursionError:
            raise InvalidRequest("the tools or their arguments are nested too deeply", "messages") from None
        if continued:
            rendered += self._layout.dialect.preface + self._content(continued, break_mark, media_mark)
        media = [part for message in messages for part in message.parts if not isinstance(part, Text | Video)]
        texts = rendered.split(media_mark)
        if len(texts) != len(media) + 1:
            raise InvalidRequest(
                f"the model's chat template kept {len(texts) - 1} of {len(media)} pictures and sounds in these messages"
            )
        if len(rendered) > LONG:  # spares the tokenizer a text that cannot fit whatever its tokens are
            self._check_room(len(rendered) // self._weights.longest_piece + len(media), exact=False)
        tokens = [self._tokens(text, break_mark) for text in texts]
        cells = sum(map(len, tokens))
        self._check_room(cells + len(media), exact=not media)
        items: list[Item] = [*tokens[0]]
        cuts = []
        for i, part in enumerate(media):
            if cancelled():
                raise Cancelled("nobody waits for this answer any more")
            cut = self._cut(part, warnings)
            cuts.append(count_cells(cut))
            cells += cuts[-1]
            left = len(media) - i - 1
            self._check_room(cells + left, exact=not left)
            items += [*cut, *tokens[i + 1]]
        if self._weights.adds_bos and items[:1] != [self._weights.bos]:
            items.insert(0, self._weights.bos)
        if not items or isinstance(items[-1], MediaSpan):
            raise TemplateError("the model's chat template leaves nothing to answer behind these messages")
        thinking = self._tags is not None and rendered.rstrip().endswith(self._tags.opening)
        return Prompt(tuple(items), tuple(warnings), thinking, tuple(cuts))

    def unbounded(self) -> PromptBuilder:
        """The same for prompts that no context could hold, to count them."""
        other = copy.copy(self)
        other._context_length = sys.maxsize
        return other

    def count(self, text: str) -> int:
        """Tokens of a text as it stands in a message, were it alone."""
        mark = next((c for c in _NONCHARACTERS if c not in text), _NONCHARACTERS[0])
        return len(self._tokens(break_up(text, self._dangerous, mark), mark))

    def _unrolled(self, message: Message, warnings: list[str], cancelled: Callable[[], bool]) -> Message:
        """The message with its films as pictures, each behind its time."""
        parts: list[Part] = []
        for part in message.parts:
            if not isinstance(part, Video):
                parts.append(part)
                continue
            self._check_sight(part)
            if cancelled():
                raise Cancelled("nobody waits for this answer any more")
            with _naming(part), self._one_at_a_time:
                film = decode_video(part, self._limits)
            warnings += [f"{part.source}: {note}" for note in film.notes]
            parts += film.parts
        return replace(message, parts=tuple(parts))

    def _check_sight(self, part: Image | Video | Frame) -> None:
        if self._projector is None or not self._projector.vision:
            raise UnsupportedModality(_missing("see pictures", self._projector), part.source)

    def _check_room(self, cells: int, *, exact: bool) -> None:
        """Refuses a prompt of so many tokens; media not counted yet have one each at the least.

        LiteLLM knows this error by its first words, which are those of OpenAI's.
        """
        if cells >= self._context_length:
            raise PromptTooLong(
                f"this model's maximum context length is {self._context_length} tokens as it is loaded, one of them "
                f"for an answer, and the prompt has {'' if exact else 'at least '}{cells}; shorten the messages or "
                "load the model with a larger context",
                "messages",
            )

    def _rendered(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        switches: Mapping[str, Any],
        break_mark: str,
        media_mark: str,
        warnings: list[str],
    ) -> str:
        """The prompt as text, marked where it is to be cut. A newline stands between neighbouring texts."""

        def protect(text: str) -> str:
            return break_up(text, self._dangerous, break_mark)

        contents = [self._content(message, break_mark, media_mark) for message in messages]
        if not self._layout.names and any(m.name for m in messages if m.role != "tool"):
            warnings.append("the names of who says something have no effect: the model's chat template shows none")
        laid, shown = self._layout.messages(messages, contents, tools, protect)
        return self._template.render(laid, tools=shown, **switches)

    def _switches(
        self, effort: Effort | None, variables: Mapping[str, Any], break_mark: str, warnings: list[str]
    ) -> dict[str, Any]:
        """What is set for the template beside messages and tools."""
        switches, found = self._layout.switches(effort)
        if not found and (effort != "none" or self._tags is not None):
            warnings.append("reasoning_effort has no effect: this model's chat template has no switch for it")
        own, unknown = self._layout.variables(variables, lambda text: break_up(text, self._dangerous, break_mark))
        warnings += [f"chat_template_kwargs: this model's chat template has no variable {name!r}" for name in unknown]
        return switches | own

    def _content(self, message: Message, break_mark: str, media_mark: str) -> str:
        text = media_mark.join("\n".join(texts) for texts in _between_media(message.parts))
        return break_up(text, self._dangerous, break_mark)

    def _tokens(self, text: str, break_mark: str) -> tuple[int, ...]:
        """Tokenizes stretch by stretch: llama.cpp takes quadratic time over many control tokens in one text."""
        pieces = (stretch for piece in text.split(break_mark) for stretch in cut_before(piece, self._dangerous))
        return tuple(token for piece in pieces for token in self._weights.tokenize(piece, parse_special=True))

    def _cut(self, part: Image | Audio | Frame, warnings: list[str]) -> list[Item]:
        projector = self._projector
        if isinstance(part, Image | Frame):
            self._check_sight(part)
            assert projector is not None
            with _naming(part), self._one_at_a_time:
                picture = pixels_of(part) if isinstance(part, Frame) else decode_image(part.data, self._limits)
                warnings += [f"{part.source}: {note}" for note in picture.notes]
                return projector.cut_picture(picture.pixels)
        if projector is None or not projector.audio:
            raise UnsupportedModality(_missing("hear sounds", projector), part.source)
        with _naming(part), self._one_at_a_time:
            sound = decode_audio(part.data, projector.sample_rate, self._limits)
            warnings += [f"{part.source}: {note}" for note in sound.notes]
            return projector.cut_sound(sound.samples)


def break_up(text: str, dangerous: re.Pattern[str] | None, mark: str) -> str:
    """Puts `mark` behind the first character of each match, until what stands between marks holds none any more."""
    while dangerous is not None:
        broken = dangerous.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        if broken == text:
            break
        text = broken
    return text


def _pattern(weights: Weights, template_source: str) -> re.Pattern[str] | None:
    """What must not reach the tokenizer in one piece: control tokens, and user-defined ones that structure a chat.

    Other user-defined tokens (in Gemma runs of spaces and newlines, and HTML tags) are ordinary text.
    """
    structural = (
        t for t in weights.user_defined_texts if t.strip() and (t in template_source or _STRUCTURAL.search(t))
    )
    texts = {t for t in (*weights.control_texts, *structural) if len(t) > 1}
    return re.compile("|".join(re.escape(t) for t in sorted(texts, key=len, reverse=True))) if texts else None


def _between_media(parts: Sequence[Part]) -> list[list[str]]:
    """The texts of a message in the stretches that its media separate."""
    stretches: list[list[str]] = [[]]
    for part in parts:
        if isinstance(part, Text):
            stretches[-1].append(part.text)
        else:
            stretches.append([])
    return stretches


def _unused_characters(
    messages: Sequence[Message], tools: Sequence[Tool], variables: Mapping[str, Any]
) -> tuple[str, str]:
    texts = [part.text for m in messages for part in m.parts if isinstance(part, Text)]
    texts += [*texts_of(messages, tools), json.dumps(dict(variables), ensure_ascii=False)]
    free = [c for c in _NONCHARACTERS if not any(c in text for text in texts)]
    if len(free) < 2:
        raise InvalidRequest("the messages contain all of Unicode's noncharacters U+FDD0 to U+FDEF", "messages")
    return free[0], free[1]


def _missing(sense: str, projector: Projector | None) -> str:
    if projector is None:
        return f"this model cannot {sense}: it was loaded without a projector (--mmproj)"
    return f"this model cannot {sense}: its projector {projector.path.name} has no encoder for them"


@contextmanager
def _naming(part: Image | Audio | Video | Frame) -> Iterator[None]:
    """An error inside that names no field gets the one this media came from."""
    try:
        yield
    except InvalidRequest as error:
        if error.param is None:
            error.param = part.source
        raise
