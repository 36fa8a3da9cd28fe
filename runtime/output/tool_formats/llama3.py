"""Llama 3.1 and later: a JSON object as the whole answer, with `parameters`, perhaps behind a tag."""

from __future__ import annotations

from .tool_format import ToolFormat

LLAMA3 = ToolFormat(
    name="llama3",
    detects=("<|start_header_id|>ipython", '"parameters": dictionary of argument name'),
    opening="<|python_tag|>",
    head='{·"name"·: "',
    middle='"·, "parameters"·: ',
    tail="·}",
    closing="",
    between="; ",
    bare=True,
)
