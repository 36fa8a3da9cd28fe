"""Reads tokenizer.model, SentencePiece's file format, without the SentencePiece library. The file is untrusted.

It is a protobuf message, `ModelProto` of https://github.com/google/sentencepiece (src/sentencepiece_model.proto). Only
the fields below are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ModelError
from ...models.regular_file import open_regular
from .safetensors import file_error

MAX_BYTES = 64 << 20
BPE = 2

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES = 3, 2, 3, 4


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A vocabulary and its normalizer settings.

    `kinds` use GGUF's numbers for token types. `model_type` is 1 for unigram, 2 for BPE.
    """

    texts: list[str]
    scores: list[float]
    kinds: list[int]
    model_type: int
    adds_space_prefix: bool
    collapses_spaces: bool
    rewrites_text: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Reads the vocabulary of a tokenizer.model. Raises `ModelError` if it is damaged or another kind of file."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise file_error(path, f"is larger than {MAX_BYTES >> 20} MiB")
        return _read(data)
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise file_error(path, f"is not a SentencePiece model, or truncated: {error}") from None


def _read(data: bytes) -> SentencePieceModel:
    texts, scores, kinds = [], [], []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == _PIECES:
            piece = dict(_fields(_bytes(value)))
            texts.append(_bytes(piece[_PIECE] if _PIECE in piece else b"").decode())
            scores.append(struct.unpack("<f", _bytes(piece.get(_SCORE, bytes(4))))[0])
            kinds.append(_number(piece.get(_KIND, 1)))
        elif number in (_TRAINER, _NORMALIZER):
            (trainer if number == _TRAINER else normalizer).update(_fields(_bytes(value)))
    if not texts or not all(1 <= kind <= 6 for kind in kinds):
        raise ValueError("it has no pieces, or pieces of unknown kinds")
    return SentencePieceModel(
        texts,
        scores,
        kinds,
        model_type=_number(trainer.get(_MODEL_TYPE, 1)),
        adds_space_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
        collapses_spaces=bool(normalizer.get(_REMOVE_SPACES, 1)),
        rewrites_text=bool(normalizer.get(_CHARSMAP, b"")),
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if tag & 7 == 2:
            length, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(tag & 7, -1)
        if not 0 <= length <= len(data) - at:
            raise ValueError(f"a field of {length} bytes at byte {at}")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError(f"an unterminated number at byte {at}")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where text was expected")
    return value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("text where a number was expected")
    return value


def check_is_bpe(path: Path, model: SentencePieceModel) -> None:
    if model.model_type != BPE:
        raise ModelError(
            f"{path.name}: a SentencePiece model of type {model.model_type}; only BPE (2) is supported", str(path)
        )
