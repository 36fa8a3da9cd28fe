"""Hermes and Qwen: one JSON call between tags. Used by Qwen 2.5 and 3, Hermes 2 and 3, SmolLM3, Granite 4, ..."""

from __future__ import annotations

from .tool_format import ToolFormat

HERMES = ToolFormat(
    name="hermes",
    template_markers=("<tool_call>",),
    block_start="<tool_call>\n",
    call_start='{·"name"·: "',
    arguments_start='"·, "arguments"·: ',
    call_end="·}",
    block_end="\n</tool_call>",
)
