"""Takes the tensors that a model family has from a checkpoint, and checks their shapes. Knows no family."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ...models.errors import ModelError
from .checkpoint import Checkpoint
from .gguf_content import GGUFValue, OutputTensor, copied
from .json_config import JSONConfig
from .safetensors import StoredTensor, quoted

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS in llama.cpp's src/llama-hparams.h


@dataclass
class TensorMapper:
    """Takes tensors from a checkpoint one by one, and reports at the end which ones nothing used."""

    checkpoint: Checkpoint
    prefix: str
    outputs: list[OutputTensor] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def find(self, name: str, shape: tuple[int, ...], required: bool = True) -> StoredTensor | None:
        """Returns the tensor `prefix` + `name`. Raises `ModelError` if it is missing or has another shape."""
        tensor = self.checkpoint.tensors.get(self.prefix + name)
        if tensor is None:
            if required:
                raise checkpoint_error(self.checkpoint, f"the tensor {self.prefix}{name} is missing")
            return None
        if tensor.shape != shape:
            raise checkpoint_error(
                self.checkpoint,
                f"{self.prefix}{name} has the shape {list(tensor.shape)}, but config.json implies {list(shape)}",
            )
        self.used.add(self.prefix + name)
        return tensor

    def copy(
        self, source: str, name: str, shape: tuple[int, ...], required: bool = True, keep_f32: bool = False
    ) -> None:
        if tensor := self.find(source, shape, required):
            self.outputs.append(copied(name, tensor, keep_f32))

    def ignore(self, name: str) -> bool:
        """Counts the tensor as used. Returns whether the checkpoint has it."""
        self.used.add(self.prefix + name)
        return self.prefix + name in self.checkpoint.tensors

    def finish(self, ignored: str) -> list[OutputTensor]:
        """Returns all outputs. Raises `ModelError` if an unused tensor does not match the pattern `ignored`."""
        unused = self.checkpoint.tensors.keys() - self.used
        unknown = sorted(name for name in unused if not re.fullmatch(ignored, name))
        if unknown:
            raise checkpoint_error(
                self.checkpoint,
                f"{len(unknown)} tensors are unknown in a {self.checkpoint.architecture}: {quoted(unknown[0])}",
            )
        return self.outputs


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The number of query heads, the number of key-value heads, and the values per head."""

    heads: int
    kv_heads: int
    head_size: int


def read_attention_shape(config: JSONConfig) -> AttentionShape:
    """Raises `ModelError` if the sizes do not divide each other."""
    width, heads = config.positive_int("hidden_size"), config.positive_int("num_attention_heads")
    kv_heads = config.positive_int("num_key_value_heads", heads)
    head_size = config.positive_int("head_dim", max(1, width // heads))
    if heads % kv_heads or head_size % 2 or (config.get("head_dim") is None and width % heads):
        raise config.error(
            f"{heads} heads of {head_size} values, {kv_heads} key-value heads and a width of {width} do not divide"
        )
    return AttentionShape(heads, kv_heads, head_size)


def prefix_before(checkpoint: Checkpoint, name: str, usual: str) -> str:
    """Returns the prefix of the tensor `name` in this checkpoint: empty, `usual`, or longer, for example because
    torch.compile puts `_orig_mod.` before all names."""
    prefixes = [full.removesuffix(name) for full in checkpoint.tensors if full == name or full.endswith(f".{name}")]
    return prefixes[0] if len(prefixes) == 1 else usual


def layer_count(config: JSONConfig) -> int:
    return config.positive_int("num_hidden_layers", below=MAX_LAYERS + 1)


def prefixed(architecture: str, metadata: dict[str, GGUFValue]) -> dict[str, GGUFValue]:
    return {f"{architecture}.{key}": value for key, value in metadata.items()}


def checkpoint_error(checkpoint: Checkpoint, problem: str) -> ModelError:
    return ModelError(f"{checkpoint.folder.name}: {problem}", str(checkpoint.folder))
