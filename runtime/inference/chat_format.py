"""What a chat template determines: how prompts are built, and how answers are constrained and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...models.errors import TemplateError
from ..output.constraints import AnswerConstraints
from ..output.reasoning import ReasoningTags, tags_of
from ..output.tool_formats.detect import tool_format_of
from ..output.tool_formats.tool_format import ToolFormat
from ..prompt.builder import PromptBuilder
from ..prompt.template_traits import TemplateTraits

if TYPE_CHECKING:
    from ..llamacpp.weights import Weights
    from ..prompt.media_parts import MediaParts
    from ..prompt.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """`turn_end` is the token that ends turns in the template, if it is not one of the vocabulary's end tokens."""

    prompts: PromptBuilder
    tool_format: ToolFormat
    reasoning_tags: ReasoningTags | None
    constraints: AnswerConstraints
    turn_end: int | None = None


def chat_format(weights: Weights, media: MediaParts | None, template: ChatTemplate, context_length: int) -> ChatFormat:
    tool_format, tags = tool_format_of(template.source), tags_of(template.source)
    prompts = PromptBuilder(weights, TemplateTraits(template, tool_format), media, context_length, tags)
    turn_end = None if tool_format.answer_header else _turn_end(weights, template)  # Harmony answers have many turns
    return ChatFormat(prompts, tool_format, tags, AnswerConstraints(weights, tool_format, tags), turn_end)


def _turn_end(weights: Weights, template: ChatTemplate) -> int | None:
    """The control token that follows turns of the user and of the assistant, unless it is an end token already."""
    turns = (("user", "Alpha"), ("assistant", "Bravo"), ("user", "Charlie"))
    try:
        rendered = template.render([{"role": role, "content": text} for role, text in turns])
    except TemplateError:
        return None
    before, between, after = (rendered.partition(text)[i] for text, i in (("Alpha", 0), ("Alpha", 2), ("Bravo", 2)))
    texts = {text for text in (*weights.control_texts, *weights.user_defined_texts) if len(text) > 1}
    ends = [text for text in texts if between.lstrip().startswith(text) and after.lstrip().startswith(text)]
    last_before = max(texts, key=before.rfind, default="")
    if not ends or (last_before in ends and last_before in before):  # the token starts turns
        return None
    token = weights.tokenize(max(ends, key=len), parse_special=True)[0]
    return None if token in weights.end_tokens else token
