"""The models on this machine as Ollama's API describes them, from their GGUF headers."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import UNSET

from ....models.errors import GalagoError, ModelError, NotFound
from ....models.gguf.header import ArrayInfo, GGUFHeader
from ....models.gguf.reader import read_header
from ....models.modelfile import modelfile_text
from ....models.registry import installed
from ....models.registry.installed import InstalledModel, ModelSummary
from ....models.registry.name import parse_ref
from ...output.reasoning import tags_of
from ...pool.modelfile_presets import preset_instructions, preset_parameters
from ...pool.presets import find_preset, preset_files, read_presets, resolve_preset
from ...service import Service
from ...types.model_info import ModelStatus
from ...types.options import SAMPLING
from . import schema

_NEVER = "9999-12-31T23:59:59Z"
_RECOMMENDED = {option.gguf: option.name for option in SAMPLING if option.gguf}


def tags(service: Service) -> Iterator[schema.Model]:
    """All models on this machine, the loaded one first, under each of its names."""
    for info in (*service.models(), *service.aliases()):
        yield _model(info.id, service.files(info.id))
    for model in service.installed_files():
        with contextlib.suppress(ModelError):
            if service.allows(str(model.ref)):
                yield _model(str(model.ref), model)
    for preset in read_presets().presets:
        with contextlib.suppress(GalagoError, OSError):
            if service.allows(preset.name) and not service.is_loaded(preset.name):
                yield _model(preset.name, preset_files(preset))


def running(service: Service) -> Iterator[schema.Model]:
    """The loaded models, with the memory that they use, and when they will be unloaded."""
    memory = dict(service.stats())
    status = {one.id: one for one in service.status()}
    for info in service.models():
        with contextlib.suppress(NotFound, OSError):  # it has just been unloaded
            model = _model(info.id, service.files(info.id))
            model.expires_at, model.context_length = _expiry(status.get(info.id)), info.context_length
            model.size = (memory[info.id].memory_bytes if info.id in memory else 0) or model.size
            yield model


def _expiry(status: ModelStatus | None) -> str:
    """When a model will be unloaded if no request comes, counted from now while it is in use."""
    if status is None or status.keep_alive == math.inf:
        return _NEVER
    left = status.keep_alive if status.idle_seconds_left is None else status.idle_seconds_left
    return _time(time.time() + left)


def details(service: Service, name: str) -> schema.ModelDetails:
    """Raises `NotFound` if there is no such model on this machine."""
    if not service.allows(name):
        raise NotFound(f"there is no model {name!r:.100} that this key may use", "model")
    preset = find_preset(name)
    model = find(service, name)
    summary, header = installed.summarize(model), read_header(model.weights[0])
    thinks = header.chat_template is not None and tags_of(header.chat_template) is not None
    capabilities = {"vision": summary.vision, "audio": summary.audio, "thinking": thinks}
    recommended = {name: header.get(f"general.sampling.{key}") for key, name in _RECOMMENDED.items()}
    own = preset_parameters(preset) if preset else []
    parameters = [pair for pair in recommended.items() if pair[1] is not None and pair[0] not in dict(own)]
    template = resolve_preset(preset).config.chat_template if preset else None
    return schema.ModelDetails(
        modelfile=modelfile_text(preset_instructions(preset)) if preset else f"FROM {name}\n",
        parameters="\n".join(f"{key} {value}" for key, value in (*parameters, *own)),
        template=template or header.chat_template or "",
        license=preset.values.get("license", summary.licence) if preset else summary.licence,
        system=(preset.defaults.system if preset else None) or UNSET,
        messages=[{"role": role, "content": text} for role, text in preset.defaults.messages] if preset else UNSET,
        details=_family_details(summary),
        model_info=_metadata(header, summary),
        capabilities=_capabilities(header, capabilities),
        modified_at=_time(summary.modified_at),
    )


def _capabilities(header: GGUFHeader, optional: dict[str, bool]) -> list[str]:
    """Ollama's names for the model's capabilities; there is none for a reranker."""
    if header.pooling is not None:
        return [] if header.pooling == "rank" else ["embedding"]
    return ["completion", "tools", *(name for name, present in optional.items() if present)]


def find(service: Service, name: str) -> InstalledModel:
    """The model with this name, loaded or not."""
    if service.is_loaded(name):
        return service.files(name)
    if preset := find_preset(name):
        return preset_files(preset)
    ref = parse_ref(name)
    if ref.kind == "path":
        raise NotFound(f"there is no model {name!r:.100} on this machine", "model")
    return next((model for model in service.installed_files() if model.ref == ref), None) or installed.find(ref)


def _model(name: str, model: InstalledModel) -> schema.Model:
    summary = installed.summarize(model)
    return schema.Model(
        name, name, _time(summary.modified_at), model.size, _digest(model.weights[0]), _family_details(summary)
    )


def _family_details(summary: ModelSummary) -> schema.Details:
    families = [summary.architecture, *["clip"] * (summary.vision or summary.audio)]
    return schema.Details(summary.architecture, families, _rounded(summary.parameters), summary.quant.upper())


def _rounded(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.2f}{unit}"
    return str(parameters)


def _metadata(header: GGUFHeader, summary: ModelSummary) -> dict[str, Any]:
    """The header's keys; long lists and texts are null, as in Ollama."""
    metadata: dict[str, Any] = {"general.parameter_count": summary.parameters}
    for key, value in header.metadata.items():
        is_long = isinstance(value, ArrayInfo | tuple) and key.startswith("tokenizer.")
        if key != "tokenizer.chat_template":
            metadata[key] = None if is_long or isinstance(value, ArrayInfo) else value
    return metadata


def _digest(path: Path) -> str:
    """The published SHA-256 digest, if the file has it as its name; else a digest that changes when the file does."""
    name = path.resolve().name.removeprefix("sha256-")
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return name
    stat = path.stat()
    return hashlib.sha256(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
