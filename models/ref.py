"""What MODEL means on a command line or in `load`: the built-in model, or a path to a GGUF file.

Checks headers, which are untrusted, before llama.cpp sees the file: it ends the process on some malformed ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .errors import ConfigError, ModelError, NotFound
from .gguf import Header, read_header

BUILTIN = "builtin"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk: its name in the API, its weights, and the projector that gives it eyes or ears.

    `trusted` files came with Galago; any other may be damaged or malicious.
    """

    id: str
    weights: Path
    header: Header
    projector: Path | None
    trusted: bool = False


def resolve(model: str | Path, projector: str | Path | None = None, name: str | None = None) -> ModelFiles:
    """Finds and checks a model's files. Raises `NotFound` or `ModelError` with what to do about it."""
    trusted = str(model) == BUILTIN and projector is None
    if str(model) == BUILTIN:
        folder = builtin_folder()
        weights = folder / "text-Q8_0.gguf"
        projector = projector or folder / "mmproj-Q8_0.gguf"
    else:
        weights = Path(model).expanduser()
        if not weights.exists():
            raise NotFound(f"there is no model {model}: give `{BUILTIN}` or the path of a GGUF file", "model")
    header = read_header(weights)
    eyes = Path(projector).expanduser() if projector else None
    if header.is_projector:
        raise ModelError(f"{weights.name} is a projector, not a model: pass it as --mmproj beside its model", "model")
    if eyes is not None:
        if not eyes.exists():
            raise NotFound(f"there is no projector {eyes}", "mmproj")
        if not read_header(eyes).is_projector:
            raise ModelError(f"{eyes.name} is not a projector (its general.type is not mmproj)", "mmproj")
    if name == "":
        raise ConfigError("a model's name cannot be empty", "name")
    own = BUILTIN if str(model) == BUILTIN else weights.stem
    return ModelFiles(name or own, weights, header, eyes, trusted)


def builtin_folder() -> Path:
    """Where the weights, samples and held-out questions are that ship with Galago."""
    return Path(str(resources.files("galago.models.builtin")))
