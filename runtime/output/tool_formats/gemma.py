"""Gemma 4 and FunctionGemma: `call:name{key:value}` between tags; the string delimiters are control tokens.

Gemma 3 has no tool-call format and uses the generic one.
"""

from __future__ import annotations

from .literals import LiteralNotation
from .tool_format import ToolFormat


def _notation(quote: str) -> LiteralNotation:
    return LiteralNotation(
        words={},
        quotes=((quote, quote),),
        escapes=False,
        brackets=("{", "}"),
        assign=":",
        comma=",",
        quoted_keys=False,
        sorted_keys=True,
    )


GEMMA = ToolFormat(
    name="gemma",
    template_markers=("<|tool_call>call:",),
    block_start="<|tool_call>",
    call_start="call:",
    arguments_start="",
    call_end="",
    block_end="<tool_call|>",
    notation=_notation('<|"|>'),
)

FUNCTION_GEMMA = ToolFormat(
    name="function-gemma",
    template_markers=("<start_function_call>",),
    block_start="<start_function_call>",
    call_start="call:",
    arguments_start="",
    call_end="",
    block_end="<end_function_call>",
    notation=_notation("<escape>"),
)
