"""Runs llama.cpp's own converter, from sources that the user provides, for models that Galago cannot convert.

It needs PyTorch and transformers in a Python environment: the sources' own `.venv`, otherwise the one that runs Galago.
Its output is checked and published like any other converted file.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from ...models.errors import ConfigError, ModelError
from ...models.gguf.reader import read_header
from ...models.kept_file import temporary_folder
from ...runtime.process import spawn
from ..output_file import check_target, output_file
from ..progress import Progress
from .conversion import ConversionResult, receipt
from .gguf_writer import FloatType, copy_with_metadata
from .lora import is_adapter
from .origin import snapshot_of
from .weight_files import no_weights_error

MODEL_CONVERTER, ADAPTER_CONVERTER = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"

_SHOWN_LINES = 3  # the last lines of the converter's output that an error quotes


def convert_with_llamacpp(
    sources: Path,
    folder: Path,
    base: Path | None,
    target: Path,
    float_type: FloatType,
    force: bool,
    projector: bool,
    progress: Progress,
) -> ConversionResult:
    """Converts the checkpoint or adapter in `folder`, or the checkpoint's projector.

    Takes as much memory as that converter. Raises `ConfigError` if `sources` are not llama.cpp's, and `ModelError`
    with the converter's message if it fails or writes no GGUF file.
    """
    check_target(target, force)
    folder = snapshot_of(folder)
    converter = sources / (ADAPTER_CONVERTER if is_adapter(folder) else MODEL_CONVERTER)
    if not converter.is_file():
        raise ConfigError(f"{sources} has no {converter.name}; give the folder of llama.cpp's sources", "converter")
    if not _weights(folder):
        raise no_weights_error(folder)
    own_python = sources / ".venv" / "bin" / "python"
    command = [str(own_python if own_python.is_file() else sys.executable), str(converter), str(folder.resolve())]
    command += ["--outtype", float_type.label, *(["--mmproj"] if projector else [])]
    command += ["--base", str(base.resolve())] if base and converter.name == ADAPTER_CONVERTER else []
    progress("converting", 0.0)
    with output_file(target, force) as part, temporary_folder(target.with_name("converter")) as folder_for_converter:
        command += ["--outfile", str((folder_for_converter / "made.gguf").resolve())]
        done = spawn.run_program(command)
        _check(done, converter.name)
        written = list(folder_for_converter.glob("*.gguf"))  # the converter prefixes a projector's name with mmproj-
        if len(written) != 1:
            raise ModelError(f"{converter.name} reported no error but wrote {len(written)} files", "converter")
        read_header(written[0])
        copy_with_metadata(written[0], part, receipt(folder, _weights(folder), (), partial(progress, "hashing")))
        header = read_header(part)
    progress("testing", 1.0)
    architecture = str(header.metadata.get("general.architecture"))
    return ConversionResult(target, architecture, len(header.tensors), header.file_size)


def _weights(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.safetensors")))


def _check(done: spawn.ChildResult, name: str) -> None:
    if done.ok:
        return
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    output = " | ".join(lines[-_SHOWN_LINES:]) or "nothing"
    if "ModuleNotFoundError" in output:
        output += " (it runs in the .venv of its folder if there is one: install its requirements there)"
    raise ModelError(f"{name} {done.ending}; it said: {output}", "converter")
