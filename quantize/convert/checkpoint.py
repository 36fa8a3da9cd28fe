"""Opens the folder of a Hugging Face checkpoint: its JSON configs and its tensors. Reads no weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from ...models.regular_file import read_text
from .safetensors import StoredTensor, file_error, quoted, read_header

MAX_JSON_BYTES = 256 << 20  # tokenizers of 262,000 tokens take 35 MB

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "consolidated.00.pth")


@dataclass(frozen=True, slots=True)
class JSONConfig:
    """A JSON object whose entries are validated when read. Raises `ModelError` that names the file and the entry."""

    path: Path
    entries: Mapping[str, Any]

    def positive_int(self, key: str, default: int | None = None, below: int = 1 << 31) -> int:
        value = self._required(key, default)
        if type(value) is not int or not 0 < value < below:
            raise self.error(f"{key} is {quoted(value)}, not a positive whole number below {below}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._required(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"{key} is {quoted(value)}, not a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._required(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {quoted(value)}, not true or false")
        return value

    def part(self, key: str) -> JSONConfig:
        """Returns a nested object, empty if it is absent."""
        value = self.entries.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(f"{key} is {quoted(value)}, not an object")
        return JSONConfig(self.path, value or {})

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the entry unvalidated, or the default if it is absent or null."""
        value = self.entries.get(key)
        return default if value is None else value

    def error(self, problem: str) -> ModelError:
        return file_error(self.path, problem)

    def _required(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise self.error(f"{key} is missing")
        return value


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`config` is config.json. `tensors` holds the tensors of all weight files by name."""

    folder: Path
    config: JSONConfig
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        return architecture(self.config)

    def read(self, name: str) -> JSONConfig:
        """Reads a JSON file of the folder. Returns an empty config if the file is absent."""
        return read_json(self.folder / name)


def architecture(config: JSONConfig) -> str:
    """Returns the class named by `architectures`, or an empty string."""
    names = config.get("architectures", [])
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def read_config(folder: Path) -> JSONConfig:
    """Reads a model's config.json. Raises `ModelError` if it is absent."""
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}; give the folder of a Hugging Face checkpoint", "checkpoint")
    config = read_json(folder / "config.json")
    if not config.entries:
        raise ModelError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint", str(folder))
    return config


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads configs and tensor headers. Raises `ModelError` if files are missing, inconsistent or pickles."""
    config = read_config(folder)
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return Checkpoint(folder, config, read_header(single), (single,))
    if index.is_file():
        return Checkpoint(folder, config, *_read_shards(folder, read_json(index)))
    raise no_weights_error(folder)


def no_weights_error(folder: Path) -> ModelError:
    """Explains why a folder without a safetensors file cannot be converted."""
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return ModelError(
            f"{folder} stores its weights in {pickles[0]}, a pickle, which can run any code when it is loaded; "
            "download the model's safetensors files, or create them from a copy you trust with PyTorch: "
            "AutoModel.from_pretrained(...).save_pretrained(...)",
            str(folder),
        )
    return ModelError(f"{folder} has no model.safetensors", str(folder))


def _read_shards(folder: Path, index: JSONConfig) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    file_of_tensor = index.part("weight_map").entries
    names = sorted({name for name in file_of_tensor.values() if isinstance(name, str)})
    if not names or not all(isinstance(name, str) for name in file_of_tensor.values()):
        raise index.error("weight_map does not name a file for each tensor")
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise index.error(f"it names the file {quoted(name)}, which is outside this folder or no safetensors file")
        if not (folder / name).is_file():
            raise index.error(f"{name} is missing; download it")
        for tensor in read_header(folder / name).values():
            if file_of_tensor.get(tensor.name) != name:
                raise index.error(f"{name} contains {quoted(tensor.name)}, which the index does not list there")
            tensors[tensor.name] = tensor
    missing = file_of_tensor.keys() - tensors.keys()
    if missing:
        raise index.error(f"{quoted(min(missing))} is not in {file_of_tensor[min(missing)]}")
    return tensors, tuple(folder / name for name in names)


def read_json(path: Path) -> JSONConfig:
    """Reads a JSON object. Returns an empty config if the file is absent; raises `ModelError` for anything else."""
    try:
        if not path.exists():
            return JSONConfig(path, {})
        if path.stat().st_size > MAX_JSON_BYTES:
            raise file_error(path, f"is larger than {MAX_JSON_BYTES >> 20} MiB")
        entries = json.loads(read_text(path))
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise file_error(path, f"is not JSON: {str(error) or type(error).__name__}") from None
    if not isinstance(entries, dict):
        raise file_error(path, "is not a JSON object")
    return JSONConfig(path, entries)
