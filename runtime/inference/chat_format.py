"""What a chat template determines: how prompts are built, and how answers are constrained and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    prompts: PromptBuilder
    tool_format: ToolFormat
    reasoning_tags: ReasoningTags | None
    constraints: AnswerConstraints


def chat_format(weights: Weights, media: MediaParts | None, template: ChatTemplate, context_length: int) -> ChatFormat:
    tool_format, tags = tool_format_of(template.source), tags_of(template.source)
    prompts = PromptBuilder(weights, TemplateTraits(template, tool_format), media, context_length, tags)
    return ChatFormat(prompts, tool_format, tags, AnswerConstraints(weights, tool_format, tags))
