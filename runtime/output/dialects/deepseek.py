"""DeepSeek R1 and its distillations: tags of their own, and the arguments as a block of Markdown."""

from __future__ import annotations

from .dialect import Dialect

DEEPSEEK = Dialect(
    name="deepseek",
    detects=("['type'] + '<｜tool▁sep｜>'", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
    opening="<｜tool▁calls▁begin｜>",
    head="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    middle="\n```json\n",
    tail="\n```<｜tool▁call▁end｜>",
    closing="<｜tool▁calls▁end｜>",
    between="\n",
)
