"""DeepSeek's own tags. R1 and its distillations write arguments in a Markdown code block, V3.1 as plain JSON."""

from __future__ import annotations

from .tool_format import ToolFormat

DEEPSEEK = ToolFormat(
    name="deepseek",
    template_markers=("['type'] + '<｜tool▁sep｜>'", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
    block_start="<｜tool▁calls▁begin｜>",
    call_start="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    arguments_start="\n```json\n",
    call_end="\n```<｜tool▁call▁end｜>",
    block_end="<｜tool▁calls▁end｜>",
    call_separator="\n",
)

DEEPSEEK_V3 = ToolFormat(
    name="deepseek-v3",
    template_markers=("<｜tool▁sep｜>",),
    block_start="<｜tool▁calls▁begin｜>",
    call_start="<｜tool▁call▁begin｜>",
    arguments_start="<｜tool▁sep｜>",
    call_end="<｜tool▁call▁end｜>",
    block_end="<｜tool▁calls▁end｜>",
    call_separator="",
)
