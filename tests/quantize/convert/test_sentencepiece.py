"""Vocabularies of older checkpoints: tokenizer.model and vocab.txt."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import checkpoints
from galago.models.errors import ModelError
from galago.quantize.convert.conversion import convert_checkpoint
from galago.quantize.convert.gguf_writer import FloatType
from galago.quantize.convert.probe_texts import probe_texts
from galago.quantize.convert.sentencepiece import read_sentencepiece
from galago.quantize.progress import no_progress
from galago.runtime.llamacpp.weights import Weights


def message(*fields: tuple[int, int | float | bytes]) -> bytes:
    """Encodes a protobuf message of numbers, float32 and nested bytes."""
    data = b""
    for number, value in fields:
        kind = {int: 0, float: 5, bytes: 2}[type(value)]
        data += varint(number << 3 | kind)
        if isinstance(value, bytes):
            data += varint(len(value)) + value
        else:
            data += struct.pack("<f", value) if isinstance(value, float) else varint(value)
    return data


def varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data, value = data + bytes([value & 0x7F | 0x80]), value >> 7
    return data + bytes([value])


def model_file(path: Path, model_type: int = 2) -> Path:
    """Writes the vocabulary of `checkpoints.sentence_piece` in SentencePiece's format."""
    found = checkpoints.sentence_piece()["model"]
    ranks = {"".join(merge.split(" ")): -float(i) for i, merge in reversed(list(enumerate(found["merges"])))}
    pieces = []
    for token in found["vocab"]:
        kind = 2 if token == "<unk>" else 3 if token in ("<s>", "</s>") else 6 if token.startswith("<0x") else 1
        pieces.append((1, message((1, token.encode()), (2, ranks.get(token, -1000.0)), (3, kind))))
    path.write_bytes(message(*pieces, (2, message((3, model_type))), (3, message((3, 1), (4, 0)))))
    return path


def converted(folder: Path, name: str) -> Weights:
    target = folder.parent / name
    return Weights(convert_checkpoint(folder, target, FloatType.F16, False, False, no_progress).path)


def test_tokenizer_model_gives_the_same_tokens_as_tokenizer_json(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c")
    one = converted(tmp_path / "c", "one.gguf")
    (tmp_path / "c" / "tokenizer.json").unlink()
    model_file(tmp_path / "c" / "tokenizer.model")
    two = converted(tmp_path / "c", "two.gguf")
    assert two.adds_bos and (two.bos, two.eos) == (one.bos, one.eos) == (1, 2)
    assert two.control_texts == one.control_texts
    for _, text in probe_texts():
        tokens = [w.tokenize(text, parse_special=False, add_special=True) for w in (one, two)]
        assert tokens[0] == tokens[1], text


def test_vocab_txt_gives_the_same_tokens_as_tokenizer_json(tmp_path: Path) -> None:
    checkpoints.bert(tmp_path / "c")
    one = converted(tmp_path / "c", "one.gguf")
    (tmp_path / "c" / "tokenizer.json").unlink()
    (tmp_path / "c" / "vocab.txt").write_text("\n".join(checkpoints.word_piece()["model"]["vocab"]) + "\n")
    two = converted(tmp_path / "c", "two.gguf")
    for _, text in probe_texts():
        tokens = [w.tokenize(text, parse_special=False, add_special=True) for w in (one, two)]
        assert tokens[0] == tokens[1] and tokens[0][0] == 2 and tokens[0][-1] == 3, text


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    checkpoints.decoder(tmp_path / "c")
    (tmp_path / "c" / "tokenizer.json").unlink()
    model_file(tmp_path / "c" / "tokenizer.model", model_type=1)
    with pytest.raises(ModelError, match=r"model of type 1; only BPE \(2\) is supported"):
        converted(tmp_path / "c", "one.gguf")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 9000), put=st.binary(max_size=5), take=st.integers(0, 6))
def test_damaged_files_give_an_error_or_a_vocabulary(tmp_path: Path, at: int, put: bytes, take: int) -> None:
    path = model_file(tmp_path / "tokenizer.model")
    data = path.read_bytes()
    path.write_bytes(data[:at] + put + data[at + take :])
    try:
        found = read_sentencepiece(path)
    except ModelError as error:
        assert error.message.startswith("tokenizer.model: ")
    else:
        assert len(found.texts) == len(found.scores) == len(found.kinds)
