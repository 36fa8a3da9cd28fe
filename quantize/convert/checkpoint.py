"""The folder of a Hugging Face checkpoint: settings and tensors, one file or many. Reads no weight by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from .safetensors import StoredTensor, damaged, read_header, shown

MAX_JSON = 256 << 20  # bytes; tokenizers of 262,000 tokens take 35 MB

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "consolidated.00.pth")


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON object whose entries are checked when they are asked for. Raises `ModelError` naming file and entry."""

    path: Path
    entries: Mapping[str, Any]

    def whole(self, key: str, default: int | None = None, most: int = 1 << 31) -> int:
        """A number from 1 on."""
        value = self._get(key, default)
        if type(value) is not int or not 0 < value < most:
            raise self.error(f"{key} is {shown(value)}, not a number from 1 on")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"{key} is {shown(value)}, not a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {shown(value)}, not true or false")
        return value

    def part(self, key: str) -> Settings:
        """An object within, empty where there is none."""
        value = self.entries.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(f"{key} is {shown(value)}, not an object")
        return Settings(self.path, value or {})

    def get(self, key: str, default: Any = None) -> Any:
        """The entry as it stands, unchecked; the default also where it is null."""
        value = self.entries.get(key)
        return default if value is None else value

    def error(self, problem: str) -> ModelError:
        return damaged(self.path, problem)

    def _get(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise self.error(f"{key} is missing")
        return value


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`config` is config.json's, `tensors` those of all weight files by name, `files` all weight files."""

    folder: Path
    config: Settings
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        return architecture(self.config)

    def read(self, name: str) -> Settings:
        """A JSON file of the folder, empty where there is none."""
        return read_json(self.folder / name)


def architecture(config: Settings) -> str:
    """The class that `architectures` names; empty where it names none."""
    names = config.get("architectures", [])
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def read_config(folder: Path) -> Settings:
    """A model's config.json. Raises `ModelError` where there is none."""
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}; name that of a Hugging Face checkpoint", "checkpoint")
    config = read_json(folder / "config.json")
    if not config.entries:
        raise ModelError(f"{folder} holds no config.json; it is not a Hugging Face checkpoint", str(folder))
    return config


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads settings and headers. Raises `ModelError` where files are missing, lie, or are pickles."""
    config = read_config(folder)
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return Checkpoint(folder, config, read_header(single), (single,))
    if index.is_file():
        return Checkpoint(folder, config, *_read_shards(folder, read_json(index)))
    raise no_weights(folder)


def no_weights(folder: Path) -> ModelError:
    """Why a folder cannot be converted that has no safetensors file."""
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return ModelError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which can run any code when it is read; take the "
            "model's safetensors files, or make them from a copy you trust where PyTorch is installed: "
            "AutoModel.from_pretrained(...).save_pretrained(...)",
            str(folder),
        )
    return ModelError(f"{folder} holds no model.safetensors", str(folder))


def _read_shards(folder: Path, index: Settings) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    places = index.part("weight_map").entries
    names = sorted({name for name in places.values() if isinstance(name, str)})
    if not names or not all(isinstance(name, str) for name in places.values()):
        raise index.error("weight_map does not name a file for each tensor")
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise index.error(f"it names the file {shown(name)}, which is none of this folder")
        if not (folder / name).is_file():
            raise index.error(f"{name} is missing; download it")
        for tensor in read_header(folder / name).values():
            if places.get(tensor.name) != name:
                raise index.error(f"{shown(tensor.name)} stands in {name}, which the index does not say")
            tensors[tensor.name] = tensor
    missing = places.keys() - tensors.keys()
    if missing:
        raise index.error(f"{shown(min(missing))} is not in {places[min(missing)]}")
    return tensors, tuple(folder / name for name in names)


def read_json(path: Path) -> Settings:
    """A JSON object, empty where there is no such file. Raises `ModelError` where it is none."""
    try:
        if not path.exists():
            return Settings(path, {})
        if path.stat().st_size > MAX_JSON:
            raise damaged(path, f"is larger than {MAX_JSON >> 20} MiB")
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is not JSON: {str(error) or type(error).__name__}") from None
    if not isinstance(entries, dict):
        raise damaged(path, "does not hold a JSON object")
    return Settings(path, entries)
