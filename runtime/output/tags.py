"""The tags between which models think before they answer."""

from __future__ import annotations

from typing import NamedTuple


class Tags(NamedTuple):
    opening: str
    closing: str


KNOWN = (
    Tags("<think>", "</think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<|channel>thought", "<channel|>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""Qwen, DeepSeek, SmolLM and many others; Mistral; Gemma 4; Seed; Command."""


def tags_of(template: str) -> Tags | None:
    """The tags that a chat template speaks of. That a vocabulary has tokens for some does not make a model think."""
    return next((tags for tags in KNOWN if tags.closing in template), None)
