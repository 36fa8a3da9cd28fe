"""What a checkpoint says beside its tokens: which begin and end texts, chat template, sampling, pooling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...runtime.types.options import SAMPLING
from .checkpoint import Checkpoint, Settings
from .safetensors import damaged, shown
from .target import Value
from .vocabulary import Vocabulary

MAX_TEMPLATE = 1 << 20  # bytes; real ones have up to 100 KiB

_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # so spelled in GGUF
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}

_POOLING = {"mean_tokens": 1, "cls_token": 2, "lasttoken": 3, "mean": 1, "cls": 2}


def describe(checkpoint: Checkpoint, vocabulary: Vocabulary) -> dict[str, Value]:
    """Metadata for GGUF. Raises `ModelError` where a token is named that there is not, or a template is too long."""
    return {
        **_special_tokens(checkpoint, vocabulary),
        **_template(checkpoint),
        **_sampling(checkpoint.read("generation_config.json")),
    }


def _special_tokens(checkpoint: Checkpoint, vocabulary: Vocabulary) -> dict[str, Value]:
    settings, mapped = checkpoint.read("tokenizer_config.json"), checkpoint.read("special_tokens_map.json")
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    metadata: dict[str, Value] = {}
    for name, key in _KEYS.items():
        text = _text(settings.get(name, mapped.get(name)))
        if text is not None and text not in ids:
            raise settings.error(f"{name} is {shown(text)}, which is no token")
        number = ids.get(text) if text is not None else _first(checkpoint.config.get(f"{name}_id"))
        if number is not None and 0 <= number < len(vocabulary.tokens):
            metadata[f"tokenizer.ggml.{key}"] = number
    first, last = _surroundings(checkpoint, settings, ids)
    if vocabulary.metadata["tokenizer.ggml.model"] == "bert":
        begin = ids.get(_text(settings.get("cls_token", "[CLS]")) or "", first)
        end = metadata.get("tokenizer.ggml.seperator_token_id", ids.get("[SEP]", last))
        if begin is None or end is None:
            raise settings.error("it names no cls_token or sep_token")
        around: dict[str, Value] = {"bos_token_id": begin, "eos_token_id": end, "seperator_token_id": end}
        around |= {"cls_token_id": begin, "add_bos_token": True, "add_sep_token": True, "add_eos_token": False}
    else:
        around = {"add_bos_token": first is not None, "add_eos_token": last is not None}
        around |= {"bos_token_id": first} if first is not None else {}
        around |= {"eos_token_id": last} if last is not None else {}
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in around.items()}


def _surroundings(checkpoint: Checkpoint, settings: Settings, ids: dict[str, int]) -> tuple[int | None, int | None]:
    """The tokens put before and behind each text."""
    steps = checkpoint.read("tokenizer.json").get("post_processor")
    found = [one for one in _flat(steps) if one.get("type") == "TemplateProcessing"]
    flags = settings.get("add_bos_token"), settings.get("add_eos_token")
    if found and None in flags:
        single = found[-1].get("single")
        pieces: list[tuple[str, Any]] = (
            [next(iter(piece.items()), ("", {})) for piece in single] if isinstance(single, list) else []
        )
        places = [kind for kind, _ in pieces]
        if places.count("Sequence") == 1:
            at = places.index("Sequence")
            named = [ids.get(value.get("id", "")) if kind == "SpecialToken" else None for kind, value in pieces]
            return (named[at - 1] if at else None), (named[at + 1] if at + 1 < len(named) else None)
    whole = not (checkpoint.folder / "tokenizer.json").is_file()  # tokenizer.model alone: Llama's begin with one
    begin = flags[0] if isinstance(flags[0], bool) else whole
    texts = [_text(settings.get(name)) for name in ("bos_token", "eos_token")]
    usual = ("<s>", "</s>")
    first, last = (ids.get(text or default) for text, default in zip(texts, usual, strict=True))
    return (first if begin else None), (last if flags[1] is True else None)


def _flat(step: Any) -> list[dict[str, Any]]:
    if not isinstance(step, dict):
        return []
    inner = step.get("processors")
    return [one for part in inner for one in _flat(part)] if isinstance(inner, list) else [step]


def _text(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _first(number: Any) -> int | None:
    if isinstance(number, list) and number:
        number = number[0]
    return number if type(number) is int else None


def _template(checkpoint: Checkpoint) -> dict[str, Value]:
    path = checkpoint.folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > MAX_TEMPLATE:
            raise checkpoint.config.error(f"{path.name} is larger than {MAX_TEMPLATE >> 10} KiB")
        return {"tokenizer.chat_template": path.read_text(encoding="utf-8", errors="replace")}
    given = checkpoint.read("tokenizer_config.json").get("chat_template")
    given = given or checkpoint.read("chat_template.json").get("chat_template")
    named = {t.get("name"): t.get("template") for t in given if isinstance(t, dict)} if isinstance(given, list) else {}
    template = named.get("default") if named else given
    found: dict[str, Value] = {"tokenizer.chat_template": template} if isinstance(template, str) else {}
    with_tools = named.get("tool_use")
    if isinstance(with_tools, str):
        found |= {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": with_tools}
    return found


def _sampling(settings: Settings) -> dict[str, Value]:
    if settings.get("do_sample") is not True:
        return {}
    found: dict[str, Value] = {}
    for option in SAMPLING:
        value = settings.get(option.checkpoint) if option.checkpoint else None
        if option.kind == "integer" and value:
            found[f"general.sampling.{option.gguf}"] = settings.whole(option.checkpoint)
        elif option.kind == "number" and value is not None:
            found[f"general.sampling.{option.gguf}"] = settings.number(option.checkpoint)
    return found


def pooling(checkpoint: Checkpoint) -> int | None:
    """How the vectors of a text's tokens become one, by sentence-transformers' files; `None` where there are none.

    Numbered as `enum llama_pooling_type` in llama.cpp's include/llama.h.
    """
    path = checkpoint.folder / "modules.json"
    try:
        modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        kinds = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in modules}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise damaged(path, "is not a list of modules with type and path") from None
    more = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if more:
        raise damaged(path, f"the model goes on behind its layers with {shown(min(more))}, which GGUF has no place for")
    if "Pooling" not in kinds:
        return None
    if Path(kinds["Pooling"]).name != kinds["Pooling"]:
        raise damaged(path, f"it names the folder {shown(kinds['Pooling'])}, which is none of this checkpoint")
    settings = checkpoint.read(f"{kinds['Pooling']}/config.json")
    modes = [mode for mode in _POOLING if settings.get(f"pooling_mode_{mode}") is True] or [
        settings.get("pooling_mode")
    ]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise settings.error(f"vectors are pooled by {shown(modes)}; {', '.join(_POOLING)} can be told, one at a time")
    return _POOLING[modes[0]]
