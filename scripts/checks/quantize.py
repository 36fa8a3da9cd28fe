"""Compares importance matrices and quantized files with those of llama.cpp, tensor by tensor.

    scripts/check quantize [--data FILE] [--model FILE]

Builds llama-quantize and llama-imatrix first. Both sides calibrate on the same text and quantize to the same schemes.
Exits with 1 if a tensor of an importance matrix differs by more than 1 %, or if a quantized file differs in a tensor's
type or bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from benchmarks import llama_cpp_build
from galago.models.registry.resolve import builtin_folder
from galago.quantize.calibrate import calibration, imatrix, samples
from galago.quantize.calibrate.imatrix import ImportanceMatrix
from galago.quantize.variants import variant
from galago.quantize.variants.schemes import find
from galago.quantize.variants.source import SourceModel, open_source

SCHEMES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "IQ2_XS")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(builtin_folder() / "text-F16.gguf"))
    parser.add_argument("--data", type=Path, help="calibration text  [default: the built-in one]")
    parser.add_argument("--chunks", type=int, default=8)
    given = parser.parse_args(arguments)
    programs = llama_cpp_build.build("llama-quantize", "llama-imatrix")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = given.data or folder / "text.txt"
        if given.data is None:
            text.write_text(samples.builtin_text(), encoding="utf-8")
        source = open_source(given.model)
        ours = calibration.collect(
            calibration.select_data(source, None, [text], max_segments=given.chunks), folder / "ours.part"
        )
        theirs = folder / "theirs.gguf"
        run(programs / "llama-imatrix", "-m", source.path, "-f", text, "-o", theirs, "--no-ppl", "-ngl", 0,
            "-c", calibration.CHUNK_TOKENS, "-b", calibration.CHUNK_TOKENS, "--chunks", given.chunks)  # fmt: skip
        difference = largest_difference(ours, imatrix.read(theirs))
        print(f"importance matrix: {len(ours.entries)} tensors, {difference:.2e} is the largest relative difference")
        shared = folder / "shared.gguf"
        imatrix.write(shared, ours)
        same = [compare(source, scheme, imatrix.read(shared), programs, folder, shared) for scheme in SCHEMES]
    return 0 if difference < 0.01 and all(same) else 1


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-2000:]}")


def largest_difference(ours: ImportanceMatrix, theirs: ImportanceMatrix) -> float:
    """Largest relative distance between the sums of a tensor, over all tensors."""
    if set(ours.entries) != set(theirs.entries):
        sys.exit(f"the matrices contain different tensors: {set(ours.entries) ^ set(theirs.entries)}")
    pairs = [(ours.entries[name], theirs.entries[name]) for name in ours.entries]
    assert all((a.counts == b.counts).all() for a, b in pairs)
    return max(float(np.linalg.norm(a.sums - b.sums) / np.linalg.norm(b.sums)) for a, b in pairs)


def compare(
    source: SourceModel, name: str, matrix: ImportanceMatrix, programs: Path, folder: Path, shared: Path
) -> bool:
    ours, theirs = folder / "ours.gguf", folder / "theirs-quantized.gguf"
    variant.write(variant.plan(source, variant.Recipe(find(name), matrix=matrix)), ours, force=True)
    run(programs / "llama-quantize", "--imatrix", shared, source.path, theirs, name)
    same = tensors(ours) == tensors(theirs)
    print(f"{name}: {'identical' if same else 'different'}", flush=True)
    return same


def tensors(path: Path) -> dict[str, tuple[int, bytes]]:
    return {tensor.name: (int(tensor.tensor_type), tensor.data.tobytes()) for tensor in gguf.GGUFReader(path).tensors}
