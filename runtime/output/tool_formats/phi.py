"""Phi-4-mini: a tag and a list of JSON objects. Its template looks for the tools in the system message."""

from __future__ import annotations

from .tool_format import ToolFormat

PHI = ToolFormat(
    name="phi",
    template_markers=("<|tool|>", "<|/tool|>"),
    block_start="<|tool_call|>[",
    call_start='{·"name"·: "',
    arguments_start='"·, "arguments"·: ',
    call_end="·}",
    block_end="]<|/tool_call|>",
    call_separator=", ",
    tools_in_system=True,
)
