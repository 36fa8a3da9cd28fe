"""What the child processes of quantization are asked to do: frozen messages that cross to them as bytes.

Stands apart from the modules that do the work, so that a process can ask for it without loading llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class QuantizationJob:
    """Asks for `source` to be written as `target`; the fields up to `copy` are `quantizer.quantize`'s arguments.

    `gptq` rounds the weights once more (`gptq.py`). With `dry_run` nothing is written.
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
    """Asks for `files` to be read by `model`, from unit `done` on, and for the importance matrix in `part`.

    Every `every`-th unit is left out (0: none); at most `limit` units of `chunk_tokens` are read. With `products` the
    matrix also holds what rounding with GPTQ needs. `file_bytes` is the size of the model's files.
    """

    model: Path
    projector: Path | None
    files: tuple[Path, ...]
    datasets: tuple[str, ...]
    chunk_tokens: int
    limit: int | None
    every: int
    products: bool
    file_bytes: int
    threads: int
    part: Path
    done: int
    key: str


VariantArguments: TypeAlias = dict[str, Any]
"""Arguments of `quantizer.quantize`, and `anew` for rounding once more; or `path`, a file that is there."""


@dataclass(frozen=True, slots=True)
class DivergenceJob:
    """Asks how far variants of `source`, or of its projector, diverge from it on what `files` hold back.

    Of the first `limit` units of `chunk_tokens`, every `every`-th is read; at most `units` stretches of text. Variants
    are written into `folder`.
    """

    source: Path
    projector: Path | None
    varied: Literal["model", "projector"]
    files: tuple[Path, ...]
    chunk_tokens: int
    limit: int | None
    units: int
    every: int
    file_bytes: int
    threads: int
    folder: Path
    variants: tuple[tuple[str, VariantArguments], ...]
