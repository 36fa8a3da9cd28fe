"""Compares converted checkpoints of every model family with the original ones.

    python -m venv check && check/bin/pip install -e .[convert] torch transformers sentencepiece peft
    PYTHONPATH=scripts check/bin/python -m checks convert [NAME...]        `lora` checks the adapter only

transformers creates tiny checkpoints with random weights, and `galago convert` converts them to F32. llama.cpp's logits
(for encoders, its embeddings) are compared with PyTorch's in float32, and its tokens with those of the tokenizers
library, for 1,000 texts in 22 scripts. Exits with 1 if a number differs by more than 0.01 or a text is tokenized
differently, except for the scripts in `KNOWN_DIFFERENCES`.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import sentencepiece
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from galago.models.errors import GalagoError
from galago.quantize.convert import selftest
from galago.quantize.convert.conversion import convert_checkpoint
from galago.quantize.convert.gguf_writer import FloatType
from galago.quantize.convert.lora import convert_adapter
from galago.quantize.convert.pretokenizers import _LLAMA3, _QWEN2, _TEKKEN
from galago.quantize.convert.probe_texts import OTHERS, WORDS
from galago.quantize.progress import no_progress

TEXTS = 1000
SIZES = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}


def corpus() -> list[str]:
    root = Path(__file__).resolve().parents[2]
    return [*WORDS.values(), *OTHERS] * 4 + (root / "README.md").read_text("utf-8").splitlines()


def texts() -> list[tuple[str, str]]:
    """Pairs of (script, text). Each text mixes words of one script with numbers and punctuation, in NFC."""
    rng, pairs = random.Random(1), []
    for i in range(TEXTS):
        script = list(WORDS)[i % len(WORDS)]
        words = WORDS[script].split()
        picked = rng.choices(words, k=rng.randint(1, 9)) + rng.choices(["7", "2026", "x_1", "(a)"], k=1)
        marks = [" ", " ", " ", ", ", "  ", ". ", "\n", "! ", "-", "\n\n", "\t", "…"]
        pairs.append((script, "".join(word + rng.choice(marks) for word in picked)))
    return pairs


def byte_level(cuts: list[Any], ignore_merges: bool = False, normalizer: Any = None, bos: str = "") -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens(["<think>", "</think>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def split(pattern: str) -> list[Any]:
    cut = pre_tokenizers.Split(Regex(pattern), "isolated", invert=False)
    return [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def sentence_piece(folder: Path, spaces: str) -> Tokenizer:
    """Builds tokenizer.json from a SentencePiece model as transformers does: every way to split a token is a merge."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, model_type="bpe", vocab_size=2000, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.9995, minloglevel=2,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
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


def save(folder: Path, model: Any, tokenizer: Tokenizer, names: dict[str, str], shards: bool = False) -> None:
    torch.manual_seed(7)
    for name, weights in model.named_parameters():
        kind = 1 + 0.2 * torch.randn_like(weights) if "norm" in name.lower() and name.endswith("weight") else None
        scale = 0.1 if weights.dim() == 1 else 2.0 * weights.shape[-1] ** -0.5
        weights.data.copy_(kind if kind is not None else scale * torch.randn_like(weights))
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size="100KB" if shards else "5GB")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def llama_spm(folder: Path, spaces: str = "prepend", alone: bool = False) -> None:
    config = transformers.LlamaConfig(vocab_size=2000, **SIZES)
    save(folder, transformers.LlamaForCausalLM(config), sentence_piece(folder, spaces), LLAMA)
    if not alone:
        (folder / "tokenizer.model").unlink()


def llama3(folder: Path) -> None:
    tokenizer = byte_level(split(_LLAMA3), ignore_merges=True, bos="<|endoftext|>")
    config = transformers.LlamaConfig(
        vocab_size=1536,
        rope_parameters=LLAMA3_ROPE,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        **SIZES,
    )
    save(folder, transformers.LlamaForCausalLM(config), tokenizer, QWEN | {"bos_token": "<|endoftext|>"}, shards=True)


def smollm2(folder: Path) -> None:
    cuts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    config = transformers.LlamaConfig(
        vocab_size=1505, tie_word_embeddings=True, **SIZES | {"num_attention_heads": 3, "num_key_value_heads": 1,
        "hidden_size": 96}
    )  # fmt: skip
    save(folder, transformers.LlamaForCausalLM(config), byte_level(cuts), QWEN | {"bos_token": "<|im_start|>"})


def mistral(folder: Path) -> None:
    config = transformers.MistralConfig(vocab_size=2000, sliding_window=128, head_dim=24, **SIZES)
    save(folder, transformers.MistralForCausalLM(config), sentence_piece(folder, "first"), LLAMA)
    (folder / "tokenizer.model").unlink()


def nemo(folder: Path) -> None:
    config = transformers.MistralConfig(vocab_size=1505, sliding_window=None, **SIZES)
    tokenizer = byte_level(split(_TEKKEN), ignore_merges=True, bos="<|endoftext|>")
    save(folder, transformers.MistralForCausalLM(config), tokenizer, QWEN | {"bos_token": "<|endoftext|>"})


def qwen2(folder: Path) -> None:
    config = transformers.Qwen2Config(vocab_size=1536, rope_parameters=YARN, **SIZES)
    tokenizer = byte_level(split(_QWEN2), normalizer=normalizers.NFC())
    save(folder, transformers.Qwen2ForCausalLM(config), tokenizer, QWEN, shards=True)


def qwen3(folder: Path) -> None:
    config = transformers.Qwen3Config(vocab_size=1505, head_dim=32, tie_word_embeddings=True, **SIZES)
    tokenizer = byte_level(split(_QWEN2), normalizer=normalizers.NFC())
    save(folder, transformers.Qwen3ForCausalLM(config), tokenizer, QWEN)


def linear(folder: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=1505, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}, **SIZES
    )
    tokenizer = byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)])
    save(folder, transformers.LlamaForCausalLM(config), tokenizer, QWEN)


def bert(folder: Path, lower: bool = True) -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    tokenizer = word_piece(lower)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=tokenizer.get_vocab_size(), **sizes))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    save(folder, model, tokenizer, names)
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))


CASES: dict[str, Callable[[Path], None]] = {
    "llama, SentencePiece": llama_spm,
    "llama, Metaspace, with tokenizer.model": lambda folder: llama_spm(folder, "first", alone=True),
    "llama 3, tied, sharded, biases, its rope": llama3,
    "llama, linear rope, gpt-2 cuts": linear,
    "smollm2": smollm2,
    "mistral, sliding window": mistral,
    "mistral nemo, tekken cuts": nemo,
    "qwen2, yarn, sharded": qwen2,
    "qwen3, tied": qwen3,
    "bert, uncased": bert,
    "bert, cased": lambda folder: bert(folder, lower=False),
}


def check_lora() -> bool:
    """Checks a LoRA adapter that the PEFT library writes, with random weights, on a Llama 3."""
    with tempfile.TemporaryDirectory() as place:
        folder, lora = Path(place) / "checkpoint", Path(place) / "lora"
        folder.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            llama3(folder)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder)
            kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=24, target_modules=kinds))
            for name, weights in model.named_parameters():
                if "lora_B" in name:
                    weights.data.copy_(0.1 * torch.randn_like(weights))
            model.save_pretrained(lora)
        made = convert_checkpoint(folder, Path(place) / "made.gguf", FloatType.F32, False, False, no_progress)
        adapter = convert_adapter(lora, folder, Path(place) / "lora.gguf", FloatType.F32, False, no_progress)
        result = selftest.run_selftest(made.path, folder, 1536, True, adapter.path, lora)
    assert result.largest_difference is not None
    print(f"{'LoRA on llama 3':<42} off by {result.largest_difference:.1e} (spread {result.reference_std:.2f})")
    return result.largest_difference < 0.01


KNOWN_DIFFERENCES = {"mistral nemo, tekken cuts": {"Devanagari", "Bengali", "Tamil", "Telugu", "Thai", "Lao", "Khmer"}}
"""Case -> scripts that llama.cpp itself tokenizes differently: it never includes combining marks in tekken's words."""


def run(name: str, make: Callable[[Path], None]) -> bool:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "checkpoint"
        folder.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            make(folder)
        made = convert_checkpoint(folder, Path(place) / "made.gguf", FloatType.F32, False, True, no_progress)
        result = made.selftest
    assert result.largest_difference is not None
    scripts = {script for script, _ in result.mismatches}
    differ = f"{len(result.mismatches)} of {result.texts} texts differ"
    off = f"off by {result.largest_difference:.1e} (spread {result.reference_std:.2f})"
    print(f"{name:<42} {off}, {differ} {', '.join(sorted(scripts))}")
    return result.largest_difference < 0.01 and scripts <= KNOWN_DIFFERENCES.get(name, set()) and result.texts == TEXTS


def main(arguments: list[str]) -> int:
    setattr(selftest, "probe_texts", texts)  # noqa: B010
    transformers.utils.logging.disable_progress_bar()
    passed = []
    for name, make in CASES.items():
        if not arguments or any(word in name for word in arguments):
            try:
                passed.append(run(name, make))
            except GalagoError as error:
                print(f"{name:<42} {error.message}")
                passed.append(False)
    if not arguments or "lora" in arguments:
        passed.append(check_lora())
    return 0 if all(passed) else 1
