"""Mistral: since 2025 a tag, the name and JSON for each call; before, one tag and a list of JSON objects."""

from __future__ import annotations

from .tool_format import ToolFormat

MISTRAL = ToolFormat(
    name="mistral",
    detects=("[ARGS]",),
    opening="[TOOL_CALLS]",
    head="",
    middle="[ARGS]",
    tail="",
    closing="",
    id_length=9,
)

MISTRAL_LIST = ToolFormat(
    name="mistral-list",
    detects=("[TOOL_CALLS]",),
    opening="[TOOL_CALLS] [",
    head='{·"name"·: "',
    middle='"·, "arguments"·: ',
    tail="·}",
    closing="]",
    between=", ",
    id_length=9,
)
