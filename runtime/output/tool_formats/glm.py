"""GLM 4.5 and later: a tag around the function's name and its arguments, each of them with tags for name and value."""

from __future__ import annotations

from .tagged import TaggedNotation
from .tool_format import ToolFormat

_BEFORE, _BEHIND, _END, _DONE = "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>", "</tool_call>"

GLM = ToolFormat(
    name="glm",
    detects=("<arg_key>",),
    opening="<tool_call>",
    head="",
    middle="\n",
    tail="",
    closing="",
    notation=TaggedNotation(_BEFORE, _BEHIND, _END, _DONE, marks=(_BEFORE, *_BEHIND.split(), _END, _DONE)),
)
