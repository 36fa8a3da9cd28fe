"""Opens the folder of a Hugging Face checkpoint: its JSON configs and its tensors. Reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...models.errors import ModelError
from .json_config import JSONConfig, read_json
from .safetensors import StoredTensor
from .weight_files import read_weight_files


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`config` is config.json. `tensors` holds the tensors of all weight files by name.

    `left_out` is a line for each part of the checkpoint that will not be in the converted file, `notes` for each way in
    which the file behaves differently. The functions that read the parts add to them.
    """

    folder: Path
    config: JSONConfig
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        return architecture(self.config)

    def read(self, name: str) -> JSONConfig:
        """Reads a JSON file of the folder. Returns an empty config if the file is absent."""
        return read_json(self.folder / name)

    def read_optional(self, name: str) -> JSONConfig:
        """Like `read`, for a file that a model works without: one that cannot be read is left out."""
        try:
            return self.read(name)
        except ModelError as error:
            line = f"{name}, which cannot be used ({error.message})"
            if line not in self.left_out:
                self.left_out.append(line)
            return JSONConfig(self.folder / name, {})


def architecture(config: JSONConfig) -> str:
    """Returns the class named by `architectures`, or an empty string."""
    names = config.get("architectures", [])
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def read_config(folder: Path) -> JSONConfig:
    """Reads a model's config.json. Raises `ModelError` if it is absent."""
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}; give the folder of a Hugging Face checkpoint", "checkpoint")
    config = read_json(folder / "config.json")
    if not config.entries and config.path.is_file():
        raise config.error("it is empty; download it again")
    if not config.entries:
        raise ModelError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint", str(folder))
    return config


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads configs and tensor headers. Raises `ModelError` if files are missing, inconsistent or pickles."""
    config = read_config(folder)
    weights = read_weight_files(folder)
    return Checkpoint(folder, config, weights.tensors, weights.files, list(weights.left_out))
