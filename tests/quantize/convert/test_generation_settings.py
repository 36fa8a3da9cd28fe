"""How a checkpoint samples, and how its texts are split, is kept, or named if a GGUF file cannot hold it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from fakes import checkpoints
from galago.models.errors import ModelError
from galago.quantize.convert.checkpoint import Checkpoint
from galago.quantize.convert.model_metadata import read_metadata
from galago.quantize.convert.vocabulary import Vocabulary, read_vocabulary

TOKENS = ["a", "<fin>"]
made = partial(checkpoints.without_weights, tokens=len(TOKENS) + 1)

GENERATION: dict[str, tuple[dict[str, object], str]] = {
    "sampling": ({"generation_config.json": {"do_sample": True, "temperature": 0.5}}, ""),
    "no constraints": ({"generation_config.json": {"no_repeat_ngram_size": 0, "suppress_tokens": None}}, ""),
    "constraints": (
        {"generation_config.json": {"no_repeat_ngram_size": 3, "bad_words_ids": [[5]]}},
        "without a key in GGUF: bad_words_ids, no_repeat_ngram_size",
    ),
    "stop strings and beams": (
        {"generation_config.json": {"stop_strings": ["User:"], "num_beams": 4}},
        "without a key in GGUF: num_beams, stop_strings",
    ),
    "defaults as older versions of transformers write them": (
        {"generation_config.json": {"num_beams": 1, "typical_p": 1.0, "encoder_repetition_penalty": 1.0}},
        "",
    ),
    "a padding token without an embedding": (
        {"tokenizer_config.json": {"eos_token": "<fin>", "pad_token": "[PAD]"}},
        "the pad_token '[PAD]', which the vocabulary does not have",
    ),
}


def metadata_of(checkpoint: Checkpoint) -> dict[str, object]:
    return {**read_metadata(checkpoint, Vocabulary(TOKENS, [1] * len(TOKENS), {"tokenizer.ggml.model": "gpt2"}))}


@pytest.mark.parametrize("case", GENERATION)
def test_settings_of_generation_that_gguf_cannot_express_are_named(tmp_path: Path, case: str) -> None:
    files, text = GENERATION[case]
    checkpoint = made(tmp_path, {"tokenizer_config.json": {"eos_token": "<fin>"}} | files)
    metadata_of(checkpoint)
    assert text in " ".join(checkpoint.left_out) and bool(text) == bool(checkpoint.left_out)


UNREADABLE = {
    "cut": '{"eos_token_id": 1, ',
    "empty": "",
    "a list": "[]",
    "a folder": None,
    "with a comma too many": '{"temperature": 0.5,}',
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_generation_config_that_cannot_be_read_is_left_out_with_the_reason(tmp_path: Path, case: str) -> None:
    content = UNREADABLE[case]
    checkpoint = made(tmp_path, {"tokenizer_config.json": {"eos_token": "<fin>"}})
    path = checkpoint.folder / "generation_config.json"
    path.mkdir() if content is None else path.write_text(content)
    assert metadata_of(checkpoint)["tokenizer.ggml.eos_token_id"] == TOKENS.index("<fin>")
    assert len(checkpoint.left_out) == 1
    assert checkpoint.left_out[0].startswith("generation_config.json, which cannot be used (generation_config.json: ")


def test_line_ends_of_windows_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    checkpoint = made(tmp_path, {"tokenizer_config.json": {"eos_token": "<fin>"}})
    text = '\ufeff{\r\n "do_sample": true,\r\n "temperature": 0.5\r\n}\r\n'
    (checkpoint.folder / "generation_config.json").write_bytes(text.encode())
    assert metadata_of(checkpoint)["general.sampling.temp"] == 0.5 and not checkpoint.left_out


SAMPLING: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "usual": ({"temperature": 0.5, "top_k": 20, "top_p": 0.9}, {"temp": 0.5, "top_k": 20, "top_p": 0.9}, ""),
    "all tokens, as -1": ({"top_k": -1}, {"top_k": 0}, ""),
    "a whole number as a fraction": ({"top_k": 20.0}, {"top_k": 20}, ""),
    "a number as a text": ({"temperature": "0.6", "top_p": 0.9}, {"top_p": 0.9}, "temperature of generation_config"),
    "impossible": (
        {"top_p": 1.5, "temperature": float("nan")},
        {},
        "top_p of generation_config.json: 1.5 is not a valid",
    ),
    "a penalty without sampling": (
        {"do_sample": False, "temperature": 0.5, "repetition_penalty": 1.3},
        {"penalty_repeat": 1.3},
        "",
    ),
}


@pytest.mark.parametrize("case", SAMPLING)
def test_sampling_settings_are_kept_if_they_can_be(tmp_path: Path, case: str) -> None:
    settings, expected, text = SAMPLING[case]
    checkpoint = made(tmp_path, {"generation_config.json": {"do_sample": True} | settings})
    begin = "general.sampling."
    found = {k.removeprefix(begin): v for k, v in metadata_of(checkpoint).items() if k.startswith(begin)}
    assert found == expected
    assert text in " ".join(checkpoint.left_out) and bool(text) == bool(checkpoint.left_out)


def test_a_special_token_that_answers_need_must_be_in_the_vocabulary(tmp_path: Path) -> None:
    checkpoint = made(tmp_path, {"tokenizer_config.json": {"eos_token": "<none>"}})
    with pytest.raises(ModelError, match="eos_token is '<none>', which is not a token"):
        metadata_of(checkpoint)


def test_a_tokenizer_of_another_kind_is_named(tmp_path: Path) -> None:
    """Its vocabulary is a list, as multilingual embedding models have it."""
    model = {"type": "Unigram", "vocab": [["<unk>", 0.0]]}
    checkpoint = made(tmp_path, {"tokenizer.json": {"model": model}})
    with pytest.raises(ModelError, match="the tokenizer is of kind 'Unigram'; only BPE and WordPiece are supported"):
        read_vocabulary(checkpoint, encoder=True)


def test_vocab_txt_is_read_with_the_settings_beside_it(tmp_path: Path) -> None:
    settings: dict[str, object] = {"do_lower_case": True, "strip_accents": False}
    files = {"vocab.txt": "[PAD]\n[UNK]\nö", "tokenizer_config.json": settings}
    found = read_vocabulary(made(tmp_path, {**files}), encoder=True).metadata
    assert found["tokenizer.ggml.normalizer.lowercase"] and not found["tokenizer.ggml.normalizer.strip_accents"]
    settings["tokenize_chinese_chars"] = False
    with pytest.raises(ModelError, match="does not split Chinese characters"):
        read_vocabulary(made(tmp_path, {**files}), encoder=True)
