"""Nemotron Nano 2: a list of JSON objects between tags."""

from __future__ import annotations

from .tool_format import ToolFormat

NEMOTRON = ToolFormat(
    name="nemotron",
    template_markers=("<TOOLCALL>",),
    block_start="<TOOLCALL>[",
    call_start='{·"name"·: "',
    arguments_start='"·, "arguments"·: ',
    call_end="·}",
    block_end="]</TOOLCALL>",
    call_separator=", ",
)
