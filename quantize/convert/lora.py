"""Converts a LoRA adapter of the PEFT library to a GGUF adapter, for the supported decoder families.

An adapter's folder does not describe the model's structure, so the model's config.json is needed as well; its weights
are not. An adapter adds B·A, scaled by alpha / rank, to a matrix. For queries and keys whose rows llama.cpp expects in
another order, B's rows are reordered.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

from ...models.errors import ConfigError
from ...models.gguf.reader import read_header
from ..output_file import check_target, output_file
from ..progress import Progress
from .architectures import DECODER_TENSORS, decoder_shapes, family, llama, qwen2, qwen3, read_attention_shape
from .checkpoint import JSONConfig, architecture, no_weights_error, read_config, read_json
from .conversion import ConversionResult, check_disk_space, provenance
from .gguf_content import GGUFValue, OutputTensor, copied, rope_interleaved
from .gguf_writer import FloatType, padded_bytes, write
from .safetensors import StoredTensor, quoted
from .safetensors import read_header as read_tensors
from .selftest import SelftestResult

ADAPTER_CONFIG = "adapter_config.json"

_ARCHITECTURES = {llama: "llama", qwen2: "qwen2", qwen3: "qwen3"}
_TENSOR_NAME = re.compile(r"base_model\.model\.(?:model\.)?layers\.(\d{1,3})\.(.+)\.lora_([AB])\.weight")

_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "bias": ("none",), "use_dora": (False,), "fan_in_fan_out": (False,), "alpha_pattern": ({},),
    "modules_to_save": ([],), "layer_replication": ([],), "trainable_token_indices": ([], {}),
    "alora_invocation_tokens": ([],), "lora_bias": (False,),
}  # fmt: skip
"""PEFT options that GGUF cannot express, and the values that mean the option is off."""


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def convert_adapter(
    folder: Path, base: Path | None, target: Path, float_type: FloatType, force: bool, progress: Progress
) -> ConversionResult:
    """Writes the adapter in `folder` to `target`. `base` is the folder with the config.json of the adapter's model.

    Raises `ModelError` if the adapter is damaged, does not fit the model or cannot be expressed in GGUF, and
    `ConfigError` as `convert_checkpoint` does.
    """
    check_target(target, force)
    adapter_config, weights = read_json(folder / ADAPTER_CONFIG), folder / "adapter_model.safetensors"
    if base is None:
        name = quoted(adapter_config.get("base_model_name_or_path", "unknown"))
        raise ConfigError(f"use --base to give the folder with the config.json of the adapter's model, {name}", "base")
    if not weights.is_file():
        raise no_weights_error(folder)
    alpha = _alpha(adapter_config)
    config = read_config(base)
    model_family = family(config, architecture(config))
    if model_family not in _ARCHITECTURES:
        raise config.error("only adapters for Llama, Mistral, Qwen2 and Qwen3 models can be converted")
    tensors = _outputs(adapter_config, config, read_tensors(weights), interleaved_rope=model_family is llama)
    check_disk_space(target, padded_bytes(tensors, float_type) + (1 << 20))
    metadata: dict[str, GGUFValue] = {
        "general.type": "adapter",
        "general.name": folder.resolve().name,
        "general.file_type": float_type.ftype,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
        **provenance((weights,), partial(progress, "hashing")),
    }
    name = _ARCHITECTURES[model_family]
    with output_file(target, force) as part:
        write(part, name, metadata, tensors, float_type, partial(progress, "converting"))
        read_header(part)
    progress("testing", 1.0)
    return ConversionResult(target, f"{name} adapter", len(tensors), target.stat().st_size, (), SelftestResult())


def _alpha(config: JSONConfig) -> float:
    """Returns alpha, which llama.cpp divides by the rank. Raises `ModelError` for adapters that are not plain LoRA."""
    if config.get("peft_type") != "LORA":
        raise config.error(f"the adapter is of kind {quoted(config.get('peft_type'))}; only LORA can be converted")
    for option, off_values in _UNSUPPORTED.items():
        value = config.get(option)
        if value is not None and value not in off_values:
            raise config.error(f"the adapter uses {option} {quoted(value)}, which GGUF cannot express")
    alpha, rank = config.number("lora_alpha"), config.positive_int("r")
    if not config.flag("use_rslora", False):
        return alpha
    if config.get("rank_pattern"):
        raise config.error("the adapter uses rank_pattern with use_rslora, which GGUF cannot express")
    return alpha * math.sqrt(rank)


def _outputs(
    adapter_config: JSONConfig, config: JSONConfig, tensors: dict[str, StoredTensor], interleaved_rope: bool
) -> list[OutputTensor]:
    attention = read_attention_shape(config)
    shapes, layers = decoder_shapes(config, attention), config.positive_int("num_hidden_layers")
    pairs: dict[str, dict[str, StoredTensor]] = {}
    for tensor in tensors.values():
        match = _TENSOR_NAME.fullmatch(tensor.name)
        part = DECODER_TENSORS.get(match[2]) if match else None
        if not match or part is None or len(shapes[part]) != 2 or int(match[1]) >= layers:
            raise adapter_config.error(f"the adapter changes {quoted(tensor.name)}, which GGUF cannot express")
        pairs.setdefault(f"blk.{int(match[1])}.{part}", {})[match[3]] = tensor
    if not pairs:
        raise adapter_config.error("the adapter changes nothing")
    outputs = []
    for name, pair in pairs.items():
        part = name.rsplit(".", 1)[1]
        _check_shapes(adapter_config, name, pair, shapes[part])
        heads = {"attn_q": attention.heads, "attn_k": attention.kv_heads}.get(part) if interleaved_rope else None
        b_name = f"{name}.weight.lora_b"
        outputs.append(copied(f"{name}.weight.lora_a", pair["A"]))
        outputs.append(rope_interleaved(b_name, pair["B"], heads) if heads else copied(b_name, pair["B"]))
    return outputs


def _check_shapes(config: JSONConfig, name: str, pair: dict[str, StoredTensor], shape: tuple[int, ...]) -> None:
    if len(pair) != 2:
        raise config.error(f"{name} lacks one of the matrices A and B")
    a, b = pair["A"].shape, pair["B"].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != shape:
        raise config.error(f"{name} is {list(shape)} in the model, but the adapter adds {list(b)} times {list(a)}")
