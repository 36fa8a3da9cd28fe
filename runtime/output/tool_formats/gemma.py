"""Gemma 4 and FunctionGemma: `call:name{key:value}` between tags, strings in quotes that are tokens of their own.

Gemma 3 knows no calls, so it is told of the generic ones.
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
    detects=("<|tool_call>call:",),
    opening="<|tool_call>",
    head="call:",
    middle="",
    tail="",
    closing="<tool_call|>",
    notation=_notation('<|"|>'),
)

FUNCTION_GEMMA = ToolFormat(
    name="function-gemma",
    detects=("<start_function_call>",),
    opening="<start_function_call>",
    head="call:",
    middle="",
    tail="",
    closing="<end_function_call>",
    notation=_notation("<escape>"),
)
