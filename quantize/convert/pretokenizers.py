"""Recognises how a byte-level BPE tokenizer cuts text into words, by what its tokenizer.json says.

llama.cpp has these cuts built in under names (`tokenizer.ggml.pre`) and takes any name on trust; under a wrong one a
model reads other tokens than it was trained on, and answers worse without an error. So what is not recognised is
refused. The names are those of llama.cpp's `src/llama-vocab.cpp`.
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
"""Cuts in their order, and whether a word that is a token is one whatever its merges (`ignore_merges`)."""


def recognise(pre_tokenizer: Any, ignore_merges: bool) -> str | None:
    """The name of a pre-tokenizer as tokenizer.json describes it, or `None`."""
    cuts = _cuts(pre_tokenizer)
    return _KNOWN.get((tuple(cuts), ignore_merges)) if cuts is not None else None


def _cuts(step: Any) -> list[str] | None:
    """The patterns that a step cuts by; `None` where it does what is not known here."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            found = [_cuts(one) for one in steps]
            return [cut for cuts in found if cuts is not None for cut in cuts] if None not in found else None
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated" | "Removed" as kept}:
            # qwen2's is written either way: what it matches is kept, or what it does not match is dropped
            return [pattern] if bool(step.get("invert")) == (kept == "Removed") else None
        case {"type": "Digits", "individual_digits": True}:
            return ["digits"]
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return [_GPT2] if step.get("use_regex", True) else []
    return None
