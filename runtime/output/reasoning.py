"""The tags between which models think before they answer."""

from __future__ import annotations

from typing import NamedTuple


class ReasoningTags(NamedTuple):
    opening: str
    closing: str


KNOWN = (
    ReasoningTags("<think>", "</think>"),
    ReasoningTags("[THINK]", "[/THINK]"),
    ReasoningTags("<|channel>thought", "<channel|>"),
    ReasoningTags("<seed:think>", "</seed:think>"),
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Qwen, DeepSeek, SmolLM and many others; Mistral; Gemma 4; Seed; Command."""


def tags_of(template: str) -> ReasoningTags | None:
    """The tags that a chat template speaks of. That a vocabulary has tokens for some does not make a model think."""
    return next((tags for tags in KNOWN if tags.closing in template), None)
