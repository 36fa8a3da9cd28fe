"""The header of a GGUF file: metadata, tensor table and weight types. `reader.py` reads it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard

# enum ggml_type (ggml/include/ggml.h) -> name, weights per block, bytes per block (block_* in ggml/src/ggml-common.h).
# The gaps are types that llama.cpp has removed.
GGML_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip


Pooling: TypeAlias = Literal["mean", "cls", "last", "rank"]
"""How an embedding model turns the rows of a text into one vector. "rank": as "cls" or "last", then into a score."""

_TEMPLATE, _TOOL_USE = "tokenizer.chat_template", "tool_use"
_POOLING: Mapping[object, Pooling] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # enum llama_pooling_type in llama.h
_ENCODERS = frozenset(
    "bert eurobert gemma-embedding jina-bert-v2 jina-bert-v3 modern-bert neo-bert nomic-bert nomic-bert-moe".split()
)
"""Architectures that only embed texts (those without a KV cache in llama.cpp's src/llama-model.cpp)."""

END_TOKENS_KEY = "galago.end_token_ids"
"""Ids of tokens that end an answer, separated by spaces, in files with more of them than llama.cpp has keys for."""
_COMMIT = re.compile(r"(?i)[0-9a-f]{40}")
_REPOSITORY = re.compile(r"/models--[^/]+--([^/]+)/snapshots/")


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """A long array, without its values: the enum gguf_type of its elements, and their number."""

    type: int
    count: int


Scalar = int | float | str
MetadataValue = Scalar | tuple[Scalar, ...] | ArrayInfo


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of the tensor table.

    `shape` begins with the fastest dimension. `offset` is in bytes from `GGUFHeader.data_offset`. `nbytes` is None if
    `type` is not in `GGML_TYPES`.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int | None

    @property
    def type_name(self) -> str:
        return GGML_TYPES[self.type][0] if self.type in GGML_TYPES else f"type {self.type}"


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts in each layer of a mixture of experts, and how many of them compute a token."""

    total: int
    used: int


@dataclass(frozen=True)
class GGUFHeader:
    """The header of a GGUF file. `data_offset` is in bytes from the start of the file."""

    path: Path
    version: int
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int

    def get(self, key: str, default: MetadataValue | None = None) -> MetadataValue | None:
        return self.metadata.get(key, default)

    @property
    def architecture(self) -> str:
        return self._text("general.architecture") or ""

    @property
    def name(self) -> str:
        """The model's name from the metadata, or else the file name without its extension.

        Converters write a commit id as the name if they are given a folder of the Hub's cache. Instead of one, this is
        the name of the repository that the metadata gives, or in whose folder of the cache the file is.
        """
        name = self._text("general.name")
        if name is None or not _COMMIT.fullmatch(name):
            return name or self.path.stem
        stated = (
            self._text(f"general.{key}") for key in ("repo_url", "source.repo_url", "source.huggingface.repository")
        )
        repository = next(filter(None, stated), "").rstrip("/").rpartition("/")[2]
        cached = _REPOSITORY.search(self.path.as_posix())
        return repository or (cached[1] if cached else self.path.stem)

    @property
    def is_projector(self) -> bool:
        """Whether this is a projector (an mmproj file), which encodes images or audio, and not a language model."""
        return is_projector(self.metadata)

    @property
    def context_length(self) -> int | None:
        """The context in tokens that the model was trained for, if the file says."""
        return self._count(f"{self.architecture}.context_length")

    @property
    def embedding_length(self) -> int | None:
        """The width of a token embedding, if the file says; projectors do not."""
        return self._count(f"{self.architecture}.embedding_length")

    @property
    def experts(self) -> Experts | None:
        """`None` for a model without experts. Both numbers are as untrusted as the file."""
        count = self._count(f"{self.architecture}.expert_count")
        used = self.get(f"{self.architecture}.expert_used_count")
        return None if count is None else Experts(count, used if is_int(used) else 0)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template, as untrusted as the file. The one for tools if it is the only one."""
        return self._text(_TEMPLATE) or self._text(f"{_TEMPLATE}.{_TOOL_USE}")

    @property
    def tool_use_template(self) -> str | None:
        """The source of the template for chats with tools, if the file has a separate one."""
        return self._text(f"{_TEMPLATE}.{_TOOL_USE}") if self._text(_TEMPLATE) else None

    @property
    def chat_template_names(self) -> list[str]:
        """The names of all chat templates in the file; `default` is the unnamed one."""
        keys = [key for key in self.metadata if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")]
        return sorted(
            (key[len(_TEMPLATE) + 1 :] or "default" for key in keys), key=lambda name: (name != "default", name)
        )

    @property
    def pooling(self) -> Pooling | None:
        """How an embedding model pools, or `None` for a generative model. The default of an encoder is the mean."""
        stated = self._stated_pooling
        return stated or ("mean" if self.is_encoder else None)

    @property
    def is_encoder(self) -> bool:
        """Whether the model only turns texts into vectors, and cannot generate text."""
        return self.architecture in _ENCODERS

    @property
    def says_pooling(self) -> bool:
        """Whether the metadata sets the pooling."""
        return self._stated_pooling is not None

    @property
    def _stated_pooling(self) -> Pooling | None:
        return _POOLING.get(self.metadata.get(f"{self.architecture}.pooling_type"))

    @property
    def parameters(self) -> int:
        """Number of weights in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _count(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if is_int(value) and value > 0 else None


def is_projector(metadata: Mapping[str, MetadataValue]) -> bool:
    """Whether the metadata is that of a projector."""
    return metadata.get("general.type") == "mmproj" or metadata.get("general.architecture") == "clip"


def is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
