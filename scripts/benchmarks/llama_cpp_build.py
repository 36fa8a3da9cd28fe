"""Builds llama.cpp's own programs from the source that the locked llama-cpp-python vendors.

The build uses the flags of `scripts/bootstrap`, so that Galago and the programs run the same kernels, but with OpenMP,
as in llama.cpp's own releases. Needs cmake and a C++ compiler. The first build takes about 6 minutes on 2 cores.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "peer"
PROGRAMS = FOLDER / "build" / "bin"
SOURCE = FOLDER / "src" / "vendor" / "llama.cpp"
_STAMP = FOLDER / "made-from"
"""Holds the version and the flags of the last build."""
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
)


def build(*targets: str) -> Path:
    """Builds the targets that are not up to date; returns the folder of the programs."""
    version = _locked_version()
    flags = shlex.split(_run(str(ROOT / "scripts/bootstrap"), "--print-cmake-args"))
    flags = [flag for flag in flags if flag != "-DGGML_OPENMP=OFF"]
    configuration = shlex.join([version, *flags])
    configured = _STAMP.read_text().strip() if _STAMP.exists() else ""
    if configured == configuration and all((PROGRAMS / target).exists() for target in targets):
        return PROGRAMS
    fetch_source()
    _say(f"building {', '.join(targets)} in {FOLDER}")
    if configured != configuration:  # CMake remembers options that have been removed
        shutil.rmtree(FOLDER / "build", ignore_errors=True)
        _STAMP.unlink(missing_ok=True)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    folder = str(FOLDER / "build")
    _show("cmake", "-S", str(SOURCE), "-B", folder, *generator, *_OPTIONS, *flags)
    _STAMP.write_text(configuration + "\n")
    _show("cmake", "--build", folder, "-j", str(os.cpu_count() or 1), "--target", *targets)
    return PROGRAMS


def _locked_version() -> str:
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines():
        name, _, version = line.partition("==")
        if name == "llama-cpp-python":
            return version.partition(";")[0].strip()
    raise SystemExit("requirements.lock has no llama-cpp-python==... line; run scripts/lock")


def fetch_source() -> None:
    """Downloads llama.cpp's source as the locked llama-cpp-python vendors it, unless it is there."""
    version = _locked_version()
    FOLDER.mkdir(parents=True, exist_ok=True)
    stamp = FOLDER / "src" / ".version"
    if stamp.exists() and stamp.read_text().strip() == version:
        return
    _say(f"fetching the source of llama-cpp-python {version}")
    downloads, source = FOLDER / "sdist", FOLDER / "src"
    for folder in (downloads, source):
        shutil.rmtree(folder, ignore_errors=True)
    pip = ("-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-d", str(downloads))
    _show(sys.executable, *pip, f"llama-cpp-python=={version}")
    unpacked = FOLDER / "unpacked"
    with tarfile.open(next(downloads.glob("*.tar.gz"))) as archive:
        archive.extractall(unpacked, filter="data")
    next(unpacked.iterdir()).rename(source)
    unpacked.rmdir()
    stamp.write_text(version + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _show(*command: str) -> None:
    """Runs a command whose output goes to standard error."""
    subprocess.run(command, check=True, stdout=sys.stderr)
