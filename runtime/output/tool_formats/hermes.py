"""Hermes and Qwen: JSON between tags, one call in each. Qwen 2.5 and 3, Hermes 2 and 3, SmolLM3, Granite 4, ..."""

from __future__ import annotations

from .tool_format import ToolFormat

HERMES = ToolFormat(
    name="hermes",
    detects=("<tool_call>",),
    opening="<tool_call>\n",
    head='{·"name"·: "',
    middle='"·, "arguments"·: ',
    tail="·}",
    closing="\n</tool_call>",
)
