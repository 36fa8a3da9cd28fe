"""Reads tokenizer.model, the file of the SentencePiece library, without that library. Trusts no byte of it.

It is a protobuf message, `ModelProto` of https://github.com/google/sentencepiece (src/sentencepiece_model.proto), of
which the fields below are read and others passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ModelError
from .safetensors import damaged

MAX_BYTES = 64 << 20
BPE = 2

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES = 3, 2, 3, 4

Field = int | bytes


@dataclass(frozen=True, slots=True)
class Pieces:
    """`kinds` are numbered as GGUF numbers its token types. `model_type`: 1 unigram, 2 BPE."""

    texts: list[str]
    scores: list[float]
    kinds: list[int]
    model_type: int
    prefixed: bool
    squeezed: bool
    rewritten: bool


def read_pieces(path: Path) -> Pieces:
    """The vocabulary of a tokenizer.model. Raises `ModelError` where it is damaged or something else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise damaged(path, f"is larger than {MAX_BYTES >> 20} MiB")
        return _read(path.read_bytes())
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise damaged(path, f"is no SentencePiece model, or cut off: {error}") from None


def _read(data: bytes) -> Pieces:
    texts, scores, kinds = [], [], []
    trainer: dict[int, Field] = {}
    normalizer: dict[int, Field] = {}
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
    return Pieces(
        texts,
        scores,
        kinds,
        model_type=_number(trainer.get(_MODEL_TYPE, 1)),
        prefixed=bool(normalizer.get(_DUMMY_PREFIX, 1)),
        squeezed=bool(normalizer.get(_REMOVE_SPACES, 1)),
        rewritten=bool(normalizer.get(_CHARSMAP, b"")),
    )


def _fields(data: bytes) -> Iterator[tuple[int, Field]]:
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
            raise ValueError(f"a field of {length} bytes stands at byte {at}")
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
    raise ValueError(f"a number without end stands at byte {at}")


def _bytes(value: Field) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where text should")
    return value


def _number(value: Field) -> int:
    if not isinstance(value, int):
        raise ValueError("text stands where a number should")
    return value


def check_kind(path: Path, pieces: Pieces) -> None:
    if pieces.model_type != BPE:
        raise ModelError(
            f"{path.name}: a SentencePiece model of type {pieces.model_type}; BPE (2) is supported", str(path)
        )
