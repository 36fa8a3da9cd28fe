"""The tags around the reasoning that models write before their answers."""

from __future__ import annotations

from typing import NamedTuple


class ReasoningTags(NamedTuple):
    opening: str
    closing: str


KNOWN_TAGS = (
    ReasoningTags("<think>", "</think>"),
    ReasoningTags("[THINK]", "[/THINK]"),
    ReasoningTags("<|channel>thought", "<channel|>"),
    ReasoningTags("<seed:think>", "</seed:think>"),
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Qwen, DeepSeek, SmolLM and many others; Mistral; Gemma 4; Seed; Command."""


def tags_of(template: str) -> ReasoningTags | None:
    """The tags that a chat template mentions. Having such tokens in its vocabulary does not make a model reason."""
    return next((tags for tags in KNOWN_TAGS if tags.closing in template), None)
