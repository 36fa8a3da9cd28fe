"""Converts a LoRA adapter of the PEFT library to a GGUF adapter, for the families of decoders known here.

An adapter's folder does not say how its model is built, so the model's config.json is needed beside it; its weights
are not. An adapter adds B·A, scaled by alpha over the rank, to a matrix; of queries and keys that llama.cpp wants in
another order, B's rows are put in that order.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from ...models.errors import ConfigError
from ...models.gguf.reader import read_header
from .architectures import DECODER_LINES, decoder_shapes, family, llama, qwen2, qwen3, read_heads
from .checkpoint import Settings, architecture, no_weights, read_config, read_json
from .convert import Converted, Report, check_disk, check_target, provenance, publishing
from .safetensors import StoredTensor, shown
from .safetensors import read_header as read_tensors
from .selftest import Tried
from .target import Target, Value, copied, interleaved
from .writing import Type, size, write

SETTINGS = "adapter_config.json"

_NAMES = {llama: "llama", qwen2: "qwen2", qwen3: "qwen3"}
_NAME = re.compile(r"base_model\.model\.(?:model\.)?layers\.(\d{1,3})\.(.+)\.lora_([AB])\.weight")

_WITHOUT: dict[str, tuple[object, ...]] = {
    "bias": ("none",), "use_dora": (False,), "fan_in_fan_out": (False,), "alpha_pattern": ({},),
    "modules_to_save": ([],), "layer_replication": ([],), "trainable_token_indices": ([], {}),
    "alora_invocation_tokens": ([],), "lora_bias": (False,),
}  # fmt: skip
"""What an adapter may be made with that GGUF has no place for, and the values that mean it is not."""


def is_adapter(folder: Path) -> bool:
    return (folder / SETTINGS).is_file()


def convert_adapter(
    folder: Path, base: Path | None, target: Path, kind: Type, force: bool, report: Report
) -> Converted:
    """Writes the adapter in `folder`, for the model whose config.json lies in `base`, to `target`.

    Raises `ModelError` for what is damaged, does not fit that model or has no place in GGUF, `ConfigError` as
    `convert` does.
    """
    check_target(target, force)
    settings, weights = read_json(folder / SETTINGS), folder / "adapter_model.safetensors"
    if base is None:
        named = shown(settings.get("base_model_name_or_path", "unknown"))
        raise ConfigError(f"--base names the folder with the config.json of the adapter's model, {named}", "base")
    if not weights.is_file():
        raise no_weights(folder)
    alpha = _alpha(settings)
    config = read_config(base)
    known = family(config, architecture(config))
    if known not in _NAMES:
        raise config.error("adapters can be converted for Llama, Mistral, Qwen2 and Qwen3 models")
    targets = _targets(settings, config, read_tensors(weights), turned=known is llama)
    check_disk(target, size(targets, kind) + (1 << 20))
    metadata: dict[str, Value] = {
        "general.type": "adapter",
        "general.name": folder.resolve().name,
        "general.file_type": kind.number,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
        **provenance((weights,), lambda share: report("hashing", share)),
    }
    with publishing(target, force) as part:
        write(part, _NAMES[known], metadata, targets, kind, lambda share: report("converting", share))
        read_header(part)
    report("trying", 1.0)
    return Converted(target, f"{_NAMES[known]} adapter", len(targets), target.stat().st_size, (), Tried())


def _alpha(settings: Settings) -> float:
    """Which llama.cpp divides by the rank. Raises `ModelError` for an adapter of another kind."""
    if settings.get("peft_type") != "LORA":
        raise settings.error(f"the adapter is of the kind {shown(settings.get('peft_type'))}; LORA can be converted")
    for option, harmless in _WITHOUT.items():
        value = settings.get(option)
        if value is not None and value not in harmless:
            raise settings.error(f"the adapter has {option} {shown(value)}, which GGUF has no place for")
    alpha, rank = settings.number("lora_alpha"), settings.whole("r")
    if not settings.flag("use_rslora", False):
        return alpha
    if settings.get("rank_pattern"):
        raise settings.error("the adapter has a rank_pattern with use_rslora, which GGUF has no place for")
    return alpha * math.sqrt(rank)


def _targets(settings: Settings, config: Settings, tensors: dict[str, StoredTensor], turned: bool) -> list[Target]:
    heads = read_heads(config)
    shapes, layers = decoder_shapes(config, heads), config.whole("num_hidden_layers")
    pairs: dict[str, dict[str, StoredTensor]] = {}
    for tensor in tensors.values():
        match = _NAME.fullmatch(tensor.name)
        part = DECODER_LINES.get(match[2]) if match else None
        if not match or part is None or len(shapes[part]) != 2 or int(match[1]) >= layers:
            raise settings.error(f"the adapter changes {shown(tensor.name)}, which it cannot in GGUF")
        pairs.setdefault(f"blk.{int(match[1])}.{part}", {})[match[3]] = tensor
    if not pairs:
        raise settings.error("the adapter changes nothing")
    targets = []
    for name, pair in pairs.items():
        part = name.rsplit(".", 1)[1]
        _check(settings, name, pair, shapes[part])
        count = {"attn_q": heads.count, "attn_k": heads.shared}.get(part) if turned else None
        second = f"{name}.weight.lora_b"
        targets.append(copied(f"{name}.weight.lora_a", pair["A"]))
        targets.append(interleaved(second, pair["B"], count) if count else copied(second, pair["B"]))
    return targets


def _check(settings: Settings, name: str, pair: dict[str, StoredTensor], shape: tuple[int, ...]) -> None:
    if len(pair) != 2:
        raise settings.error(f"of {name} one of the matrices A and B is missing")
    a, b = pair["A"].shape, pair["B"].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != shape:
        raise settings.error(f"{name} is {list(shape)} in the model, and the adapter adds {list(b)} times {list(a)}")
