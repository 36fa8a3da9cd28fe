"""DeepSeek: tags of its own; R1 and its distillations write arguments as a block of Markdown, V3.1 as JSON alone."""

from __future__ import annotations

from .tool_format import ToolFormat

DEEPSEEK = ToolFormat(
    name="deepseek",
    detects=("['type'] + '<｜tool▁sep｜>'", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
    opening="<｜tool▁calls▁begin｜>",
    head="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    middle="\n```json\n",
    tail="\n```<｜tool▁call▁end｜>",
    closing="<｜tool▁calls▁end｜>",
    between="\n",
)

DEEPSEEK_V3 = ToolFormat(
    name="deepseek-v3",
    detects=("<｜tool▁sep｜>",),
    opening="<｜tool▁calls▁begin｜>",
    head="<｜tool▁call▁begin｜>",
    middle="<｜tool▁sep｜>",
    tail="<｜tool▁call▁end｜>",
    closing="<｜tool▁calls▁end｜>",
    between="",
)
