"""Tiny Hugging Face checkpoints, written without its libraries, and a NumPy implementation as a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galago.quantize.convert.checkpoint import Checkpoint
from galago.quantize.convert.json_config import read_json

Weights = dict[str, NDArray[np.float32]]

WIDTH, INNER, LAYERS, HEADS, SHARED = 32, 48, 2, 4, 2
HEAD = WIDTH // HEADS
CORPUS = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. Größe und Straße. Où est l'été"
QWEN2_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BPE_CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def safetensors(path: Path, weights: Weights, dtype: str = "F32") -> Path:
    """Writes a safetensors file; bfloat16 values are truncated float32 values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in weights.items():
        stored = stored_as(values, dtype)
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def stored_as(values: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def byte_letters() -> list[str]:
    """GPT-2's printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    strange = {byte: chr(256 + i) for i, byte in enumerate(byte for byte in range(256) if byte not in plain)}
    return [strange.get(byte, chr(byte)) for byte in range(256)]


def bpe() -> dict[str, Any]:
    """A byte-level tokenizer.json with a few merges and Qwen2's pre-tokenizer."""
    letters = byte_letters()
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("o", "g"), ("d", "og"), ("Ġ", "dog"), ("i", "c"), ("ic", "k")]
    tokens = [*letters, *("".join(pair) for pair in merges)]
    added = [{"id": len(tokens) + i, "content": text, "special": True} for i, text in enumerate(BPE_CONTROL)]
    added.append({"id": len(tokens) + len(added), "content": "<think>", "special": False})
    split = {"type": "Split", "pattern": {"Regex": QWEN2_CUTS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [list(m) for m in merges]}
    pre = {"type": "Sequence", "pretokenizers": [split, level]}
    return {"version": "1.0", "added_tokens": [filled(token) for token in added], "pre_tokenizer": pre, "model": model}


def filled(token: dict[str, Any]) -> dict[str, Any]:
    return {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False} | token


def sentence_piece() -> dict[str, Any]:
    """SentencePiece BPE as tokenizer.json: bytes, letters, and the merges of every token."""
    letters = sorted({*CORPUS.replace(" ", "▁"), *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"})
    merges = [("t", "h"), ("th", "e"), ("t", "he"), ("▁", "the"), ("▁the",), ("h", "e"), ("d", "o"), ("do", "g")]
    pairs = [pair for pair in merges if len(pair) == 2]
    merged = list(dict.fromkeys("".join(pair) for pair in pairs))
    order = sorted(pairs, key=lambda pair: merged.index("".join(pair)))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *merged]
    model = {
        "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
        "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [" ".join(pair) for pair in order],
    }  # fmt: skip
    added = [filled({"id": i, "content": text, "special": True}) for i, text in enumerate(tokens[:3])]
    spaces = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    around = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }  # fmt: skip
    normalizer = {"type": "Sequence", "normalizers": spaces}
    return {
        "version": "1.0", "added_tokens": added, "normalizer": normalizer, "post_processor": around, "model": model
    }  # fmt: skip


def word_piece(lower: bool = True) -> dict[str, Any]:
    letters = sorted({*CORPUS.lower(), *CORPUS, *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"} - {" "})
    control = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*control, *letters, *(f"##{letter}" for letter in letters), "the", "quick", "dog", "##ing"]
    around = [("[CLS]", 2), ("[SEP]", 3)]
    single = [{"SpecialToken": {"id": name, "type_id": 0}} for name, _ in around]
    post = {
        "type": "TemplateProcessing", "pair": [],
        "single": [single[0], {"Sequence": {"id": "A", "type_id": 0}}, single[1]],
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in around},
    }  # fmt: skip
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": lower}
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {token: i for i, token in enumerate(tokens)},
    }  # fmt: skip
    added = [filled({"id": i, "content": text, "special": True}) for i, text in enumerate(control)]
    return {
        "version": "1.0", "added_tokens": added, "normalizer": normalizer | {"strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": post, "model": model,
    }  # fmt: skip


def size_of(tokenizer: dict[str, Any]) -> int:
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    return int(max(ids)) + 1


def decoder_weights(vocabulary: int, tied: bool, biases: bool, norms: bool, seed: int = 1) -> Weights:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return np.asarray(random.standard_normal((rows, columns)) / np.sqrt(columns), np.float32)

    def vector(length: int, around: float) -> NDArray[np.float32]:
        return (around + 0.2 * random.standard_normal(length)).astype(np.float32)

    result = {"model.embed_tokens.weight": matrix(vocabulary, WIDTH), "model.norm.weight": vector(WIDTH, 1)}
    if not tied:
        result["lm_head.weight"] = matrix(vocabulary, WIDTH)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for name, rows in (("q", WIDTH), ("k", SHARED * HEAD), ("v", SHARED * HEAD)):
            result[f"{at}self_attn.{name}_proj.weight"] = matrix(rows, WIDTH)
            if biases:
                result[f"{at}self_attn.{name}_proj.bias"] = vector(rows, 0)
            if norms and name != "v":
                result[f"{at}self_attn.{name}_norm.weight"] = vector(HEAD, 1)
        result[f"{at}self_attn.o_proj.weight"] = matrix(WIDTH, WIDTH)
        result[f"{at}mlp.gate_proj.weight"] = matrix(INNER, WIDTH)
        result[f"{at}mlp.up_proj.weight"] = matrix(INNER, WIDTH)
        result[f"{at}mlp.down_proj.weight"] = matrix(WIDTH, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            result[f"{at}{name}.weight"] = vector(WIDTH, 1)
    return result


def decoder(
    folder: Path, architecture: str = "LlamaForCausalLM", *, tied: bool = False, dtype: str = "F32", **config: Any
) -> Weights:
    """Writes a checkpoint and returns its weights. `config` adds or replaces entries of config.json."""
    tokenizer = sentence_piece() if architecture[:5] in ("Llama", "Mistr") else bpe()
    folder.mkdir(parents=True, exist_ok=True)
    weights = decoder_weights(
        size_of(tokenizer), tied, biases=architecture.startswith("Qwen2"), norms=architecture.startswith("Qwen3")
    )
    safetensors(folder / "model.safetensors", weights, dtype)
    settings = {
        "architectures": [architecture], "vocab_size": size_of(tokenizer), "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": SHARED, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": tied, "rope_theta": 10000.0,
    }  # fmt: skip
    _write(folder, settings | config, tokenizer)
    named = (
        {"bos_token": "<s>", "eos_token": "</s>"}
        if architecture[:5] in ("Llama", "Mistr")
        else {"eos_token": "<|im_end|>"}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"chat_template": "{{ messages }}"}))
    return weights


def bert(folder: Path, **config: Any) -> Weights:
    tokenizer, random = word_piece(), np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    result: Weights = {}

    def add(name: str, *shape: int) -> None:
        around = 1.0 if "LayerNorm.weight" in name else 0.0
        scale = 0.2 if len(shape) == 1 else shape[-1] ** -0.5
        result[f"bert.{name}"] = (around + scale * random.standard_normal(shape)).astype(np.float32)

    add("embeddings.word_embeddings.weight", size_of(tokenizer), WIDTH)
    add("embeddings.position_embeddings.weight", 64, WIDTH)
    add("embeddings.token_type_embeddings.weight", 2, WIDTH)
    lines = {
        "attention.self.query": (WIDTH, WIDTH), "attention.self.key": (WIDTH, WIDTH),
        "attention.self.value": (WIDTH, WIDTH), "attention.output.dense": (WIDTH, WIDTH),
        "attention.output.LayerNorm": (WIDTH,), "intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER),
        "output.LayerNorm": (WIDTH,),
    }  # fmt: skip
    for kind in ("weight", "bias"):
        add(f"embeddings.LayerNorm.{kind}", WIDTH)
        for layer in range(LAYERS):
            for name, shape in lines.items():
                add(f"encoder.layer.{layer}.{name}.{kind}", *(shape if kind == "weight" else shape[:1]))
    add("pooler.dense.weight", WIDTH, WIDTH)
    result["cls.predictions.bias"] = np.zeros(size_of(tokenizer), np.float32)
    safetensors(folder / "model.safetensors", result)
    settings = {
        "architectures": ["BertForMaskedLM"], "vocab_size": size_of(tokenizer), "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "max_position_embeddings": 64, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "type_vocab_size": 2,
    }  # fmt: skip
    _write(folder, settings | config, tokenizer)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "modules.json").write_text(
        json.dumps([{"type": "st.models.Transformer", "path": ""}, {"type": "st.models.Pooling", "path": "1_Pooling"}])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    return result


def _write(folder: Path, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def change(path: Path, **entries: Any) -> None:
    """Replaces entries of a JSON file; `None` removes one."""
    result = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in result.items() if value is not None}))


def decoder_logits(w: Weights, tokens: list[int], base: float = 10000.0, eps: float = 1e-5) -> NDArray[np.float64]:
    """Logits of Llama, Qwen2 and Qwen3 in float64, as their papers define them; shape [tokens, vocabulary]."""

    def norm(x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight)

    def turn(x: NDArray[Any]) -> NDArray[Any]:
        angles = np.outer(np.arange(len(tokens)), base ** -(np.arange(0, HEAD, 2) / HEAD))[:, None, :]
        a, b = x[..., : HEAD // 2], x[..., HEAD // 2 :]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)

    x = w["model.embed_tokens.weight"][tokens].astype(np.float64)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        h = norm(x, w[f"{at}input_layernorm.weight"])
        parts = {}
        for name, heads in (("q", HEADS), ("k", SHARED), ("v", SHARED)):
            own = h @ w[f"{at}self_attn.{name}_proj.weight"].T + w.get(f"{at}self_attn.{name}_proj.bias", 0)
            own = own.reshape(len(tokens), heads, HEAD)
            if f"{at}self_attn.{name}_norm.weight" in w:
                own = norm(own, w[f"{at}self_attn.{name}_norm.weight"])
            own = turn(own) if name != "v" else own
            parts[name] = np.repeat(own, HEADS // heads, 1)
        scores = np.einsum("ihd,jhd->hij", parts["q"], parts["k"]) / np.sqrt(HEAD)
        scores[:, np.triu(np.ones((len(tokens), len(tokens)), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), parts["v"])
        x = x + mixed.reshape(len(tokens), WIDTH) @ w[f"{at}self_attn.o_proj.weight"].T
        h = norm(x, w[f"{at}post_attention_layernorm.weight"])
        gate = h @ w[f"{at}mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"{at}mlp.up_proj.weight"].T)) @ w[f"{at}mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def without_weights(folder: Path, files: dict[str, object], tokens: int) -> Checkpoint:
    """A checkpoint of JSON and text files without weights."""
    for name, content in ({"config.json": {"vocab_size": tokens}} | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Checkpoint(folder, read_json(folder / "config.json"), {}, ())
