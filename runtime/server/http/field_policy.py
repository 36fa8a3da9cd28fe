"""What becomes of every field of a request: honoured, inert, unsupported, or unknown. Nothing is dropped in silence.

Honoured fields are those of the wire type. Tables name the others that a known client sends, those of OpenAI's APIs
below; whatever stands in neither is unknown: a warning in the answer, or an error in strict mode.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from ....models.errors import UnsupportedField
from ..openai import completions_schema, embeddings_schema, schema

ANY = object()


@dataclass(frozen=True)
class Known:
    """Fields that the wire types do not hold, by the type they stand in.

    `inert` ones are accepted without effect, because they ask for nothing a local model could do otherwise: with any
    value, or null and the one given. `hints` are harmless and without effect here: a warning with this reason, in
    strict mode too. `unsupported` ones are meaningful and not offered: an error, unless the value is null or one that
    asks for nothing.
    """

    inert: Mapping[type, Mapping[str, object]] = field(default_factory=dict)
    hints: Mapping[type, Mapping[str, str]] = field(default_factory=dict)
    unsupported: Mapping[type, Mapping[str, tuple[object, ...]]] = field(default_factory=dict)


_GENERATION_INERT: dict[str, object] = {
    "metadata": ANY,
    "cache_prompt": ANY,
    "prompt_cache_key": ANY,
    "prompt_cache_retention": ANY,
    "safety_identifier": ANY,
    "service_tier": ANY,
    "user": ANY,
    "keep_alive": -1,
}

INERT: dict[type, dict[str, object]] = {
    schema.ChatRequest: _GENERATION_INERT,
    completions_schema.CompletionRequest: _GENERATION_INERT,
    embeddings_schema.EmbeddingRequest: {"user": ANY, "keep_alive": -1},
    schema.AssistantMessage: {
        "annotations": ANY,
        "audio": None,
        "function_call": None,
        "parsed": ANY,
        "provider_specific_fields": ANY,
        "refusal": None,
    },
    schema.ToolCall: {"index": ANY},
    schema.FunctionCall: {"parsed_arguments": ANY},
    schema.ImageURL: {"detail": "auto"},
    **dict.fromkeys((schema.TextPart, schema.ImagePart, schema.AudioPart, schema.FilePart), {"cache_control": ANY}),
}
"""Accepted without effect: they ask for nothing a local model could do otherwise, or clients have added them to what
they send back."""

_STAYS = ": the model stays loaded as long as the server runs"

HINTS: dict[type, dict[str, str]] = {
    schema.ImageURL: {"detail": ""},
    schema.ChatRequest: {"keep_alive": _STAYS},
    completions_schema.CompletionRequest: {"keep_alive": _STAYS},
    embeddings_schema.EmbeddingRequest: {"keep_alive": _STAYS},
}

_GENERATION_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "bad_words": ([],),
    "best_of": (1,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "json_schema": (),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "n_predict": (-1,),
    "n_probs": (0,),
    "repeat_last_n": (64,),
    "repetition_penalty": (1,),
    "samplers": (),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "tfs_z": (1,),
    "top_a": (0,),
    "top_n_sigma": (-1, 0),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "xtc_probability": (0,),
}

UNSUPPORTED: dict[type, dict[str, tuple[object, ...]]] = {
    schema.ChatRequest: {
        **_GENERATION_UNSUPPORTED,
        "audio": (),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "prediction": (),
        "store": (False,),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    completions_schema.CompletionRequest: {
        **_GENERATION_UNSUPPORTED,
        "input_extra": ([],),
        "truncate_prompt_tokens": (),
    },
    embeddings_schema.EmbeddingRequest: {
        "embd_normalize": (2,),
        "truncate": (False,),
        "task_type": (),
        "input_type": (),
    },
    schema.StreamOptions: {"include_obfuscation": (False,)},
}

OPENAI = Known(INERT, HINTS, UNSUPPORTED)

MAX_WARNINGS = 20
MAX_PATH = 200
"""Characters of an unknown field's path that are repeated to whoever sent it."""


def check(
    raw: dict[str, Any], strict: bool, kind: type[msgspec.Struct] = schema.ChatRequest, known: Known = OPENAI
) -> list[str]:
    """Sorts every field of a request that its wire type does not hold; returns warnings, the first `MAX_WARNINGS`.

    Raises `UnsupportedField` for what would be missed, and in strict mode for the unknown.
    """
    warnings: list[str] = []
    for path, struct, name, value in _unheld(raw, kind, ""):
        if _accepted(known, struct, name, value, path):
            continue
        path = path[:MAX_PATH]
        reason = known.hints.get(struct, {}).get(name)
        if reason is not None:
            warnings.append(f"the field {path} has no effect here{reason}")
        elif strict:
            raise UnsupportedField(f"unknown field {path}", path)
        else:
            warnings.append(f"the field {path} is unknown here and was ignored")
    left = len(warnings) - MAX_WARNINGS
    return [*warnings[:MAX_WARNINGS], f"and {left} more fields were ignored"] if left > 0 else warnings


Unheld = tuple[str, type, str, object]
"""A field no wire type holds: its path, the struct it stands in, its name, its value."""


def _unheld(raw: object, kind: Any, path: str) -> Iterator[Unheld]:
    if isinstance(raw, list):
        item = _item_kind(kind)
        for i, value in enumerate(raw) if item is not None else ():
            if isinstance(value, list | dict):
                yield from _unheld(value, item, f"{path}[{i}]")
    elif isinstance(raw, dict):
        struct = _struct_for(raw, kind)
        if struct is not None:
            yield from _unheld_fields(raw, struct, path)


def _unheld_fields(raw: dict[str, Any], struct: type[msgspec.Struct], path: str) -> Iterator[Unheld]:
    hints = _hints(struct)
    for name, value in raw.items():
        if name in hints:
            if isinstance(value, list | dict):
                yield from _unheld(value, hints[name], f"{path}.{name}" if path else name)
        elif name != struct.__struct_config__.tag_field:
            yield f"{path}.{name}" if path else name, struct, name, value


def _accepted(known: Known, struct: type, name: str, value: object, where: str) -> bool:
    inert = known.inert.get(struct, {}).get(name, msgspec.UNSET)
    if inert is ANY or (inert is not msgspec.UNSET and value in (inert, None)):
        return True
    harmless = known.unsupported.get(struct, {}).get(name)
    if harmless is None:
        return False
    if value is not None and value not in harmless:
        raise UnsupportedField(f"{where} is not supported here", where)
    return True


def _struct_for(raw: dict[str, Any], kind: Any) -> type[msgspec.Struct] | None:
    """The struct of a union that the tag in `raw` names, or the only one there is."""
    for struct in _structs(kind):
        config = struct.__struct_config__
        if config.tag_field is None or raw.get(config.tag_field) == config.tag:
            return struct
    return None


@cache
def _hints(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(struct)


@cache
def _item_kind(kind: Any) -> Any:
    """What a list of this kind holds, or `None` where it is not one."""
    return next((typing.get_args(k)[0] for k in _alternatives(kind) if typing.get_origin(k) is list), None)


@cache
def _structs(kind: Any) -> tuple[type[msgspec.Struct], ...]:
    return tuple(k for k in _alternatives(kind) if isinstance(k, type) and issubclass(k, msgspec.Struct))


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
