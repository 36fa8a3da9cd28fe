"""Phi-4-mini: a tag and a list of JSON objects. Its template reads the tools from the system message."""

from __future__ import annotations

from .tool_format import ToolFormat

PHI = ToolFormat(
    name="phi",
    detects=("<|tool|>", "<|/tool|>"),
    opening="<|tool_call|>[",
    head='{·"name"·: "',
    middle='"·, "arguments"·: ',
    tail="·}",
    closing="]<|/tool_call|>",
    between=", ",
    tools_in_system=True,
)
