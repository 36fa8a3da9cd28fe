"""Llama 3.1 and later: a JSON object as the whole answer, with `parameters`, perhaps behind a tag."""

from __future__ import annotations

from .dialect import Dialect

LLAMA3 = Dialect(
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
