"""Checks GPU offloading with increasing amounts of free GPU memory: the plan, the memory used, and the speed.

Needs CUDA. Plain allocations occupy the rest of the memory, and each case runs in its own process.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from galago.models.capacity import gpu_offload
from galago.models.registry.resolve import resolve
from galago.runtime.config import ModelConfig
from galago.runtime.llamacpp.devices import gpus
from galago.runtime.pool.llama_build import installed_build
from galago.runtime.pool.placement import place
from galago.runtime.python_api import load

from .servers import Files, builtin, random_model

MIB = 1 << 20
CONTEXT, SLOTS = 8192, 4


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--free", type=int, nargs="+", default=[512, 700, 1024, 1536, 2048, 3072, 4096, 8192])
    parser.add_argument("--models", nargs="+", default=["135m", "smolvlm500m", "1b"], help="shapes, or builtin")
    parser.add_argument("--scheme", default="F16")


def main(options: argparse.Namespace) -> None:
    for model in options.models:
        files = (
            builtin()
            if model == "builtin"
            else random_model(model, options.scheme, with_projector=model == "smolvlm500m")
        )
        reserve = gpu_offload.GPU_RESERVE_BYTES // MIB
        print(f"{files.name}, {CONTEXT} tokens of context, {SLOTS} slots, and {reserve} MiB to stay free")
        before = -1
        for free in options.free:
            with _taken(free * MIB):
                result = _run(files)
            print(f"  {free:6} MiB free: {result['summary']}", flush=True)
            if result["layers"] < before:
                raise SystemExit("fewer layers than with less memory")
            before = result["layers"]


def _run(files: Files) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu", str(files.weights), str(files.projector or "")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _case(weights: str, projector: str) -> None:
    device = gpus()[0]  # this also creates the driver's context
    files = resolve(weights, projector or None)
    config = ModelConfig(CONTEXT, slots=SLOTS)
    placement = place(files, config, installed_build())
    before = gpus()[0].free_memory
    with load(weights, mmproj=projector or None, ctx=CONTEXT, slots=SLOTS) as model:
        model.chat("Say it again: " + "galago " * 600, max_tokens=16, ignore_eos=True)
        begin = time.perf_counter()
        model.chat("Hello", max_tokens=64, ignore_eos=True)
        rate = 64 / (time.perf_counter() - begin)
        after = gpus()[0].free_memory
    projector_note = " and the projector" if placement.projector else ""
    summary = (
        f"{placement.gpu_layers} layers{projector_note} take {(before - after) // MIB} MiB of {device.name}, "
        f"{after // MIB} MiB stay free, {rate:.0f} tokens/s"
    )
    print(json.dumps({"layers": placement.gpu_layers, "summary": summary}))


@contextmanager
def _taken(free: int) -> Iterator[None]:
    """Occupies the first GPU's memory except for `free` bytes."""
    cuda = ctypes.CDLL(ctypes.util.find_library("cudart") or "libcudart.so")
    available, total, memory = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    _checked(cuda.cudaMemGetInfo(ctypes.byref(available), ctypes.byref(total)))
    _checked(cuda.cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(available.value - free)))
    try:
        yield
    finally:
        _checked(cuda.cudaFree(memory))


def _checked(code: int) -> None:
    if code:
        raise SystemExit(f"CUDA error {code}")


if __name__ == "__main__":
    _case(*sys.argv[1:])
