"""One loaded text model: its weights, vocabulary and metadata. Knows no context and no request."""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from ...models.errors import ModelError
from ...models.registry.pairing import sibling_parts
from .library import NO_REASON, llama, take_errors
from .memory import give_back_file

ProgressCallback = Callable[[float], None]

_FILLING = 128
"""Tokens by which two sizes of one vocabulary may differ; llama.cpp allows as many."""

_LOWERCASE, _STRIP = "tokenizer.ggml.normalizer.lowercase", "tokenizer.ggml.normalizer.strip_accents"
_BOOLEAN = 2  # of enum llama_model_kv_override_type in llama.h

_SAMPLE = 7
"""One token of so many is compared: another vocabulary shows at once, and all of 128,000 would take a while."""


class Weights:
    """A model file mapped into memory. Close it after every context made from it.

    `split` says how many of the layers on the GPU go to each of several; left out, llama.cpp deals them out.
    """

    def __init__(
        self, path: Path, gpu_layers: int = -1, progress: ProgressCallback | None = None, split: Sequence[int] = ()
    ) -> None:
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if gpu_layers == 0:  # or llama.cpp still takes GPU memory, to compute long prompts there
            params.split_mode, params.main_gpu = llama.LLAMA_SPLIT_MODE_NONE, -1
        if split:
            self._split = (ctypes.c_float * llama.LLAMA_MAX_DEVICES)(*split)  # llama.cpp keeps the pointer
            params.tensor_split = self._split

        def report(fraction: float, _user_data: ctypes.c_void_p) -> bool:
            if progress is not None:
                progress(fraction)
            return True

        overrides = (llama.llama_model_kv_override * 2)()  # the last one ends them
        overrides[0].key, overrides[0].tag, overrides[0].value.val_bool = _STRIP.encode(), _BOOLEAN, False
        params.kv_overrides = overrides
        callback = llama.llama_progress_callback(report)
        params.progress_callback = callback
        take_errors()
        self.path = path
        self.gpu_layers = gpu_layers
        self.handle = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelError(f"llama.cpp cannot load {path.name}: {take_errors() or NO_REASON}", str(path))
        for name in sibling_parts(path.name, [file.name for file in path.parent.iterdir()]):
            give_back_file(path.with_name(name))
        self.vocab = llama.llama_model_get_vocab(self.handle)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self.vocab)
        self._strips = self._strips_accents()
        self._pieces: dict[int, bytes] = {}
        self._spelled: set[int] = set()

    def close(self) -> None:
        if self.handle:
            llama.llama_model_free(self.handle)
            self.handle = None

    def _strips_accents(self) -> bool:
        """Whether words lose their accents. llama.cpp, which takes every mark for one, the vowels of India's scripts
        too, is kept from it; it is done here as BERT does: marks that take no space, and Hangul in letters."""
        if llama.llama_vocab_type(self.vocab) != llama.LLAMA_VOCAB_TYPE_WPM:
            return False
        return (self.metadata(_STRIP) or self.metadata(_LOWERCASE) or "true") == "true"

    @property
    def attention(self) -> float:
        """Values that a row's attention reads for each token before it, to each weight of the layers: too few where the
        heads together are wider than the model, or where it has experts."""
        width = llama.llama_model_n_embd(self.handle)
        values = 2 * width * llama.llama_model_n_layer(self.handle)
        return float(values / max(llama.llama_model_n_params(self.handle) - self.vocab_size * width, 1))

    @property
    def context_length(self) -> int:
        """Tokens of context the model was trained for."""
        return int(llama.llama_model_n_ctx_train(self.handle))

    @property
    def recurrent(self) -> bool:
        """Whether a sequence is remembered as a state that cannot be cut back, wholly or in some layers."""
        return bool(llama.llama_model_is_recurrent(self.handle) or llama.llama_model_is_hybrid(self.handle))

    @property
    def embedding_width(self) -> int:
        """Floats per media embedding row; wider than the model itself where a projector feeds several layers."""
        return int(llama.llama_model_n_embd_inp(self.handle))

    @property
    def output_width(self) -> int:
        """Floats of the vector that a text is turned into."""
        return int(llama.llama_model_n_embd_out(self.handle))

    @property
    def scores(self) -> int:
        """Floats that a model for ranking says of a text."""
        return int(llama.llama_model_n_cls_out(self.handle))

    @property
    def parameters(self) -> int:
        return int(llama.llama_model_n_params(self.handle))

    @property
    def size_bytes(self) -> int:
        return int(llama.llama_model_size(self.handle))

    @property
    def type(self) -> str:
        """How the weights are stored, as llama.cpp names it: Q8_0, Q4_K - Medium."""
        name = llama.llama_ftype_name(llama.llama_model_ftype(self.handle))
        return name.decode() if name else "unknown type"

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """Token ids of `text`; the tokens that the model puts around texts only with `add_special`."""
        if self._strips:
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
        """The bytes a token stands for in an answer; control tokens are empty, unless they are spelled out."""
        piece = self._pieces.get(token)
        if piece is None:
            shown = token in self._spelled or not self._is_control(token)
            piece = self._pieces[token] = self._read_piece(token, special=shown)
        return piece

    def spell_out(self, tokens: Iterable[int]) -> None:
        """Has these control tokens stand in answers as their texts, for those who read what they say."""
        self._spelled.update(tokens)
        self._pieces.clear()

    def name(self, token: int) -> bytes:
        """The bytes a token stands for; those by which a template names it, where it is a control token."""
        return self.piece(token) or self._read_piece(token, special=True)

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def speaks_like(self, other: Weights) -> bool:
        """Whether token ids mean the same in both models. Vocabularies may be filled up to different round sizes."""
        if abs(self.vocab_size - other.vocab_size) > _FILLING or self.bos != other.bos or self.eos != other.eos:
            return False
        shared = range(0, min(self.vocab_size, other.vocab_size) - _FILLING, _SAMPLE)
        return all(self.piece(token) == other.piece(token) for token in shared)

    def _is_control(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_control(self.vocab, token))

    def text_of(self, token: int) -> str:
        """A token as it stands in a chat template, control tokens included; empty for an id that is not one."""
        if not 0 <= token < self.vocab_size:
            return ""
        return self._read_piece(token, special=True).decode("utf-8", "replace")

    @property
    def bos(self) -> int:
        """The begin-of-text token, or -1."""
        return int(llama.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        return int(llama.llama_vocab_eos(self.vocab))

    @property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """The tokens before a prefix, before a suffix and before what is to stand between, where there are all."""
        get = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        prefix, suffix, middle = (int(token(self.vocab)) for token in get)
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    @property
    def adds_bos(self) -> bool:
        return bool(llama.llama_vocab_get_add_bos(self.vocab)) and self.bos >= 0

    @property
    def separator(self) -> int | None:
        """The token that stands between two texts besides those that end each, where the model has one there."""
        if not (llama.llama_vocab_get_add_sep(self.vocab) and llama.llama_vocab_get_add_eos(self.vocab)):
            return None
        token = int(llama.llama_vocab_sep(self.vocab))
        return token if token >= 0 else None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends an answer."""
        return frozenset(t for t in range(self.vocab_size) if llama.llama_vocab_is_eog(self.vocab, t))

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts that llama.cpp's tokenizer turns into control tokens wherever it parses special tokens."""
        return self._texts_with(llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN)

    @cached_property
    def user_defined_texts(self) -> tuple[str, ...]:
        """Texts that always become one token: `<think>` and its kin, in some models also runs of white space."""
        return self._texts_with(llama.LLAMA_TOKEN_ATTR_USER_DEFINED)

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token: a text has at least its bytes divided by this as tokens."""
        return max(len(self._read_piece(token, special=True)) for token in range(self.vocab_size))

    def _texts_with(self, attributes: int) -> tuple[str, ...]:
        get = llama.llama_vocab_get_attr
        tokens = (t for t in range(self.vocab_size) if get(self.vocab, t) & attributes)
        return tuple(text for text in map(self.text_of, tokens) if text)

    def metadata(self, key: str) -> str | None:
        """A metadata value of the file in llama.cpp's printed form."""
        buffer = ctypes.create_string_buffer(256)
        count = llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if count >= 0 else None

    def metadata_number(self, key: str) -> float | None:
        value = self.metadata(key)
        return float(value) if value is not None and re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", value) else None

    def grammar_vocabulary(self) -> tuple[list[bytes], list[int]]:
        """Every token's bytes as llguidance wants them, special ones marked by a leading 0xFF, and the end tokens."""
        special = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN | llama.LLAMA_TOKEN_ATTR_UNUSED
        pieces = []
        for token in range(self.vocab_size):
            piece = self._read_piece(token, special=True)
            marked = bool(llama.llama_vocab_get_attr(self.vocab, token) & special)
            pieces.append(b"\xff" + piece if marked else piece)
        return pieces, sorted(self.end_tokens, key=lambda token: token != self.eos) or [self.eos]

    def tokenizer_pointers(self) -> tuple[int, int]:
        """Addresses of the vocabulary and of llama.cpp's tokenize function, for llguidance to call."""
        function = ctypes.cast(llama._lib.llama_tokenize, ctypes.c_void_p).value
        return int(self.vocab), int(function or 0)
