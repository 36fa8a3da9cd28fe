"""A small random-weight BERT as a GGUF file, and a NumPy implementation of it as a reference."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from fakes.gguf_writing import write_and_close

Floats = NDArray[np.float32]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3
WORDS = "the a cat dog sat ran on in mat house is of and small big red".split()
VOCABULARY = [
    *SPECIAL,
    *(f"▁{c}" for c in string.ascii_lowercase + string.digits + ".,!?'-[]"),
    *(c for c in string.ascii_lowercase + string.digits),
    *(f"▁{word}" for word in WORDS if len(word) > 1),
]
"""Marks the beginnings of words instead of their continuations, as llama.cpp's converter does."""


@dataclass(frozen=True)
class Shape:
    width: int = 64
    layers: int = 3
    heads: int = 4
    inner: int = 128
    context: int = 128
    epsilon: float = 1e-12


SHAPE = Shape()
POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}


def weights(shape: Shape = SHAPE, seed: int = 0, vocabulary: int = len(VOCABULARY)) -> dict[str, Floats]:
    """Random tensors by GGUF name; matrices have the shape outputs x inputs."""
    random = np.random.default_rng(seed)
    result: dict[str, Floats] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        result[f"{name}.weight"] = random.standard_normal((rows, columns), np.float32) * np.float32(columns**-0.5)

    def vector(name: str, size: int, middle: float) -> None:
        result[name] = (middle + 0.1 * random.standard_normal(size)).astype(np.float32)

    matrix("token_embd", vocabulary, shape.width)
    matrix("token_types", 2, shape.width)
    matrix("position_embd", shape.context, shape.width)
    norms = ["token_embd_norm"]
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        norms += [f"{block}attn_output_norm", f"{block}layer_output_norm"]
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(block + name, shape.width, shape.width)
            vector(f"{block}{name}.bias", shape.width, 0.0)
        matrix(f"{block}ffn_up", shape.inner, shape.width)
        vector(f"{block}ffn_up.bias", shape.inner, 0.0)
        matrix(f"{block}ffn_down", shape.width, shape.inner)
        vector(f"{block}ffn_down.bias", shape.width, 0.0)
    for norm in norms:
        vector(f"{norm}.weight", shape.width, 1.0)
        vector(f"{norm}.bias", shape.width, 0.0)
    matrix("cls", shape.width, shape.width)
    vector("cls.bias", shape.width, 0.0)
    matrix("cls.output", 1, shape.width)
    vector("cls.output.bias", 1, 0.0)
    return result


def write(path: Path, pooling: str = "cls", shape: Shape = SHAPE, tokens: list[str] = VOCABULARY) -> Path:
    """Writes the model in F32; a reranker gets a classification head."""
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_name("random-bert")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(shape.epsilon)
    writer.add_causal_attention(False)
    if pooling != "none":
        writer.add_uint32("bert.pooling_type", POOLING[pooling])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_type_count(2)
    for name, token in (("unknown", 1), ("padding", 0), ("seperator", SEP), ("cls", CLS), ("mask", 4), ("bos", CLS)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    for name, tensor in weights(shape, vocabulary=len(tokens)).items():
        if pooling == "rank" or not name.startswith("cls"):
            writer.add_tensor(name, tensor)
    write_and_close(writer)
    return path


def rows(tokens: list[int], shape: Shape = SHAPE) -> Floats:
    """Outputs of the last layer for one text, as in BERT's paper (arXiv:1810.04805)."""
    w = weights(shape)
    x = w["token_embd.weight"][tokens] + w["token_types.weight"][0] + w["position_embd.weight"][: len(tokens)]
    x = _norm(x, w, "token_embd_norm", shape)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        q, k, v = (_linear(x, w, f"{block}attn_{name}").reshape(len(tokens), shape.heads, -1) for name in "qkv")
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", share, v).reshape(x.shape)
        x = _norm(x + _linear(mixed, w, f"{block}attn_output"), w, f"{block}attn_output_norm", shape)
        up = _linear(x, w, f"{block}ffn_up")
        up = up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
        x = _norm(x + _linear(up, w, f"{block}ffn_down"), w, f"{block}layer_output_norm", shape)
    return x.astype(np.float32)


def vector(tokens: list[int], pooling: str) -> Floats:
    """The embedding of one text, normalized to length 1."""
    result = rows(tokens)
    one = {"mean": result.mean(0), "cls": result[0], "last": result[-1]}[pooling]
    return np.asarray(one / np.linalg.norm(one), np.float32)


def score(tokens: list[int]) -> float:
    """The reranker's score of a query and a document."""
    w = weights()
    return float(_linear(np.tanh(_linear(rows(tokens)[:1], w, "cls")), w, "cls.output")[0, 0])


def _linear(x: Floats, w: dict[str, Floats], name: str) -> Floats:
    return np.asarray(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])


def _norm(x: Floats, w: dict[str, Floats], name: str, shape: Shape) -> Floats:
    spread = np.sqrt(x.var(-1, keepdims=True) + shape.epsilon)
    return np.asarray((x - x.mean(-1, keepdims=True)) / spread * w[f"{name}.weight"] + w[f"{name}.bias"])


def tokens(text: str) -> list[int]:
    """Tokenizes a lower-case text by longest match; no word may be longer than those of the vocabulary."""
    result = [CLS]
    for word in text.split():
        rest = f"▁{word}"
        while rest:
            piece = next(rest[:n] for n in range(len(rest), 0, -1) if rest[:n] in VOCABULARY)
            result.append(VOCABULARY.index(piece))
            rest = rest[len(piece) :]
    return [*result, SEP]
