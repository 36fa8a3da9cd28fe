"""The model's vocabulary: 256 bytes, merges learned from its world's words, and the control tokens of chats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
USER_DEFINED = ("<think>", "</think>", "<tool_call>", "</tool_call>")
SPARE = ("<|spare_0|>",)


@dataclass(frozen=True)
class Vocabulary:
    """The fields of a GGUF: `tokens` in order, their `types` (1 normal, 3 control, 4 user-defined), and `merges`."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]

    def id(self, token: str) -> int:
        return self.tokens.index(token)


def learn(texts: Iterable[str], size: int) -> Vocabulary:
    """Learns byte-pair merges from the words of `texts`. Digits are never merged, so that sums are read by digit."""
    specials = (*CONTROL, *USER_DEFINED, *SPARE)
    letters = _byte_letters()
    words = Counter(tuple(letters[b] for b in w.encode()) for text in texts for w in _words(text))
    merges: list[str] = []
    tokens = list(letters)
    while len(tokens) < size - len(specials):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(" ".join(best))
        tokens.append("".join(best))
        words = Counter({_merged(word, best): times for word, times in words.items()})
    types = [1] * len(tokens) + [3] * len(CONTROL) + [4] * len(USER_DEFINED) + [3] * len(SPARE)
    return Vocabulary((*tokens, *specials), tuple(types), tuple(merges))


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def _words(text: str) -> list[str]:
    """Words with their leading space, as the `qwen2` pre-tokenizer splits them."""
    return [w if i == 0 else " " + w for i, w in enumerate(text.split(" ")) if w.isalpha()]


def _byte_letters() -> list[str]:
    """GPT-2's printable character for each byte, in byte order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    strange = [b for b in range(256) if b not in plain]
    table = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(strange)}
    return [table[b] for b in range(256)]
