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

DIALECTS = (
    HARMONY, SEED, QWEN_XML, GLM, NEMOTRON, DEEPSEEK, DEEPSEEK_V3, GEMMA, FUNCTION_GEMMA, LFM2, MISTRAL, MISTRAL_LIST,
    PHI, HERMES, LLAMA3,
)  # fmt: skip
"""The first that a template speaks is taken. Hermes' own models stand on Llama 3, so theirs comes before."""

_OTHERS = ("minimax", "tool_call_argument_begin")
"""Ways of calling that none of them reads, although they look like one of them."""


def tool_format_of(template: str) -> ToolFormat:
    """The dialect of a chat template's source; the generic one where it speaks none that is known."""
    if any(text in template for text in _OTHERS):
        return GENERIC
    return next((d for d in DIALECTS if any(text in template for text in d.detects)), GENERIC)


def tool_format_named(name: str) -> ToolFormat:
    """The tool format of that name. Raises `KeyError` for an unknown one."""
    return {tool_format.name: tool_format for tool_format in (*DIALECTS, GENERIC)}[name]
