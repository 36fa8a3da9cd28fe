"""Qwen 3.5, Qwen3-Coder, Nemotron 3 and Seed: a tag for the function and one for each argument, with its name."""

from __future__ import annotations

from dataclasses import replace

from .tagged import TaggedNotation
from .tool_format import ToolFormat

QWEN_XML = ToolFormat(
    name="qwen-xml",
    template_markers=("<parameter=",),
    block_start="<tool_call>\n",
    call_start="<function=",
    arguments_start=">\n",
    call_end="",
    block_end="\n</tool_call>",
    notation=TaggedNotation(name_start="<parameter=", name_end=">\n", value_end="\n</parameter>", end="</function>"),
)

SEED = replace(
    QWEN_XML,
    name="seed",
    template_markers=("<seed:tool_call>",),
    block_start="<seed:tool_call>\n",
    block_end="\n</seed:tool_call>",
)
