"""A loaded model's vocabulary: text to tokens and back, for each request. `weights.py` does the loading."""

from __future__ import annotations

import ctypes
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from .library import llama

_MAX_PADDING_TOKENS = 128
"""Tokens by which the sizes of equal vocabularies may differ; llama.cpp allows the same."""

_COMPARISON_STRIDE = 7
"""Every 7th token is compared: enough to detect another vocabulary, and faster than comparing all 128,000."""


class Vocab:
    """Tokens of one model. With `strips_accents`, words lose their accents before they are tokenized.

    Without `has_eos`, the file names no end-of-text token, and the one that llama.cpp assumes is an ordinary word.
    `end_tokens` end an answer, besides those that llama.cpp knows.
    """

    def __init__(
        self,
        handle: Any,
        strips_accents: bool = False,
        has_eos: bool = True,
        end_tokens: frozenset[int] = frozenset(),
    ) -> None:
        self.vocab = handle
        self.vocab_size: int = llama.llama_vocab_n_tokens(handle)
        self._strips_accents = strips_accents
        self._has_eos = has_eos
        self._listed_ends = end_tokens
        self._pieces: dict[int, bytes] = {}
        self._spelled_out: set[int] = set()

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """Token ids of `text`. With `add_special`, also the tokens that the model puts around texts.

        Accents are stripped as BERT does: marks that take no space are removed, and Hangul is split into letters.
        """
        if self._strips_accents:
            text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        data = text.encode("utf-8", "replace")
        if not data and not add_special:
            return []
        room = len(data) + 8
        while True:
            tokens = (llama.llama_token * room)()
            count = llama.llama_tokenize(self.vocab, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to an answer: none for control tokens, unless they are spelled out."""
        piece = self._pieces.get(token)
        if piece is None:
            is_shown = token in self._spelled_out or not llama.llama_vocab_is_control(self.vocab, token)
            piece = self._pieces[token] = self._read_piece(token, special=is_shown)
        return piece

    def spell_out(self, tokens: Iterable[int]) -> None:
        """Makes these control tokens appear in answers as text, for parsers that need them."""
        self._spelled_out.update(tokens)
        self._pieces.clear()

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; for a control token, its name in templates."""
        return self.piece(token) or self._read_piece(token, special=True)

    def text_of(self, token: int) -> str:
        """A token as it stands in a chat template, control tokens included; empty for an invalid id."""
        if not 0 <= token < self.vocab_size:
            return ""
        return self._read_piece(token, special=True).decode("utf-8", "replace")

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def matches_vocab(self, other: Vocab) -> bool:
        """Whether token ids mean the same in both models. Vocabularies may be padded to different sizes."""
        if abs(self.vocab_size - other.vocab_size) > _MAX_PADDING_TOKENS:
            return False
        if self.bos != other.bos or self.eos != other.eos:
            return False
        compared = range(0, min(self.vocab_size, other.vocab_size) - _MAX_PADDING_TOKENS, _COMPARISON_STRIDE)
        return all(self.piece(token) == other.piece(token) for token in compared)

    @property
    def bos(self) -> int:
        """The begin-of-text token, or -1."""
        return int(llama.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        """The end-of-text token, or -1."""
        return int(llama.llama_vocab_eos(self.vocab)) if self._has_eos else -1

    @property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """The tokens before a prefix, before a suffix and before the text in between; `None` if one is missing."""
        get = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        prefix, suffix, middle = (int(token(self.vocab)) for token in get)
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    @property
    def adds_bos(self) -> bool:
        return bool(llama.llama_vocab_get_add_bos(self.vocab)) and self.bos >= 0

    @property
    def separator(self) -> int | None:
        """The token between two texts, in addition to those that end each; `None` if the model uses none."""
        if not (llama.llama_vocab_get_add_sep(self.vocab) and llama.llama_vocab_get_add_eos(self.vocab)):
            return None
        token = int(llama.llama_vocab_sep(self.vocab))
        return token if token >= 0 else None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends an answer."""
        tokens = frozenset(t for t in range(self.vocab_size) if llama.llama_vocab_is_eog(self.vocab, t))
        return self._listed_ends | (tokens if self._has_eos else tokens - {llama.llama_vocab_eos(self.vocab)})

    @property
    def constrained_end_tokens(self) -> frozenset[int]:
        """Every token that ends an answer with a grammar. If the model has none, a substitute."""
        return self.end_tokens or frozenset([max(0, llama.llama_vocab_eos(self.vocab))])

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts that llama.cpp's tokenizer turns into control tokens if it parses special tokens."""
        return self._texts_with(llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN)

    @cached_property
    def user_defined_texts(self) -> tuple[str, ...]:
        """Texts that always become one token, such as `<think>`; in some models also runs of white space."""
        return self._texts_with(llama.LLAMA_TOKEN_ATTR_USER_DEFINED)

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token. A text has at least its bytes divided by this as tokens."""
        return max(len(self._read_piece(token, special=True)) for token in range(self.vocab_size))

    def _texts_with(self, attributes: int) -> tuple[str, ...]:
        get = llama.llama_vocab_get_attr
        tokens = (t for t in range(self.vocab_size) if get(self.vocab, t) & attributes)
        return tuple(text for text in map(self.text_of, tokens) if text)

    def grammar_vocabulary(self) -> tuple[list[bytes], list[int]]:
        """Every token's bytes as llguidance needs them, special ones marked by a leading 0xFF, and the end tokens."""
        special = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN | llama.LLAMA_TOKEN_ATTR_UNUSED
        pieces = []
        for token in range(self.vocab_size):
            piece = self._read_piece(token, special=True)
            is_special = bool(llama.llama_vocab_get_attr(self.vocab, token) & special)
            pieces.append(b"\xff" + piece if is_special else piece)
        return pieces, sorted(self.constrained_end_tokens, key=lambda token: token != self.eos)

    def tokenizer_pointers(self) -> tuple[int, int]:
        """Addresses of the vocabulary and of llama.cpp's tokenize function, for llguidance to call."""
        function = ctypes.cast(llama._lib.llama_tokenize, ctypes.c_void_p).value
        return int(self.vocab), int(function or 0)
