"""Compares mixtures with files of the same size that llama.cpp's own programs make of the same model.

    scripts/check-mixtures MODEL --learn FILE --judge FILE... [--effort NAME] [--like NAME...] [--out DIR]

`--learn` calibrates both sides, and the mixtures are searched on a part of it; what all are judged on is neither. Where
it is text, llama-imatrix makes the rivals' importance matrix, of all of it; of chats with pictures and sounds, which it
cannot read, ours does, of all of them too. Prints what each mixture was predicted and measured to lose where it was
searched, then the divergences where it is judged and their ratio with its interval.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from check_quantize import run
from compare_variants import compared, divergences

from galago.quantize.calibrate import imatrix
from galago.quantize.calibrate import run as calibration
from galago.quantize.variants import plan

SIZES = ("Q4_K_M", "Q5_K_M", "Q6_K")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("programs", type=Path, help="the folder of llama-quantize and llama-imatrix")
    parser.add_argument("model")
    parser.add_argument("--learn", type=Path, required=True)
    parser.add_argument("--judge", type=Path, action="append", required=True)
    parser.add_argument("--effort", default="thorough")
    parser.add_argument("--like", action="append", help=f"[default: {', '.join(SIZES)}]")
    parser.add_argument("--units", type=int, default=100, help="stretches judged on, and four times as many chats")
    parser.add_argument("--out", type=Path, help="keeps the files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.out or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        source, eyes = plan.open_source(given.model), plan.projector_of(given.model)
        matrix = rivals_matrix(given.programs, source, eyes, given.learn, folder)
        for scheme in given.like or SIZES:
            rival, mixture = folder / f"llama.cpp-{scheme}.gguf", folder / f"mixture-{scheme}.gguf"
            run(given.programs / "llama-quantize", "--imatrix", matrix, source.path, rival, scheme)
            told = searched(given.model, scheme, given.effort, given.learn, mixture)
            measured = sum(told["divergence"]["measured"].values()) / len(told["divergence"]["measured"])
            predicted = told["divergence"]["predicted"]
            print(f"{scheme}: {mixture.stat().st_size} bytes, the rival {rival.stat().st_size}; predicted "
                  f"{predicted:.6f}, measured {measured:.6f} ({predicted / measured - 1:+.1%})")  # fmt: skip
            for data in given.judge:
                found = divergences(given.model, eyes, [mixture, rival], [data], given.units)
                print("\n".join([f"  judged on {data.name}", *(f"  {line}" for line in compared(found))]), flush=True)


def rivals_matrix(programs: Path, source: plan.Source, eyes: Path | None, learn: Path, folder: Path) -> Path:
    path = folder / "rivals.imatrix.gguf"
    if learn.suffix == ".txt":
        run(programs / "llama-imatrix", "-m", source.path, "-f", learn, "-o", path, "--no-ppl", "-ngl", 0,
            "-c", calibration.CHUNK, "-b", calibration.CHUNK)  # fmt: skip
    else:
        imatrix.write(path, calibration.collect(calibration.data(source, eyes, [learn]), folder / "rivals.part"))
    return path


def searched(model: str, scheme: str, effort: str, learn: Path, out: Path) -> dict[str, dict[str, dict[str, float]]]:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "quantize", model, "--like", scheme, "--effort", effort,
               "--calibration", str(learn), "-o", str(out), "--force", "--json"]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
