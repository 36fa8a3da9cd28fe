"""Opens the GGUF files that variants are made from: all parts of a text model or a projector."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ModelError
from ...models.files import weight_parts
from ...models.gguf.header import GGUFHeader, TensorInfo
from ...models.gguf.kind import check_is_model
from ...models.gguf.reader import read_header
from ...models.registry.name import is_builtin
from ...models.registry.pairing import check_parts
from ...models.registry.resolve import builtin_folder, first_part, resolve
from ...models.regular_file import open_regular
from .schemes import BLOCKS

_ALIGNMENT_BYTES = 32


@dataclass(frozen=True)
class SourceModel:
    """A GGUF file with all its parts, and the tensors of all parts.

    `derived_from` is the user's model, if this file was derived from it.
    """

    header: GGUFHeader
    parts: tuple[Path, ...]
    tensors: tuple[TensorInfo, ...]
    derived_from: SourceModel | None = None

    @property
    def path(self) -> Path:
        return self.parts[0]

    @property
    def original(self) -> SourceModel:
        """The user's model."""
        return self.derived_from or self

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(path.stat().st_size for path in self.parts)

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def quantized_type(self) -> str | None:
        """The quantized type of some of its weights, if there are any."""
        blocks = ((t.type_name, BLOCKS[t.type_name][0]) for t in self.tensors)
        return next((name for name, block in blocks if block > 1), None)


def open_source(model: str) -> SourceModel:
    """Opens a model by name or path; of the built-in model the F16 files. Raises `NotFound` or `ModelError`."""
    if is_builtin(model) and (f16 := builtin_folder() / "text-F16.gguf").exists():
        path = f16
    else:
        expanded = Path(model).expanduser()
        path = first_part(expanded) if expanded.is_file() else resolve(model).weights
    header = read_header(path)
    if not header.is_projector:
        check_is_model(header)
    if not header.tensors:
        raise ModelError(f"{path.name} contains no weights", "model")
    parts = weight_parts(path)
    check_parts(header, parts)
    headers = [read_header(part) for part in parts]
    tensors = tuple(tensor for each in headers for tensor in each.tensors)
    unknown = next((tensor for tensor in tensors if tensor.nbytes is None), None)
    if unknown is not None:
        raise ModelError(
            f"{path.name}: tensor {unknown.name} has the type {unknown.type_name}, which is not supported", "model"
        )
    return SourceModel(headers[0], tuple(each.path for each in headers), tensors)


def projector_of(model: str) -> Path | None:
    """Returns the projector of a model given by name; of the built-in model the F16 one. A path has no projector."""
    if is_builtin(model) and (f16 := builtin_folder() / "mmproj-F16.gguf").exists():
        return f16
    return None if Path(model).expanduser().is_file() else resolve(model).projector


def check_not_quantized(source: SourceModel, requantize: bool) -> None:
    """Raises `ModelError` if the source is already quantized, unless `requantize`."""
    if source.quantized_type and not requantize:
        raise ModelError(
            f"{source.path.name} is already quantized ({source.quantized_type}); use its F16, BF16 or F32 file "
            "instead, or --requantize, which loses more quality",
            "model",
        )


def typed_nbytes(tensor: TensorInfo, type_name: str) -> int:
    """Returns the bytes of the tensor in a type, whose blocks its rows must fill."""
    weights, block_bytes = BLOCKS[type_name]
    return math.prod(tensor.shape) // weights * block_bytes


def padded_bytes(sizes: Iterable[int]) -> int:
    """Returns the bytes that tensors of these sizes take in a file, including padding."""
    return sum(-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes)


def sha256(source: SourceModel) -> str:
    """Returns the SHA-256 of a file, or of its parts one after another."""
    total = hashlib.sha256()
    for path in source.parts:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()
