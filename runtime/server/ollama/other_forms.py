"""Brings requests in other programs' forms into the documented form. Pure: no I/O.

Entered only if a request does not have the documented form.

Programs copy settings from Ollama's manual, and send null, data URIs, other roles and arguments as text. What has no
effect is left out with a warning; strict servers refuse what would change the answer.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from ...types.messages import ReasoningEffort
from ...types.warnings import Warnings
from ..http import tool_forms
from ..http.media_forms import medium_of

_ROLES = {"developer": "system", "function": "tool", "model": "assistant"}
_FLAGS = {"true": True, "false": False, "": None, "on": True, "off": False}
_UNUSED_SAMPLERS: dict[str, tuple[object, ...]] = {
    "mirostat": (0,),
    "repeat_last_n": (64,),
    "tfs_z": (1,),
    "typical_p": (1,),
}
"""Options of samplers that there are none of here, with the values that switch them off."""
_LOAD_OPTIONS = (
    "embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_gpu", "num_gqa", "num_keep",
    "num_thread", "numa", "rope_frequency_base", "rope_frequency_scale", "use_mlock", "use_mmap", "vocab_only",
)  # fmt: skip


_SERVE_OPTIONS = {"num_thread": "--threads", "num_gpu": "--gpu-layers", "f16_kv": "--kv-type"}
"""The options of `galago serve` that stand for some of these."""


def adapt(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """A copy of a request to `/api/chat` or `/api/generate`. What is wrong in any form is left as it is."""
    adapted = dict(raw)
    if isinstance(raw.get("messages"), list):
        adapted["messages"] = [_adapt_message(m, f"messages[{i}]", warnings) for i, m in enumerate(raw["messages"])]
    if "images" in raw:
        adapted["images"] = _adapt_images(raw["images"], "images", warnings)
    tools = tool_forms.listed(raw.get("tools"), warnings)
    if isinstance(tools, list):
        adapted["tools"] = _adapt_tools(tools, warnings)
    if isinstance(raw.get("options"), dict):
        adapted["options"] = _adapt_options(raw["options"], warnings)
    elif raw.get("options") in ("", []):
        adapted["options"] = None
    adapted["format"] = _adapt_format(raw.get("format"))
    if "think" in raw:
        adapted["think"] = _adapt_think(raw["think"], warnings)
    return adapted


def adapt_embedding(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """A copy of a request to `/api/embed`. Without a text it only wants the model to be loaded."""
    adapted = dict(raw)
    if raw.get("input") is None:
        adapted["input"] = adapted.pop("prompt", None) or []
    if isinstance(adapted["input"], list) and None in adapted["input"]:
        warnings.add_unless_strict("input has null", "input", instead="it is left out")
        adapted["input"] = [text for text in adapted["input"] if text is not None]
    if raw.get("dimensions") == 0:
        adapted["dimensions"] = None
    return adapted


def _adapt_message(message: Any, path: str, warnings: Warnings) -> Any:
    if not isinstance(message, dict):
        return message
    adapted = message | {"role": _ROLES.get(str(message.get("role")), message.get("role"))}
    content, images = message.get("content"), message.get("images")
    if isinstance(content, list | dict):
        content, more_images = _read_parts(content if isinstance(content, list) else [content], path, warnings)
        adapted["content"] = content
        images = [*(images if isinstance(images, list) else []), *more_images]
    adapted["images"] = _adapt_images(images, f"{path}.images", warnings)
    if adapted["role"] == "tool" and not message.get("tool_name"):
        adapted["tool_name"] = message.get("name")
    adapted.pop("name", None)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        adapted["tool_calls"] = [_adapt_call(call) for call in calls]
    return adapted


def _read_parts(parts: list[Any], path: str, warnings: Warnings) -> tuple[str, list[Any]]:
    """The text and the images of a content that is written as parts, as in OpenAI's API."""
    texts: list[str] = []
    images: list[Any] = []
    for i, part in enumerate(parts):
        image = part.get("image_url") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else part
        medium = medium_of(part) if isinstance(part, dict) else None
        if medium is not None and medium.kind != "file":
            images.append(medium.uri)
        elif image is not None:
            images.append(image.get("url") if isinstance(image, dict) else image)
        elif isinstance(text, str):
            texts.append(text)
        elif part is not None:
            where = f"{path}.content[{i}]"
            warnings.add_unless_strict(f"{where} is neither a text nor an image", where, instead="it is shown as JSON")
            texts.append(json.dumps(part, ensure_ascii=False))
    return "\n".join(texts), images


def _adapt_images(images: Any, path: str, warnings: Warnings) -> Any:
    """The images without null and empty ones."""
    if isinstance(images, str):
        images = [images]
    if not isinstance(images, list):
        return images
    kept = []
    for i, image in enumerate(images):
        if image in (None, ""):
            warnings.add_unless_strict(f"{path} has an empty image", f"{path}[{i}]", instead="it is left out")
        else:
            kept.append(image)
    return kept


def _adapt_call(call: Any) -> Any:
    """The call with its arguments as an object, unless they are a text that is not JSON."""
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    if function is None and "name" in call:
        function = {name: call[name] for name in ("name", "arguments") if name in call}
        call = {name: value for name, value in call.items() if name not in function}
    if isinstance(function, dict) and not function.get("arguments"):
        function = function | {"arguments": {}}
    return call | {"function": function}


def _adapt_tools(tools: list[Any], warnings: Warnings) -> list[Any]:
    """The tools that are functions."""
    kept = []
    for i, tool in enumerate(tools):
        path = f"tools[{i}]"
        function = tool.get("function") if isinstance(tool, dict) else None
        if function is None and tool_forms.has_name(tool) and tool.get("type") in (None, "function"):
            function = tool
            tool = {"function": function}
        if tool_forms.has_name(function):
            function = tool_forms.read(function, "parameters", f"{path}.function", warnings)
            kept.append(tool | {"type": "function", "function": function})
        else:
            tool_forms.leave_out(tool, path, warnings)
    return kept


def _adapt_format(answer_format: Any) -> Any:
    if isinstance(answer_format, str):
        name = answer_format.strip().lower()
        return None if name in ("text", "none", "null") else name
    return None if answer_format is False else answer_format


def _adapt_options(options: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """The options without those that have no effect, which two warnings name together."""
    samplers = [name for name, off in _UNUSED_SAMPLERS.items() if options.get(name) not in (None, *off)]
    if samplers:
        text = f"options.{', options.'.join(samplers)}: this server does not have these samplers"
        warnings.add_unless_strict(text, f"options.{samplers[0]}", instead="they are ignored")
    _warn_of_load_options([name for name in _LOAD_OPTIONS if options.get(name) is not None], warnings)
    adapted = {name: value for name, value in options.items() if name not in (*_UNUSED_SAMPLERS, *_LOAD_OPTIONS)}
    if isinstance(options.get("stop"), list):
        adapted["stop"] = [text for text in options["stop"] if text is not None]
    return adapted


def _warn_of_load_options(names: list[str], warnings: Warnings) -> None:
    """One warning for all options that can be set only when the model is loaded."""
    if not names:
        return
    problem = f"options.{', options.'.join(names)} {'has' if len(names) == 1 else 'have'} no effect"
    for name in names:
        if name in _SERVE_OPTIONS:
            problem += f"; set {'it' if len(names) == 1 else name} with `galago serve {_SERVE_OPTIONS[name]}`"
    warnings.add_unless_strict(problem, f"options.{names[0]}")


def _adapt_think(think: Any, warnings: Warnings) -> Any:
    if isinstance(think, int | float):
        return bool(think)
    if think == {}:
        return None
    if not isinstance(think, str) or think in get_args(ReasoningEffort):
        return think
    if think.lower() not in _FLAGS:
        warnings.add_unless_strict(f"think {think!r:.60} is not known here", "think", instead="the default is used")
    return _FLAGS.get(think.lower())
