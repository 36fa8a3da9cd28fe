"""Identifies how a byte-level BPE tokenizer splits text into words, from its tokenizer.json.

llama.cpp has these splits built in under names (`tokenizer.ggml.pre`) and does not verify the name: with a wrong one a
model reads other tokens than it was trained on, and answers worse without an error. Splits that are not identified are
therefore refused. The names are those of llama.cpp's `src/llama-vocab.cpp`.
"""

from __future__ import annotations

from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_LLAMA3, _QWEN2 = _HEAD + r"\p{N}{1,3}" + _TAIL, _HEAD + r"\p{N}" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_KNOWN = {
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((_QWEN2,), False): "qwen2",
    (("digits", _GPT2), False): "smollm",
    ((_GPT2,), False): "gpt-2",
    ((_TEKKEN,), True): "tekken",
}
"""By the patterns in order, and by `ignore_merges`: whether a word that is a token is used without applying merges."""


def identify(pre_tokenizer: Any, ignore_merges: bool) -> str | None:
    """Returns llama.cpp's name of a pre-tokenizer from tokenizer.json, or `None`."""
    patterns = _patterns(pre_tokenizer)
    return _KNOWN.get((tuple(patterns), ignore_merges)) if patterns is not None else None


def _patterns(step: Any) -> list[str] | None:
    """Returns the patterns that a step splits by, or `None` if the step is not supported."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            nested = [_patterns(each) for each in steps]
            if None in nested:
                return None
            return [pattern for patterns in nested if patterns is not None for pattern in patterns]
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated" | "Removed" as behavior}:
            # qwen2's is written either way: matches are isolated, or everything that does not match is removed
            return [pattern] if bool(step.get("invert")) == (behavior == "Removed") else None
        case {"type": "Digits", "individual_digits": True}:
            return ["digits"]
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return [_GPT2] if step.get("use_regex", True) else []
    return None
