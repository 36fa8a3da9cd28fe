"""Brings requests in other programs' forms into the documented form. Pure: no I/O.

Entered only if a request does not have the documented form.

Programs copy settings from Ollama's manual, and send null, data URIs, other roles and arguments as text. Fields without
effect are left out with a warning; strict servers refuse those that would change the answer.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from ...types.warnings import Warnings
from ..http import effort_forms, message_forms, tool_forms
from ..http.media_forms import medium_of
from ..http.text_forms import as_text

_ROLES = ("system", "user", "assistant", "tool")
_UNUSED_SAMPLERS: dict[str, tuple[object, ...]] = {
    "mirostat": (0,),
    "repeat_last_n": (64,),
    "tfs_z": (1,),
    "typical_p": (1,),
}
"""Options of samplers that Galago lacks, with the values that switch them off."""
OPTIONS_OF_OTHERS = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
}
"""Names of OpenAI's API and of vLLM for some options."""
TOP_LEVEL_OPTIONS = (
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "num_predict", "num_ctx", "repeat_penalty",
    "presence_penalty", "frequency_penalty", *OPTIONS_OF_OTHERS,
)  # fmt: skip
"""Fields that belong in `options`, which clients of OpenAI's API write next to it."""
_IMAGE_FIELDS = ("data", "image_url", "url", "source", "image")
"""Fields that hold the image of an object."""
_MAX_NESTED = 5
_LOAD_OPTIONS = (
    "embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_gpu", "num_gqa", "num_keep",
    "num_thread", "numa", "rope_frequency_base", "rope_frequency_scale", "use_mlock", "use_mmap", "vocab_only",
)  # fmt: skip


_SERVE_OPTIONS = {"num_thread": "--threads", "num_gpu": "--gpu-layers", "f16_kv": "--kv-type"}
"""The equivalents of some of these among the options of `galago serve`."""


def adapt(raw: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """A copy of a request to `/api/chat` or `/api/generate`. Values that have no known form are left as they are."""
    adapted = dict(raw)
    messages = message_forms.listed(raw.get("messages"), _ROLES, warnings)
    if isinstance(messages, list):
        adapted["messages"] = [_adapt_message(one, f"messages[{i}]", warnings) for i, one in enumerate(messages)]
    for name in ("prompt", "system", "suffix"):
        if raw.get(name):
            adapted[name] = as_text(raw[name], name, warnings)
    if "images" in raw:
        adapted["images"] = _adapt_images(raw["images"], "images", warnings)
    if (tools := tool_forms.listed(raw.get("tools"), warnings)) is not None:
        adapted["tools"] = _adapt_tools(tools, warnings)
    options = raw.get("options")
    if not isinstance(options, dict) and options not in (None, "", []):
        problem = f"options is {json.dumps(options)[:60]}, not an object"
        warnings.add_unless_strict(problem, "options", instead="it is ignored")
    beside = {name: adapted.pop(name, None) for name in TOP_LEVEL_OPTIONS}
    options = _with_others(beside, options if isinstance(options, dict) else {}, warnings)
    adapted["options"] = _adapt_options(options, warnings)
    adapted["format"] = _adapt_format(raw.get("format"), warnings)
    adapted["think"] = effort_forms.effort_or_switch(raw.get("think"))
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


def _adapt_message(message: dict[str, Any], path: str, warnings: Warnings) -> dict[str, Any]:
    adapted = dict(message)
    content, images = message.get("content"), message.get("images")
    if isinstance(content, list | dict):
        content, more_images = _read_parts(content if isinstance(content, list) else [content], path, warnings)
        adapted["content"] = content
        images = [*(images if isinstance(images, list) else []), *more_images]
    elif content is not None:
        adapted["content"] = as_text(content, f"{path}.content", warnings)
    adapted["images"] = _adapt_images(images, f"{path}.images", warnings)
    if adapted["role"] == "tool" and not message.get("tool_name"):
        adapted["tool_name"] = message.get("name")
    if message.get("tool_call_id") is not None:
        adapted["tool_call_id"] = str(message["tool_call_id"])
    adapted["tool_calls"] = [_adapt_call(call) for call in message_forms.calls(message, path, warnings)]
    return {name: value for name, value in adapted.items() if name not in ("name", "function_call")}


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
            texts.append(as_text(part, f"{path}.content[{i}]", warnings))
    return "\n".join(texts), images


def _adapt_images(images: Any, path: str, warnings: Warnings) -> Any:
    """The images in base64 or as URIs, without null and empty ones."""
    if images is not None and not isinstance(images, list) or _is_bytes(images):
        images = [images]
    if not isinstance(images, list):
        return images
    kept = []
    for i, image in enumerate(images):
        data = _image_data(image)
        if data in (None, ""):
            warnings.add_unless_strict(f"{path} has an empty image", f"{path}[{i}]", instead="it is left out")
        elif isinstance(data, str):
            kept.append(data)
        else:
            warnings.add_unless_strict(f"{path}[{i}] is not an image", f"{path}[{i}]", instead="it is left out")
    return kept


def _image_data(image: Any) -> Any:
    """An image as base64 or a URI, if it is given as bytes, as an object that holds it, or as a part of another API."""
    for _ in range(_MAX_NESTED):
        if _is_bytes(image):
            return base64.b64encode(bytes(image)).decode()
        if not isinstance(image, dict):
            break
        if all(name.isdecimal() for name in image):  # an array of bytes in JavaScript
            image = list(image.values())
        elif (medium := medium_of(image)) is not None:
            image = medium.uri
        else:
            image = next((image[name] for name in _IMAGE_FIELDS if name in image), False)
    return image


def _is_bytes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int and 0 <= one <= 255 for one in value)


def _adapt_call(call: message_forms.CallForm) -> dict[str, Any]:
    """The call with its arguments as an object, unless they are a text that is not JSON."""
    arguments = call.arguments if isinstance(call.arguments, dict | list | str) and call.arguments else {}
    return {
        **call.fields,
        "id": call.id,
        "function": {**call.function_fields, "name": call.name, "arguments": arguments},
    }


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


def _adapt_format(answer_format: Any, warnings: Warnings) -> Any:
    if answer_format in ([], False):
        return None
    if not isinstance(answer_format, str):
        return answer_format
    try:
        schema = json.loads(answer_format)
    except (ValueError, RecursionError):
        schema = None
    if isinstance(schema, dict):
        warnings.add_unless_strict("format is a text, not an object", "format", instead="the JSON in it is read")
        return schema
    name = answer_format.strip().lower()
    return None if name in ("text", "none", "null") else {"json_object": "json"}.get(name, name)


def _with_others(given: dict[str, Any], options: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """The options, including those given next to them or under the names of other APIs."""
    merged = {name: value for name, value in options.items() if name not in OPTIONS_OF_OTHERS}
    others = given | {name: options[name] for name in OPTIONS_OF_OTHERS if name in options}
    for field, value in others.items():
        name = OPTIONS_OF_OTHERS.get(field, field)
        if value is not None and merged.get(name) not in (None, value):
            problem = f"{field} and options.{name} have the same meaning and different values"
            warnings.add_unless_strict(problem, field, instead=f"options.{name} is used")
        elif value is not None:
            merged[name] = value
    return merged


def _adapt_options(options: dict[str, Any], warnings: Warnings) -> dict[str, Any]:
    """The options that have an effect. Two warnings name all others."""
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
