"""Lets llama.cpp's own converter work, from sources that the user has, for what is not known here.

It needs PyTorch and transformers, in an environment that the user chooses: the sources' own `.venv`, else the one that
runs Galago. What it writes is read, and gets its name, like every other file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ...models.errors import ConfigError, ModelError
from ...models.gguf.reader import read_header
from ...runtime.process import spawn
from .checkpoint import no_weights
from .convert import Converted, Report, check_target, publishing
from .lora import is_adapter
from .selftest import Tried
from .writing import Type

PROGRAM, ADAPTERS = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"

_LAST = 3  # lines of its complaint that are passed on


def convert_with(
    sources: Path,
    folder: Path,
    base: Path | None,
    target: Path,
    kind: Type,
    force: bool,
    projector: bool,
    report: Report,
) -> Converted:
    """Converts the checkpoint or adapter in `folder`, or the projector of the checkpoint.

    Takes as much memory as that converter does. Raises `ConfigError` where `sources` are none, `ModelError` where the
    converter fails or writes no GGUF file, with what it said.
    """
    check_target(target, force)
    program = sources / (ADAPTERS if is_adapter(folder) else PROGRAM)
    if not program.is_file():
        raise ConfigError(f"{sources} holds no {program.name}; name the folder of llama.cpp's sources", "converter")
    if not any(folder.glob("*.safetensors")):
        raise no_weights(folder)
    own = sources / ".venv" / "bin" / "python"
    command = [str(own if own.is_file() else sys.executable), str(program), str(folder.resolve())]
    command += ["--outtype", kind.title, *(["--mmproj"] if projector else [])]
    command += ["--base", str(base.resolve())] if base and program.name == ADAPTERS else []
    report("converting", 0.0)
    with publishing(target, force) as part, tempfile.TemporaryDirectory(".part", ".", target.parent) as place:
        command += ["--outfile", str((Path(place) / "made.gguf").resolve())]
        done = spawn.run_program(command)
        _check(done, program.name)
        written = list(Path(place).glob("*.gguf"))  # a projector's name gets mmproj- in front
        if len(written) != 1:
            raise ModelError(f"{program.name} ended without an error and wrote {len(written)} files", "converter")
        written[0].replace(part)
        header = read_header(part)
    report("trying", 1.0)
    architecture = str(header.metadata.get("general.architecture"))
    return Converted(target, architecture, len(header.tensors), header.file_size, (), Tried())


def _check(done: spawn.ChildResult, name: str) -> None:
    if done.ok:
        return
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    said = " | ".join(lines[-_LAST:]) or "nothing"
    if "ModuleNotFoundError" in said:
        said += " (it runs in the .venv of its folder, where there is one: install its requirements there)"
    raise ModelError(f"{name} {done.ending}; it said: {said}", "converter")
