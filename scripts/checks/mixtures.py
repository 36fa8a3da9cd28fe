"""Compares mixed quantizations with llama.cpp's own files of the same size.

    scripts/check mixtures MODEL --learn FILE --judge FILE... [--effort NAME] [--like NAME...] [--out DIR]

Both sides calibrate on the `--learn` data; Galago also searches its mixtures on a part of it. Both are compared on the
`--judge` data. llama-imatrix computes llama.cpp's importance matrix from text. It cannot read chats with images and
audio; for those, Galago computes the matrix. Prints the predicted and the measured divergence of each mixture on the
search data, then the divergences on the `--judge` data and their ratio with its interval.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import llama_cpp_build
from galago.quantize.calibrate import calibration, imatrix
from galago.quantize.variants.source import SourceModel, open_source, projector_of

from .quantize import run
from .variants import compared, divergences

SIZES = ("Q4_K_M", "Q5_K_M", "Q6_K")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--learn", type=Path, required=True)
    parser.add_argument("--judge", type=Path, action="append", required=True)
    parser.add_argument("--effort", default="thorough")
    parser.add_argument("--like", action="append", help=f"[default: {', '.join(SIZES)}]")
    parser.add_argument("--units", type=int, default=100, help="text chunks to compare on; four times as many chats")
    parser.add_argument("--out", type=Path, help="keep the files in this folder")
    given = parser.parse_args(arguments)
    programs = llama_cpp_build.build("llama-quantize", "llama-imatrix")
    with tempfile.TemporaryDirectory() as name:
        folder = given.out or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        source, projector = open_source(given.model), projector_of(given.model)
        matrix = llama_cpp_matrix(programs, source, projector, given.learn, folder)
        for scheme in given.like or SIZES:
            reference, mixture = folder / f"llama.cpp-{scheme}.gguf", folder / f"mixture-{scheme}.gguf"
            run(programs / "llama-quantize", "--imatrix", matrix, source.path, reference, scheme)
            result = quantize_mixture(given.model, scheme, given.effort, given.learn, mixture)
            measured = sum(result["divergence"]["measured"].values()) / len(result["divergence"]["measured"])
            predicted = result["divergence"]["predicted"]
            print(f"{scheme}: {mixture.stat().st_size} bytes, llama.cpp {reference.stat().st_size}; predicted "
                  f"{predicted:.6f}, measured {measured:.6f} ({predicted / measured - 1:+.1%})")  # fmt: skip
            for data in given.judge:
                measured_units = divergences(given.model, projector, [mixture, reference], [data], given.units)
                print("\n".join([f"  on {data.name}", *(f"  {line}" for line in compared(measured_units))]), flush=True)
    return 0


def llama_cpp_matrix(programs: Path, source: SourceModel, projector: Path | None, learn: Path, folder: Path) -> Path:
    path = folder / "llama.cpp.imatrix.gguf"
    if learn.suffix == ".txt":
        run(programs / "llama-imatrix", "-m", source.path, "-f", learn, "-o", path, "--no-ppl", "-ngl", 0,
            "-c", calibration.CHUNK_TOKENS, "-b", calibration.CHUNK_TOKENS)  # fmt: skip
    else:
        imatrix.write(
            path, calibration.collect(calibration.select_data(source, projector, [learn]), folder / "llama.cpp.part")
        )
    return path


def quantize_mixture(model: str, scheme: str, effort: str, learn: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "quantize", model, "--like", scheme, "--effort", effort,
               "--calibration", str(learn), "-o", str(out), "--force", "--json"]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))
