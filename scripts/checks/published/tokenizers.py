"""Small tokenizers of the kinds used by published models, trained on Galago's own texts."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from galago.quantize.convert.pretokenizers import _QWEN2
from galago.quantize.convert.probe_texts import OTHERS, WORDS


def corpus() -> list[str]:
    root = Path(__file__).resolve().parents[3]
    return [*WORDS.values(), *OTHERS] * 4 + (root / "README.md").read_text("utf-8").splitlines()


@functools.cache
def _trained_merges() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split(_QWEN2))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False,
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])  # fmt: skip
    tokenizer.train_from_iterator(corpus(), trainer)
    return str(tokenizer.to_str())


def byte_level(
    cuts: list[Any], ignore_merges: bool = False, normalizer: Any = None, before: str = "", after: str = ""
) -> Tokenizer:
    """A byte-level BPE tokenizer of 1,502 tokens. `before` and `after` are put around texts."""
    tokenizer = Tokenizer.from_str(_trained_merges())
    tokenizer.model.ignore_merges = ignore_merges
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens(["<think>", "</think>"])
    around = [(text, tokenizer.token_to_id(text)) for text in (before, after) if text]
    if around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(), special_tokens=around
        )
    return tokenizer


def split(pattern: str) -> list[Any]:
    cut = pre_tokenizers.Split(Regex(pattern), "isolated", invert=False)
    return [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


@functools.cache
def sentence_piece_model() -> bytes:
    """A tokenizer.model of 2,000 tokens."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, model_type="bpe", vocab_size=2000, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.9995, minloglevel=2,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    return model.getvalue()


def sentence_piece(spaces: str) -> Tokenizer:
    """Builds tokenizer.json from a SentencePiece model as transformers does: every way to split a token is a merge."""
    trained = sentencepiece.SentencePieceProcessor(model_proto=sentence_piece_model())
    pieces = [trained.id_to_piece(i) for i in range(trained.get_piece_size())]
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece in pieces[259:]:
        ways = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += sorted((way for way in ways if way[0] in ids and way[1] in ids), key=lambda w: (ids[w[0]], ids[w[1]]))
    merges.sort(key=lambda way: -trained.get_score(ids["".join(way)]))
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if spaces == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=spaces, split=False)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    return tokenizer


@functools.cache
def word_piece(lower: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=2500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    around = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return tokenizer
