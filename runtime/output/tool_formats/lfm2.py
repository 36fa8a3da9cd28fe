"""LFM2: a list of Python calls between tags, `[name(key="value")]`."""

from __future__ import annotations

from .literals import LiteralNotation
from .tool_format import ToolFormat

LFM2 = ToolFormat(
    name="lfm2",
    template_markers=("<|tool_list_start|>", "<|tool_call_start|>", "List of tools: ["),
    block_start="<|tool_call_start|>[",
    call_start="",
    arguments_start="",
    call_end="",
    block_end="]<|tool_call_end|>",
    call_separator=", ",
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
