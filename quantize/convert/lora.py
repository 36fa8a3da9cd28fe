"""Converts a LoRA adapter of the PEFT library to a GGUF adapter, for the supported decoder families.

An adapter's folder does not describe the model's structure, so the model's config.json is needed as well; its weights
are not. An adapter adds B·A, scaled by alpha / rank, to a matrix. For queries and keys whose rows llama.cpp expects in
another order, B's rows are reordered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...models.errors import ConfigError
from ...models.gguf.reader import read_header
from ..output_file import check_target, output_file
from ..progress import Progress
from .architectures import family
from .chat_templates import read_templates
from .checkpoint import Checkpoint, architecture, read_config
from .conversion import ConversionResult, check_disk_space, check_nothing_left_out, receipt
from .decoders import (
    DECODER_TENSORS,
    decoder_shapes,
    gemma2,
    gemma3,
    granite,
    llama,
    qwen2,
    qwen3,
    smollm3,
    ties_embeddings,
)
from .gguf_content import GGUFValue, OutputTensor, copied, rope_interleaved, scaled, transposed
from .gguf_writer import FloatType, padded_bytes, write
from .json_config import JSONConfig, read_json
from .lora_settings import MERGE, LoraSettings, read_lora_settings
from .origin import snapshot_of
from .safetensors import StoredTensor, equal, quoted
from .safetensors import read_header as read_tensors
from .tensor_mapper import AttentionShape, read_attention_shape
from .weight_files import no_weights_error, read_weight_files

ADAPTER_CONFIG = "adapter_config.json"

_ARCHITECTURES = {
    llama: "llama", granite: "granite", smollm3: "smollm3", qwen2: "qwen2", qwen3: "qwen3", gemma2: "gemma2",
    gemma3: "gemma3",
}  # fmt: skip
_INTERLEAVED_ROPE = ("llama", "granite", "smollm3")

# PEFT's own names, names with an adapter's name in them, and names without PEFT's prefix
_MATRIX = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(embedding_)?([AB])(?:\.([^.]+))??(?:\.weight)?")
_IN_LAYER = re.compile(r"(?:model\.)?layers\.(\d{1,3})\.(.+)")
_BASE_COPY = re.compile(r"base_model\.model\.((?:model\.)?embed_tokens|lm_head)(?:\.base_layer)?\.weight")


@dataclass
class _Pair:
    """The matrices A and B that change one matrix. `module` is PEFT's name of what they change."""

    module: str
    a: StoredTensor | None = None
    b: StoredTensor | None = None


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter. Merged models often keep the settings of the adapter that they contain."""
    has_model = (folder / "config.json").is_file() and not any(folder.glob("adapter_model.*"))
    return (folder / ADAPTER_CONFIG).is_file() and not has_model


def convert_adapter(
    folder: Path,
    base: Path | None,
    target: Path,
    float_type: FloatType,
    force: bool,
    progress: Progress,
    strict: bool = False,
) -> ConversionResult:
    """Writes the adapter in `folder` to `target`. `base` is the folder with the config.json of the adapter's model.

    Raises `ModelError` if the adapter is damaged, does not fit the model or cannot be expressed in GGUF, and
    `ConfigError` as `convert_checkpoint` does.
    """
    check_target(target, force)
    folder = snapshot_of(folder)
    adapter_config, weights = read_json(folder / ADAPTER_CONFIG), folder / "adapter_model.safetensors"
    if base is None:
        name = quoted(adapter_config.get("base_model_name_or_path", "unknown"))
        raise ConfigError(f"use --base to give the folder with the config.json of the adapter's model, {name}", "base")
    settings = read_lora_settings(adapter_config)
    if not weights.is_file():
        raise no_weights_error(folder, weights.name)
    base = snapshot_of(base)
    config = read_config(base)
    model_family = family(config, architecture(config))
    if model_family not in _ARCHITECTURES:
        raise config.error("adapters for encoders cannot be converted; only those for text models")
    name = _ARCHITECTURES[model_family]
    stored = read_tensors(weights)
    left_out = [*settings.left_out, *_base_copies(settings.config, stored, base)]
    left_out += [
        f"the file {path.name}: the folder is converted as an adapter; for a model in it, remove {weights.name}"
        for path in sorted(folder.glob("*.safetensors"))
        if path.name != weights.name
    ]
    if _has_own_template(folder, base):
        left_out.append("the adapter's own chat template; give it with --chat-template FILE when you load the adapter")
    tensors = _Outputs(settings, config, interleaved_rope=name in _INTERLEAVED_ROPE).read(stored)
    check_nothing_left_out(left_out, strict)
    check_disk_space(target, padded_bytes(tensors, float_type) + (1 << 20))
    metadata: dict[str, GGUFValue] = {
        "general.type": "adapter",
        "general.file_type": float_type.ftype,
        "adapter.type": "lora",
        "adapter.lora.alpha": settings.alpha,
        **receipt(folder, (weights,), left_out, partial(progress, "hashing")),
    }
    with output_file(target, force) as part:
        write(part, name, metadata, tensors, float_type, partial(progress, "converting"))
        read_header(part)
    progress("testing", 1.0)
    size = target.stat().st_size
    return ConversionResult(target, f"{name} adapter", len(tensors), size, left_out=tuple(left_out))


def _base_copies(config: JSONConfig, tensors: dict[str, StoredTensor], base: Path) -> list[str]:
    """Removes the model's own embeddings and output matrix, which PEFT saves with an adapter that changes them.

    Returns a line for each that could not be compared with the model's. Raises `ModelError` if one was also trained.
    """
    lines = []
    for name in [name for name in tensors if _BASE_COPY.fullmatch(name)]:
        copy, own = tensors.pop(name), None
        if any(base.glob("*.safetensors")):
            model_name = name.removeprefix("base_model.model.").replace(".base_layer", "")
            stored = read_weight_files(base).tensors
            own = stored.get(model_name) or stored.get(model_name.removeprefix("model."))
        if own is not None and equal(copy, own):
            continue
        if own is not None or ".base_layer" not in name:
            raise config.error(f"the adapter replaces the model's {quoted(name)} as a whole; {MERGE}")
        lines.append(f"the copy of the model's own {quoted(name)}: --base has no weights to compare it with")
    return lines


def _has_own_template(folder: Path, base: Path) -> bool:
    """Whether the adapter was trained with a chat template that its model does not have."""
    own, models = (read_templates(Checkpoint(path, JSONConfig(path, {}), {}, ())) for path in (folder, base))
    return bool(own) and own != models


@dataclass(frozen=True)
class _Outputs:
    """Makes GGUF tensors of an adapter's matrices."""

    settings: LoraSettings
    config: JSONConfig
    interleaved_rope: bool

    def read(self, tensors: dict[str, StoredTensor]) -> list[OutputTensor]:
        """Raises `ModelError` if a matrix is missing, unknown, or does not fit the model."""
        pairs, outputs = self._pairs(tensors), []
        if not pairs:
            raise self.settings.config.error("the adapter changes nothing")
        attention = read_attention_shape(self.config)
        for name, pair in pairs.items():
            outputs += self._embeddings(name, pair) if name == "token_embd" else self._matrix(name, pair, attention)
        return outputs

    def _pairs(self, tensors: dict[str, StoredTensor]) -> dict[str, _Pair]:
        pairs: dict[str, _Pair] = {}
        adapters = set()
        for tensor in tensors.values():
            match = _MATRIX.fullmatch(tensor.name)
            name = self._gguf_name(match[1], bool(match[2])) if match else None
            if not match or name is None:
                raise self.settings.config.error(
                    f"the adapter changes {quoted(tensor.name)}, which GGUF cannot express; {MERGE}"
                )
            adapters.add(match[4])
            pair = pairs.setdefault(name, _Pair(match[1]))
            setattr(pair, match[3].lower(), tensor)
        if len(adapters) > 1:
            names = ", ".join(sorted(map(str, adapters)))
            raise self.settings.config.error(f"the file holds several adapters ({names}); save one alone")
        return pairs

    def _gguf_name(self, module: str, is_embedding: bool) -> str | None:
        if is_embedding:
            return "token_embd" if re.fullmatch(r"(model\.)?embed_tokens", module) else None
        if module == "lm_head":
            return "output"
        match = _IN_LAYER.fullmatch(module)
        if not match or int(match[1]) >= self.config.positive_int("num_hidden_layers"):
            return None
        part = DECODER_TENSORS.get(match[2], "norm")
        return None if part.endswith("norm") else f"blk.{int(match[1])}.{part}"

    def _matrix(self, name: str, pair: _Pair, attention: AttentionShape) -> list[OutputTensor]:
        part = name.rsplit(".", 1)[-1]
        if part == "output":
            self._check_untied(pair.module)
            shape: tuple[int, ...] = (self.config.positive_int("vocab_size"), self.config.positive_int("hidden_size"))
        else:
            shape = decoder_shapes(self.config, attention)[part]
        a, b = self._checked(name, pair, shape)
        heads = {"attn_q": attention.heads, "attn_k": attention.kv_heads}.get(part) if self.interleaved_rope else None
        b_name = f"{name}.weight.lora_b"
        changes = rope_interleaved(b_name, b, heads) if heads else copied(b_name, b)
        factor = self.settings.factor(pair.module, a.shape[0])
        return [copied(f"{name}.weight.lora_a", a), scaled(changes, factor)]

    def _embeddings(self, name: str, pair: _Pair) -> list[OutputTensor]:
        """llama.cpp looks up rows of A, so A is transposed (`build_inp_embd` in src/llama-graph.cpp)."""
        self._check_untied(pair.module)
        width, vocabulary = self.config.positive_int("hidden_size"), self.config.positive_int("vocab_size")
        a, b = self._checked(name, pair, (width, vocabulary))
        factor = self.settings.factor(pair.module, a.shape[0])
        return [transposed(f"{name}.weight.lora_a", a), scaled(copied(f"{name}.weight.lora_b", b), factor)]

    def _check_untied(self, module: str) -> None:
        """llama.cpp has one matrix for tied embeddings, and cannot change its two uses differently."""
        if ties_embeddings(self.config):
            raise self.settings.config.error(
                f"the adapter changes {module}, but the model also uses its embeddings as its output matrix "
                f"(tie_word_embeddings), and llama.cpp cannot change only one of the two; {MERGE}"
            )

    def _checked(self, name: str, pair: _Pair, shape: tuple[int, ...]) -> tuple[StoredTensor, StoredTensor]:
        error = self.settings.config.error
        if pair.a is None or pair.b is None:
            raise error(f"{name} lacks one of the matrices A and B")
        a, b = pair.a.shape, pair.b.shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != shape:
            raise error(f"{name} is {list(shape)} in the model, but the adapter adds {list(b)} times {list(a)}")
        return pair.a, pair.b
