"""Nemotron Nano 2: a list of JSON objects between tags."""

from __future__ import annotations

from .tool_format import ToolFormat

NEMOTRON = ToolFormat(
    name="nemotron",
    detects=("<TOOLCALL>",),
    opening="<TOOLCALL>[",
    head='{·"name"·: "',
    middle='"·, "arguments"·: ',
    tail="·}",
    closing="]</TOOLCALL>",
    between=", ",
)
