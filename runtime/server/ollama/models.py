"""What Ollama's API tells of models on this disk. Reads headers; knows no HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ....models.errors import ModelError, NotFound
from ....models.gguf.header import ArrayInfo, GGUFHeader
from ....models.gguf.reader import read_header
from ....models.registry import installed
from ....models.registry.installed import InstalledModel, ModelSummary
from ....models.registry.name import parse_ref
from ...output.reasoning import tags_of
from ...service import Service
from ...types.options import SAMPLING
from . import schema

_NEVER = "9999-12-31T23:59:59Z"
_RECOMMENDED = {option.gguf: option.name for option in SAMPLING if option.gguf}


def tags(service: Service) -> Iterator[schema.Model]:
    """All models on this disk, the one that is loaded first."""
    yield _model(service.model_id, service.served())
    for model in service.others():
        with contextlib.suppress(ModelError):
            yield _model(str(model.ref), model)


def running(service: Service) -> Iterator[schema.Model]:
    """The models that are loaded, with the memory they take."""
    memory = dict(service.stats())
    for info in service.models():
        model = _model(info.id, service.served())
        model.expires_at, model.context_length = _NEVER, info.context_length
        model.size = memory[info.id].memory_bytes or model.size
        yield model


def shown(service: Service, name: str) -> schema.Shown:
    """Raises `NotFound` where there is no such model here."""
    model = find(service, name)
    facts, header = installed.summarize(model), read_header(model.weights[0])
    thinks = header.chat_template is not None and tags_of(header.chat_template) is not None
    senses = {"vision": facts.vision, "audio": facts.audio, "thinking": thinks}
    recommended = {told: header.get(f"general.sampling.{key}") for key, told in _RECOMMENDED.items()}
    return schema.Shown(
        modelfile=f"FROM {name}\n",
        parameters="\n".join(f"{key} {value}" for key, value in recommended.items() if value is not None),
        template=header.chat_template or "",
        license=facts.licence,
        details=_details(facts),
        model_info=_metadata(header, facts),
        capabilities=_capabilities(header, senses),
        modified_at=_time(facts.modified_at),
    )


def _capabilities(header: GGUFHeader, senses: dict[str, bool]) -> list[str]:
    """In Ollama's words, which knows none for a model that ranks."""
    if header.pooling is not None:
        return [] if header.pooling == "rank" else ["embedding"]
    return ["completion", "tools", *(sense for sense, present in senses.items() if present)]


def find(service: Service, name: str) -> InstalledModel:
    """The model of a name, loaded or not."""
    if service.serves(name):
        return service.served()
    ref = parse_ref(name)
    if ref.kind == "path":
        raise NotFound(f"there is no model {name!r:.100} here", "model")
    return next((model for model in service.others() if model.ref == ref), None) or installed.find(ref)


def _model(name: str, model: InstalledModel) -> schema.Model:
    facts = installed.summarize(model)
    return schema.Model(name, name, _time(facts.modified_at), model.size, _digest(model.weights[0]), _details(facts))


def _details(facts: ModelSummary) -> schema.Details:
    families = [facts.architecture, *["clip"] * (facts.vision or facts.audio)]
    return schema.Details(facts.architecture, families, _rounded(facts.parameters), facts.quant.upper())


def _rounded(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.2f}{unit}"
    return str(parameters)


def _metadata(header: GGUFHeader, facts: ModelSummary) -> dict[str, Any]:
    """The header's keys; long lists and texts are null, as in Ollama."""
    told: dict[str, Any] = {"general.parameter_count": facts.parameters}
    for key, value in header.metadata.items():
        listed = isinstance(value, ArrayInfo | tuple) and key.startswith("tokenizer.")
        if key != "tokenizer.chat_template":
            told[key] = None if listed or isinstance(value, ArrayInfo) else value
    return told


def _digest(path: Path) -> str:
    """The published digest of a file that has one in its name; of others, one that changes when they do."""
    name = path.resolve().name.removeprefix("sha256-")
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return name
    stat = path.stat()
    return hashlib.sha256(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
