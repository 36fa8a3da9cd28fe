"""Reads a checkpoint's metadata besides its tokens: special tokens, chat template, sampling defaults and pooling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...models.regular_file import read_text
from ...runtime.types.options import SAMPLING, OptionSpec
from .chat_templates import read_templates
from .checkpoint import Checkpoint
from .end_tokens import read_end_tokens
from .gguf_content import GGUFValue
from .json_config import JSONConfig
from .safetensors import file_error, quoted
from .vocabulary import Vocabulary

_SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # spelled like this in GGUF
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}

_EOS = "tokenizer.ggml.eos_token_id"

_GENERATION_CONSTRAINTS = (
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "encoder_repetition_penalty", "epsilon_cutoff",
    "eta_cutoff", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_decoder_ids",
    "forced_eos_token_id", "guidance_scale", "min_length", "min_new_tokens", "no_repeat_ngram_size", "num_beams",
    "penalty_alpha", "sequence_bias", "stop_strings", "suppress_tokens", "typical_p", "watermarking_config",
)  # fmt: skip
"""Settings, applied by transformers, that change which tokens an answer may have."""

_NEUTRAL_AT_ONE = ("encoder_repetition_penalty", "guidance_scale", "num_beams", "typical_p")

_WITHOUT_SAMPLING = ("repetition_penalty",)
"""Sampling settings that transformers applies even if it always takes the most likely token (do_sample)."""

_UNUSED_TOKENS = ("pad_token", "mask_token")
"""Special tokens that occur in no text, so a model works without them."""

_POOLING = {"mean_tokens": 1, "cls_token": 2, "lasttoken": 3, "mean": 1, "cls": 2}


def read_metadata(checkpoint: Checkpoint, vocabulary: Vocabulary) -> dict[str, GGUFValue]:
    """Returns GGUF metadata. Raises `ModelError` for a special token without an id, or a template that is too long."""
    special = _special_tokens(checkpoint, vocabulary)
    is_encoder = vocabulary.metadata["tokenizer.ggml.model"] == "bert"
    return {
        **special,
        **({} if is_encoder else read_end_tokens(checkpoint, vocabulary.tokens, special.get(_EOS))),
        **read_templates(checkpoint),
        **_sampling(checkpoint),
    }


def _special_tokens(checkpoint: Checkpoint, vocabulary: Vocabulary) -> dict[str, GGUFValue]:
    config, mapped = checkpoint.read("tokenizer_config.json"), checkpoint.read("special_tokens_map.json")
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    metadata: dict[str, GGUFValue] = {}
    for name, key in _SPECIAL_TOKENS.items():
        text = _text(config.get(name, mapped.get(name)))
        if text is not None and text not in ids:
            if name in _UNUSED_TOKENS:
                checkpoint.left_out.append(f"the {name} {quoted(text)}, which the vocabulary does not have")
                continue
            raise config.error(f"{name} is {quoted(text)}, which is not a token")
        number = ids.get(text) if text is not None else _first_id(checkpoint.config.get(f"{name}_id"))
        if number is not None and 0 <= number < len(vocabulary.tokens):
            metadata[f"tokenizer.ggml.{key}"] = number
    first, last = _added_tokens(checkpoint, config, ids)
    if vocabulary.metadata["tokenizer.ggml.model"] == "bert":
        begin = ids.get(_text(config.get("cls_token", "[CLS]")) or "", first)
        end = metadata.get("tokenizer.ggml.seperator_token_id", ids.get("[SEP]", last))
        if begin is None or end is None:
            raise config.error("it names no cls_token or sep_token")
        added: dict[str, GGUFValue] = {"bos_token_id": begin, "eos_token_id": end, "seperator_token_id": end}
        added |= {"cls_token_id": begin, "add_bos_token": True, "add_sep_token": True, "add_eos_token": False}
    else:
        added = {"add_bos_token": first is not None, "add_eos_token": last is not None}
        added |= {"bos_token_id": first} if first is not None else {}
        added |= {"eos_token_id": last} if last is not None else {}
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in added.items()}


def _added_tokens(checkpoint: Checkpoint, config: JSONConfig, ids: dict[str, int]) -> tuple[int | None, int | None]:
    """Returns the tokens that the tokenizer adds before and after each text."""
    post_processor = checkpoint.read("tokenizer.json").get("post_processor")
    templates = [step for step in _flat(post_processor) if step.get("type") == "TemplateProcessing"]
    adds_bos, adds_eos = config.get("add_bos_token"), config.get("add_eos_token")
    if templates and None in (adds_bos, adds_eos):
        single = templates[-1].get("single")
        pieces: list[tuple[str, Any]] = (
            [next(iter(piece.items()), ("", {})) for piece in single] if isinstance(single, list) else []
        )
        kinds = [kind for kind, _ in pieces]
        if kinds.count("Sequence") == 1:
            at = kinds.index("Sequence")
            around = [ids.get(value.get("id", "")) if kind == "SpecialToken" else None for kind, value in pieces]
            return (around[at - 1] if at else None), (around[at + 1] if at + 1 < len(around) else None)
    # Llama checkpoints with a tokenizer.model alone add a begin-of-text token
    default = not (checkpoint.folder / "tokenizer.json").is_file()
    begins = adds_bos if isinstance(adds_bos, bool) else default
    texts = [_text(config.get(name)) for name in ("bos_token", "eos_token")]
    first, last = (ids.get(text or usual) for text, usual in zip(texts, ("<s>", "</s>"), strict=True))
    return (first if begins else None), (last if adds_eos is True else None)


def _flat(step: Any) -> list[dict[str, Any]]:
    if not isinstance(step, dict):
        return []
    inner = step.get("processors")
    return [each for part in inner for each in _flat(part)] if isinstance(inner, list) else [step]


def _text(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _first_id(number: Any) -> int | None:
    if isinstance(number, list) and number:
        number = number[0]
    return number if type(number) is int else None


def _sampling(checkpoint: Checkpoint) -> dict[str, GGUFValue]:
    config = checkpoint.read_optional("generation_config.json")
    constraints = [
        name
        for name in _GENERATION_CONSTRAINTS
        if config.get(name) and not (name in _NEUTRAL_AT_ONE and config.get(name) == 1)
    ]
    if constraints:
        checkpoint.left_out.append(
            f"settings of generation_config.json without a key in GGUF: {', '.join(constraints)}"
        )
    samples = config.get("do_sample") is True
    metadata: dict[str, GGUFValue] = {}
    for option in SAMPLING:
        value = config.get(option.checkpoint) if option.checkpoint else None
        if value is None or not (samples or option.checkpoint in _WITHOUT_SAMPLING):
            continue
        number = _number_of(option, value)
        if number is None:
            checkpoint.left_out.append(
                f"{option.checkpoint} of generation_config.json: {quoted(value)} is not a valid value"
            )
        else:
            metadata[f"general.sampling.{option.gguf}"] = number
    return metadata


def _number_of(option: OptionSpec, value: Any) -> int | float | None:
    """Returns the value of a sampling option, such as 0 for top_k -1; `None` if the given one is not valid."""
    if type(value) not in (int, float):
        return None
    number = option.other_values.get(value, value)
    if not isinstance(number, int | float) or not option.minimum <= number <= option.maximum:
        return None
    if option.kind == "integer":
        return int(number) if number == int(number) else None
    return float(number)


def note_reading_settings(checkpoint: Checkpoint, vocabulary: Vocabulary, context_length: object) -> None:
    """Names the settings of sentence-transformers that change how a text is read, and that GGUF cannot express."""
    config = checkpoint.read_optional("sentence_bert_config.json")
    limit = config.get("max_seq_length")
    if type(limit) is int and isinstance(context_length, int) and 0 < limit < context_length:
        checkpoint.left_out.append(
            f"max_seq_length {limit} of sentence_bert_config.json: texts of up to {context_length} tokens are read "
            "whole"
        )
    if config.get("do_lower_case") and vocabulary.metadata.get("tokenizer.ggml.normalizer.lowercase") is not True:
        checkpoint.left_out.append(
            "do_lower_case of sentence_bert_config.json: write texts in lower case, as the model expects them"
        )


def read_pooling(checkpoint: Checkpoint) -> int | None:
    """Returns how token vectors are pooled into one text vector, from sentence-transformers' files, if there are any.

    The numbers are those of `enum llama_pooling_type` in llama.cpp's include/llama.h.
    """
    path = checkpoint.folder / "modules.json"
    try:
        modules = json.loads(read_text(path)) if path.is_file() else []
        paths = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in modules}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise file_error(path, "is not a list of modules with type and path") from None
    others = paths.keys() - {"Transformer", "Pooling", "Normalize"}
    if others:
        raise file_error(path, f"the model has the module {quoted(min(others))}, which GGUF cannot express")
    prompts = checkpoint.read("config_sentence_transformers.json").part("prompts").entries
    used = [name for name, text in prompts.items() if text]
    if used:
        checkpoint.left_out.append(f"the prompts of sentence-transformers ({', '.join(used)}): put them before texts")
    if "Pooling" not in paths:
        return None
    if Path(paths["Pooling"]).name != paths["Pooling"]:
        raise file_error(path, f"it names the folder {quoted(paths['Pooling'])}, which is outside this checkpoint")
    config = checkpoint.read(f"{paths['Pooling']}/config.json")
    modes = [mode for mode in _POOLING if config.get(f"pooling_mode_{mode}") is True] or [config.get("pooling_mode")]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise config.error(f"the pooling modes {quoted(modes)} are not supported; use exactly one of "
                           f"{', '.join(_POOLING)}")  # fmt: skip
    return _POOLING[modes[0]]
