"""GLM 4.5 and later: a tag around the function's name and arguments; each argument has tags for its name and value."""

from __future__ import annotations

from .tagged import TaggedNotation
from .tool_format import ToolFormat

_NAME_START = "<arg_key>"
_NAME_END = "</arg_key>\n<arg_value>"
_VALUE_END = "</arg_value>"
_END = "</tool_call>"

GLM = ToolFormat(
    name="glm",
    template_markers=("<arg_key>",),
    block_start="<tool_call>",
    call_start="",
    arguments_start="\n",
    call_end="",
    block_end="",
    notation=TaggedNotation(
        _NAME_START, _NAME_END, _VALUE_END, _END, tags=(_NAME_START, *_NAME_END.split(), _VALUE_END, _END)
    ),
)
