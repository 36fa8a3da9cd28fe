"""Qwen 3.5, Qwen3-Coder, Nemotron 3 and Seed: a tag for the function and one for each argument, which hold its name."""

from __future__ import annotations

from dataclasses import replace

from .tagged import TaggedNotation
from .tool_format import ToolFormat

QWEN_XML = ToolFormat(
    name="qwen-xml",
    detects=("<parameter=",),
    opening="<tool_call>\n",
    head="<function=",
    middle=">\n",
    tail="",
    closing="\n</tool_call>",
    notation=TaggedNotation(before="<parameter=", behind=">\n", end="\n</parameter>", done="</function>"),
)

SEED = replace(
    QWEN_XML,
    name="seed",
    detects=("<seed:tool_call>",),
    opening="<seed:tool_call>\n",
    closing="\n</seed:tool_call>",
)
