"""Mistral. Since 2025 each call is a tag, the name and JSON; before, one tag preceded a list of JSON objects."""

from __future__ import annotations

from .tool_format import ToolFormat

MISTRAL = ToolFormat(
    name="mistral",
    template_markers=("[ARGS]",),
    block_start="[TOOL_CALLS]",
    call_start="",
    arguments_start="[ARGS]",
    call_end="",
    block_end="",
    id_length=9,
)

MISTRAL_LIST = ToolFormat(
    name="mistral-list",
    template_markers=("[TOOL_CALLS]",),
    block_start="[TOOL_CALLS] [",
    call_start='{·"name"·: "',
    arguments_start='"·, "arguments"·: ',
    call_end="·}",
    block_end="]",
    call_separator=", ",
    id_length=9,
)
