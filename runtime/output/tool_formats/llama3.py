"""Llama 3.1 and later: the whole answer is a JSON object with `parameters`, optionally after a tag."""

from __future__ import annotations

from .tool_format import ToolFormat

LLAMA3 = ToolFormat(
    name="llama3",
    template_markers=("<|start_header_id|>ipython", '"parameters": dictionary of argument name'),
    block_start="<|python_tag|>",
    call_start='{·"name"·: "',
    arguments_start='"·, "parameters"·: ',
    call_end="·}",
    block_end="",
    call_separator="; ",
    block_start_optional=True,
)
