"""The jobs that quantization gives to child processes: frozen messages that are sent as bytes.

They are separate from the modules that do the work, so that a process can send one without loading llama.cpp. A
*segment* is the unit that a model reads: a chunk of text, or a chat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class QuantizationJob:
    """Asks for `source` to be written as `target`. The fields up to `copy` are the arguments of `quantizer.quantize`.

    `gptq` rounds the weights again with GPTQ. With `dry_run` nothing is written.
    """

    source: Path
    target: Path
    ftype: int
    threads: int = 0
    types: tuple[tuple[str, int], ...] = ()
    pure: bool = False
    metadata: dict[str, str | int] = field(default_factory=dict)
    dry_run: bool = False
    dropped: tuple[int, ...] = ()
    copy: bool = False
    gptq: bool = False


@dataclass(frozen=True, slots=True)
class CalibrationJob:
    """Asks `model` to read `files` and to collect the importance matrix in `part`, after `done_segments`.

    Every `held_out_every`-th segment is left out (0: none). At most `max_segments` of `chunk_tokens` are read. With
    `products` the matrix also holds what GPTQ needs. `file_bytes` is the size of the model's files.
    """

    model: Path
    projector: Path | None
    files: tuple[Path, ...]
    datasets: tuple[str, ...]
    chunk_tokens: int
    max_segments: int | None
    held_out_every: int
    products: bool
    file_bytes: int
    threads: int
    part: Path
    done_segments: int
    key: str


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """How to write a variant: the arguments of `quantizer.quantize`, and `gptq` to round again with GPTQ.

    With a `path`, the variant is an existing file.
    """

    ftype: int = 0
    types: tuple[tuple[str, int], ...] = ()
    pure: bool = False
    dropped: tuple[int, ...] = ()
    copy: bool = False
    gptq: bool = False
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class DivergenceJob:
    """Asks how far variants of `source`, or of its projector, diverge from it on held-out segments of `files`.

    Of the first `max_segments` of `chunk_tokens`, every `held_out_every`-th is read: at most `max_chunks` chunks of
    text, and four times as many chats. Variants are written to `folder`.
    """

    source: Path
    projector: Path | None
    varied: Literal["model", "projector"]
    files: tuple[Path, ...]
    chunk_tokens: int
    max_segments: int | None
    max_chunks: int
    held_out_every: int
    file_bytes: int
    threads: int
    folder: Path
    variants: tuple[tuple[str, VariantSpec], ...]
