"""Finds the models that other programs stored on this machine: in Ollama's folder, and in any other folder.

Reports why files that are not usable models were left out. Manifests of other programs are untrusted.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError, GalagoError, ModelError, NotFound
from ..gguf.file_name import describe_missing, is_gguf, pieces, quant_of, split_name, why_not_whole
from ..gguf.header import GGUFHeader
from ..gguf.kind import DESCRIPTIONS, GGUFKind, check_is_model, header_kind, kinds_by_name, with_header
from ..gguf.reader import read_header
from ..kept_file import read_file
from . import pairing, selection
from .imported import ImportedModel

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/|$)")
_LM_STUDIO = re.compile(r"/\.?lm-?studio/models/([^/]+)/([^/]+)/")
_MAX_FILES = 100_000
_MAX_MANIFEST_BYTES = 1 << 20
_OLLAMA_LAYERS = {
    "system": "its system prompt",
    "template": "Ollama's prompt template",
    "params": "its parameters",
    "messages": "its example messages",
}
"""Layers of Ollama's models, besides adapters, that are not imported although they change answers."""


@dataclass
class Discovery:
    """The models in a place. `left_out` has a line for each file there that is not a usable model, with the reason."""

    models: list[ImportedModel] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def default_folders(ollama: Path | None = None) -> list[Path]:
    """Returns the model folders of LM Studio and Ollama that exist. `ollama` replaces Ollama's usual folders."""
    home = Path.home()
    places = [home / ".lmstudio/models", home / ".cache/lm-studio/models"]
    places += [ollama] if ollama else [home / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
    return [place for place in places if os.path.isdir(place)]  # unlike Path.is_dir, false if it is not accessible


def discover(*places: Path) -> Discovery:
    """Finds the models in files, in Ollama's folder, or anywhere below other folders. Does not import them.

    Raises `NotFound` if there are none in any place. Raises `ModelError` for a place that is a file but not a usable
    model.
    """
    discovery = Discovery()
    for place in places:
        _add_place(place.expanduser().absolute(), discovery)
    if not discovery.models:
        reasons = discovery.left_out[:5] or [hint for place in places if (hint := _hint(place))]
        raise NotFound(f"there are no GGUF models in {' or '.join(map(str, places))}", "path", reasons)
    return discovery


def _hint(place: Path) -> str:
    """Returns advice for a folder that has weights in another format, or an empty text."""
    if any(place.glob("*.safetensors")):
        return f"{place} holds a checkpoint; convert it with: galago convert {shlex.quote(str(place))} -o FILE.gguf"
    if any(place.glob("sha256-*")):
        return "it holds blobs of Ollama without their manifests, which name the models; import one blob by its path"
    return ""


def _add_place(place: Path, discovery: Discovery) -> None:
    if place.is_file() or (place.is_symlink() and not place.is_dir()):
        _add_file(place, discovery)
    elif ollama := _ollama_folder(place):
        _add_ollama(ollama, discovery)
    else:
        unpaired = [path for folder in _folders(place, discovery) for path in _add_folder(folder, place, discovery)]
        taken = {model.projector for model in discovery.models}
        for path in unpaired:
            if path not in taken:
                discovery.left_out.append(f"{path.name} is a projector, and its model is not in {path.parent}")


def _ollama_folder(place: Path) -> Path | None:
    """Returns Ollama's folder if a place is that folder, the one above it, or its blobs or manifests."""
    above = [place.parent] if place.name in ("blobs", "manifests") else []
    return next((folder for folder in (place, place / "models", *above) if _is_ollamas(folder)), None)


def _is_ollamas(folder: Path) -> bool:
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


def _add_file(path: Path, discovery: Discovery) -> None:
    """Adds the model that a file, or a part of a split model, belongs to. Raises `GalagoError` if it is none."""
    if not path.name.lower().endswith(".gguf") and not pieces([path.name]):  # such as one of Ollama's blobs
        header = read_header(path)
        check_is_model(header)
        discovery.models.append(ImportedModel(_usable_name(header.name.lower()), (path,), None, str(path.parent)))
        return
    folder = _GGUFFolder.read(path.parent, path.parent)
    if path.name in folder.problems:
        raise folder.problems[path.name]
    if path.name in folder.headers and split_name(path.name)[1] == 1:
        check_is_model(folder.headers[path.name])
    names = [n for n in folder.names if split_name(n)[::2] == split_name(path.name)[::2]]
    kinds: dict[str, GGUFKind] = dict.fromkeys(names, "model")
    for name, parts in selection.missing_parts(names, kinds).items():
        raise NotFound(f"{name} is not a whole model: {describe_missing(parts)}", "path")
    for cut in pieces(folder.all_names):
        if path.name in cut.names:
            raise NotFound(f"{path.name} is not a whole model: {cut.how_to_join}", "path")
    discovery.models += [folder.model(group, path.parent) for group in selection.weight_sets(names, kinds=kinds)]


def _add_folder(path: Path, top: Path, discovery: Discovery) -> list[Path]:
    """Adds the models in a folder itself. Returns the projectors in it if it has no models."""
    folder = _GGUFFolder.read(path, top)
    reasons = [error.message for error in folder.problems.values()]
    usable = [name for name in folder.names if name not in folder.problems]
    for name, kind in folder.kinds.items():
        if kind not in ("model", "projector", "part") or (kind == "part" and split_name(name)[2] == 1):
            reasons.append(f"{name} is {DESCRIPTIONS[kind]}, not a model")
    for name, parts in selection.missing_parts(usable, folder.kinds).items():
        reasons.append(f"{name}: {describe_missing(parts)}{_in_other_folders(parts, path, top)}")
    reasons += [f"{cut.whole}: {cut.how_to_join}" for cut in pieces(folder.all_names)]
    reasons += [reason for name in folder.all_names if (reason := why_not_whole(name))]
    groups = selection.weight_sets(usable, kinds=folder.kinds)
    for group in groups:
        try:
            pairing.check_parts(folder.headers[group.parts[0]], group.parts)
            discovery.models.append(folder.model(group, top))
        except ModelError as error:
            reasons.append(error.message)
    below = "" if path == top else f"{path.relative_to(top).as_posix()}/"
    discovery.left_out += [below + reason for reason in reasons]
    return [] if groups else [path / name for name, kind in folder.kinds.items() if kind == "projector"]


def _in_other_folders(parts: Sequence[str], path: Path, top: Path) -> str:
    """Says in which folders below `top` the parts are that a folder lacks, or returns an empty text."""
    folders = {other.parent for part in parts for other in top.rglob(glob.escape(part))} - {path}
    places = ", ".join(sorted(map(str, folders)))
    return f"; it is in {places}: move all parts into one folder" if places else ""


@dataclass
class _GGUFFolder:
    """The GGUF files of one folder: the headers of the usable ones, and the problems of the others."""

    path: Path
    all_names: tuple[str, ...]
    names: tuple[str, ...]
    headers: Mapping[str, GGUFHeader]
    problems: Mapping[str, GalagoError]
    kinds: Mapping[str, GGUFKind]
    projectors: Sequence[GGUFHeader]

    @classmethod
    def read(cls, path: Path, top: Path) -> _GGUFFolder:
        """Reads the headers of a folder below `top`.

        The name of a folder such as `MTP` gives the kind of its files, which belong to the model in the folder above.
        """
        all_names = tuple(sorted(entry.name for entry in path.iterdir() if not entry.is_dir()))
        names = tuple(name for name in all_names if name.lower().endswith(".gguf"))
        headers, problems = _read_headers(path, names)
        above = sorted(entry.name for entry in path.parent.iterdir()) if path != top else []
        by_name = kinds_by_name([*above, *(f"{path.name}/{name}" for name in names)])
        kinds = {n: with_header(by_name[f"{path.name}/{n}"], header_kind(header)) for n, header in headers.items()}
        projectors = [headers[name] for name, kind in kinds.items() if kind == "projector"]
        if not projectors:
            below = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
            projectors = _named_projectors([path.parent, *below] if path != top else below)
        return cls(path, all_names, names, headers, problems, kinds, projectors)

    def model(self, group: selection.WeightSet, top: Path) -> ImportedModel:
        """Returns a model of the folder with the projector that matches it."""
        weights, left_out = tuple(self.path / part for part in group.parts), []
        projector = None
        try:
            candidates = sorted(self.projectors, key=lambda h: selection.name_distance(group, h.path.name))
            projector = pairing.pick_projector(self.headers[group.parts[0]], candidates)
        except GalagoError as error:
            left_out.append(f"a projector, because {error.message}")
        quant = quant_of(f"{self.path.name}/{group.parts[0]}")
        stem = group.stem if group.quant or not quant else f"{group.stem}-{quant}"
        snapshot = _SNAPSHOT.search(self.path.as_posix() + "/")
        published = f"hf:{snapshot[1]}/{snapshot[2]}@{snapshot[3]}" if snapshot else self._lm_studio_name()
        return ImportedModel(
            _usable_name(stem), weights, projector.path if projector else None, str(top), quant,
            published_as=published, left_out=tuple(left_out),
        )  # fmt: skip

    def _lm_studio_name(self) -> str:
        """Returns the repository of a folder of LM Studio's, which calls it .../models/OWNER/REPO, or an empty text."""
        match = _LM_STUDIO.search(self.path.as_posix() + "/")
        return f"hf:{match[1]}/{match[2]}" if match else ""


def _named_projectors(folders: Sequence[Path]) -> list[GGUFHeader]:
    """Returns the headers of the files in folders that are projectors by their names and headers."""
    headers: list[GGUFHeader] = []
    for folder in folders:
        names = kinds_by_name(sorted(path.name for path in folder.glob("*.[gG][gG][uU][fF]")))
        wanted = [name for name, kind in names.items() if kind == "projector"]
        headers += [header for header in _read_headers(folder, wanted)[0].values() if header.is_projector]
    return headers


def _read_headers(folder: Path, names: Sequence[str]) -> tuple[dict[str, GGUFHeader], dict[str, GalagoError]]:
    headers: dict[str, GGUFHeader] = {}
    problems: dict[str, GalagoError] = {}
    for name in names:
        try:
            if not is_gguf(name):
                raise NotFound(f"{name}: this is a file that macOS adds to {name[2:]}, without its content", "path")
            headers[name] = read_header(folder / name)
        except GalagoError as error:
            problems[name] = error
    return headers, problems


def _folders(place: Path, discovery: Discovery) -> Iterator[Path]:
    """Yields the folders with GGUF files or pieces of them, at any depth. Follows no links to folders."""

    def leave_out(error: OSError) -> None:
        if error.filename != str(place) or place.exists():
            discovery.left_out.append(f"{error.filename} cannot be read: {error.strerror}")

    seen = 0
    for folder, folders, names in os.walk(place, onerror=leave_out):
        folders.sort()
        for linked in filter(os.path.islink, (os.path.join(folder, name) for name in folders)):
            if any(".gguf" in path.name.lower() for path in Path(linked).glob("*")):
                discovery.left_out.append(
                    f"{linked} is a link to a folder, which is not followed; import it by its path"
                )
        seen += len(names)
        if seen > _MAX_FILES:
            raise ConfigError(f"{place} has more than {_MAX_FILES} files; name one of its subfolders", "path")
        if any(".gguf" in name.lower() for name in names):
            yield Path(folder)


def _add_ollama(place: Path, discovery: Discovery) -> None:
    """Adds the models in Ollama's folder. A manifest lists the blobs of a model; its path is the model's name."""
    for path in sorted((place / "manifests").rglob("*")):
        try:
            layers = json.loads(read_file(path, _MAX_MANIFEST_BYTES))["layers"]
            blobs: dict[str, list[Path]] = {}
            for layer in layers:
                if blob := _blob_path(place, layer["digest"]):  # otherwise the manifest points elsewhere
                    blobs.setdefault(layer["mediaType"].rpartition(".")[2], []).append(blob)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # not a manifest, or of an unknown kind
        name = _ollama_name(path.relative_to(place / "manifests"))
        try:
            discovery.models.append(_ollama_model(place, name, path, blobs))
        except GalagoError as error:
            discovery.left_out.append(f"{name}: {error.message}")


def _ollama_model(place: Path, name: str, manifest: Path, blobs: Mapping[str, list[Path]]) -> ImportedModel:
    """Raises `NotFound` if the weights are not there, `ModelError` if they are not those of a usable model."""
    if len(weights := blobs.get("model", [])) != 1:
        what = f"its weights are in {len(weights)} files" if weights else "it has no weights in the GGUF format"
        raise NotFound(f"{what}, which only Ollama can use", "path")
    projector = next(iter(blobs.get("projector", ())), None)
    if missing := next((path for path in (weights[0], projector) if path and not path.is_file()), None):
        raise NotFound(f"its file {missing.name} is missing; pull it again with: ollama pull {name}", "path")
    header, left_out = read_header(weights[0]), []
    check_is_model(header)
    if projector and (problem := pairing.projector_mismatch(header.metadata, read_header(projector).metadata)):
        left_out, projector = [f"its projector, because {problem}"], None
    left_out += [what for kind, what in _OLLAMA_LAYERS.items() if kind in blobs]
    left_out += [f"its adapter (pass it as --lora {path})" for path in blobs.get("adapter", ())]
    return ImportedModel(
        _usable_name(f"{manifest.parent.name}-{manifest.name}".lower()), (weights[0],), projector, str(place),
        published_as=name, left_out=tuple(left_out),
    )  # fmt: skip


def _ollama_name(manifest: Path) -> str:
    """Returns the name that Ollama has for a model, such as tiny:latest or hf.co/OWNER/REPO:QUANT."""
    *folders, model, tag = manifest.parts if len(manifest.parts) > 1 else ("", *manifest.parts)
    place = "/".join(folders).removeprefix("registry.ollama.ai/").removeprefix("library").strip("/")
    return f"{place}/{model}:{tag}" if place else f"{model}:{tag}"


def _blob_path(place: Path, digest: str) -> Path | None:
    match = _DIGEST.fullmatch(digest)
    return place / "blobs" / f"sha256-{match[1]}" if match else None


def _usable_name(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text).strip("-._") or "model"
