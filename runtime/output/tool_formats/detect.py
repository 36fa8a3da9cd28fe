"""Finds the tool format that a chat template uses."""

from __future__ import annotations

from .deepseek import DEEPSEEK, DEEPSEEK_V3
from .gemma import FUNCTION_GEMMA, GEMMA
from .generic import GENERIC
from .glm import GLM
from .harmony import HARMONY
from .hermes import HERMES
from .lfm2 import LFM2
from .llama3 import LLAMA3
from .mistral import MISTRAL, MISTRAL_LIST
from .nemotron import NEMOTRON
from .phi import PHI
from .qwen_xml import QWEN_XML, SEED
from .tool_format import ToolFormat

TOOL_FORMATS = (
    HARMONY, SEED, QWEN_XML, GLM, NEMOTRON, DEEPSEEK, DEEPSEEK_V3, GEMMA, FUNCTION_GEMMA, LFM2, MISTRAL, MISTRAL_LIST,
    PHI, HERMES, LLAMA3,
)  # fmt: skip
"""In order of precedence. Hermes' own models are based on Llama 3, so their format comes first."""

_UNSUPPORTED_MARKERS = ("minimax", "tool_call_argument_begin")
"""Markers of formats that look like one of these but are not supported."""


def tool_format_of(template: str) -> ToolFormat:
    """The tool format that a chat template's source uses, or the generic one if it uses no known format."""
    if any(text in template for text in _UNSUPPORTED_MARKERS):
        return GENERIC
    for tool_format in TOOL_FORMATS:
        if any(marker in template for marker in tool_format.template_markers):
            return tool_format
    return GENERIC


def tool_format_named(name: str) -> ToolFormat:
    """The tool format of that name. Raises `KeyError` for an unknown one."""
    return {tool_format.name: tool_format for tool_format in (*TOOL_FORMATS, GENERIC)}[name]
