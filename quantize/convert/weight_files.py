"""Finds the safetensors files that hold the weights of a checkpoint. Names the files that it leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...models.errors import ModelError
from .json_config import JSONConfig, read_json
from .safetensors import StoredTensor, quoted, read_header

_SINGLE = "model.safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_SAME_WEIGHTS = re.compile(r"consolidated.*\.safetensors")  # Mistral publishes its own form beside transformers'
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "consolidated.00.pth")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The tensors of all files by name. `left_out` says which other files were not read, and why."""

    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()


def read_weight_files(folder: Path) -> WeightFiles:
    """Reads the tensor headers of a checkpoint.

    An index decides which files belong to it; without one these are model.safetensors, numbered parts, or the only
    safetensors file. Raises `ModelError` if files are missing, inconsistent or pickles.
    """
    present = {path.name for path in folder.glob("*.safetensors") if path.is_file()}
    index = _index(folder)
    if index is not None:
        file_of_tensor = _file_of_tensor(index)
        named = set(file_of_tensor.values())
        if present & named or _SINGLE not in present:
            return _indexed(folder, index, file_of_tensor, present)
        text = f"{index.path.name}: none of the files that it names exists; {_SINGLE} was read instead"
        return _listed(folder, [_SINGLE], present, [text])
    if _SINGLE in present:
        return _listed(folder, [_SINGLE], present, [])
    return _listed(folder, _files_without_index(folder, present), present, [])


def no_weights_error(folder: Path, expected: str = _SINGLE) -> ModelError:
    """Explains why a folder without a safetensors file cannot be converted."""
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return ModelError(
            f"{folder} stores its weights in {pickles[0]}, a pickle, which can run any code when it is loaded; "
            "download the model's safetensors files, or create them from a copy you trust with PyTorch: "
            "AutoModel.from_pretrained(...).save_pretrained(...)",
            str(folder),
        )
    own_form = sorted(path.name for path in folder.glob("consolidated*.safetensors"))
    if own_form:
        return ModelError(
            f"{folder.name} has only {own_form[0]}, which is Mistral's own form; download the model*.safetensors files "
            "of the same repository, which are in transformers' form",
            str(folder),
        )
    return ModelError(f"{folder} has no {expected}", str(folder))


def _index(folder: Path) -> JSONConfig | None:
    """Returns the index, also of a variant such as model.safetensors.index.fp16.json, if the folder has one."""
    names = sorted(path.name for path in folder.glob("*.safetensors.index*.json"))
    preferred = [name for name in names if name == "model" + _INDEX_SUFFIX] or names
    return read_json(folder / preferred[0]) if preferred else None


def _file_of_tensor(index: JSONConfig) -> dict[str, str]:
    entries = index.part("weight_map").entries
    if not entries or not all(isinstance(name, str) for name in entries.values()):
        raise index.error("weight_map does not name a file for each tensor")
    for name in set(entries.values()):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise index.error(f"it names the file {quoted(name)}, which is outside this folder or not safetensors")
    return dict(entries)


def _indexed(folder: Path, index: JSONConfig, file_of_tensor: Mapping[str, str], present: set[str]) -> WeightFiles:
    names = sorted(set(file_of_tensor.values()))
    absent = [name for name in names if name not in present]
    if absent:
        raise index.error(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing; download the rest")
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        for tensor in read_header(folder / name).values():
            if file_of_tensor.get(tensor.name) != name:
                raise index.error(f"{name} contains {quoted(tensor.name)}, which the index does not list there")
            tensors[tensor.name] = tensor
    missing = file_of_tensor.keys() - tensors.keys()
    if missing:
        raise index.error(f"{quoted(min(missing))} is not in {file_of_tensor[min(missing)]}")
    reason = f"{index.path.name} does not name it"
    return WeightFiles(tensors, tuple(folder / name for name in names), _others(present - set(names), reason))


def _listed(folder: Path, names: list[str], present: set[str], left_out: list[str]) -> WeightFiles:
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        for tensor in read_header(folder / name).values():
            if tensors.setdefault(tensor.name, tensor) is not tensor:
                raise ModelError(f"{tensors[tensor.name].path.name} and {name} both contain {quoted(tensor.name)}",
                                 str(folder))  # fmt: skip
    reason = f"the weights are in {names[0]}" + (" and the parts after it" if len(names) > 1 else "")
    files = tuple(folder / name for name in names)
    return WeightFiles(tensors, files, (*left_out, *_others(present - set(names), reason)))


def _files_without_index(folder: Path, present: set[str]) -> list[str]:
    """Returns the numbered parts, or the only file. Raises `ModelError` if parts are missing or there are several."""
    parts: dict[tuple[str, str], set[int]] = {}
    for name in present:
        if match := _PART.fullmatch(name):
            parts.setdefault((match[1], match[3]), set()).add(int(match[2]))
    if len(parts) == 1:
        ((stem, total), numbers) = next(iter(parts.items()))
        absent = [f"{stem}-{i:05}-of-{total}.safetensors" for i in range(1, int(total) + 1) if i not in numbers]
        if absent:
            raise ModelError(f"{folder.name} lacks {', '.join(absent[:3])}, {len(absent)} of {int(total)} parts; "
                             "download the rest", str(folder))  # fmt: skip
        return [f"{stem}-{i:05}-of-{total}.safetensors" for i in range(1, int(total) + 1)]
    own = sorted(name for name in present if not _SAME_WEIGHTS.fullmatch(name))
    if len(own) > 1:
        raise ModelError(
            f"{folder.name} has {', '.join(own[:4])} and no index, so it is unclear which files are the model; keep "
            f"one of them, and name it {_SINGLE}",
            str(folder),
        )
    if not own:
        raise no_weights_error(folder)
    return own


def _others(names: set[str], reason: str) -> tuple[str, ...]:
    others = sorted(name for name in names if not _SAME_WEIGHTS.fullmatch(name))
    return tuple(f"the file {name}: {reason}" for name in others)
