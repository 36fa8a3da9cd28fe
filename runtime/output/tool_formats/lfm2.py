"""LFM2: a list of Python calls between tags, `[name(key="value")]`."""

from __future__ import annotations

from .literals import LiteralNotation
from .tool_format import ToolFormat

LFM2 = ToolFormat(
    name="lfm2",
    detects=("<|tool_list_start|>", "<|tool_call_start|>", "List of tools: ["),
    opening="<|tool_call_start|>[",
    head="",
    middle="",
    tail="",
    closing="]<|tool_call_end|>",
    between=", ",
    notation=LiteralNotation(
        words={"true": "True", "false": "False", "null": "None"},
        quotes=(('"', '"'), ("'", "'")),
        escapes=True,
        brackets=("(", ")"),
        assign="=",
        comma=", ",
        quoted_keys=True,
    ),
)
