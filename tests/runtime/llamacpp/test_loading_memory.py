"""Memory that is not needed after loading is released, and its content does not change."""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from galago.models.registry.resolve import resolve
from galago.quantize.variants.schemes import find
from galago.runtime.config import ModelConfig
from galago.runtime.llamacpp.context import BATCH, Context
from galago.runtime.llamacpp.memory import release_file_pages, zero_pages_released
from galago.runtime.llamacpp.quantizer import quantize
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.placement import LoadPlan
from galago.runtime.types.prompt import BatchToken
from galago.runtime.worker.supervisor import WorkerSupervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and only Linux gives memory back")

MIB = 1 << 20
CELLS, LONG = 2048, 65536
KEYS_AND_VALUES = 6 * MIB
"""Of the first number of cells, with the built-in model."""


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    loaded = Weights(resolve("builtin").weights)
    yield loaded
    loaded.close()


def private_bytes() -> int:
    """Bytes that only this process holds."""
    return int(psutil.Process().memory_full_info().uss)


def bytes_measured_in_a_child(measure: Callable[[], None]) -> tuple[int, ...]:
    """What `measure`, a function of this module, prints. Other tests' threads free memory here while it measures."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import test_loading_memory as m; m.{measure.__name__}()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))


def resident(path: Path) -> int:
    return sum(m.rss for m in psutil.Process().memory_maps() if m.path == str(path))


def test_repacked_weights_are_held_once(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    quantize(resolve("builtin").weights, target, find("Q4_0").ftype)
    loaded = Weights(target, gpu_layers=0)
    assert resident(target) < target.stat().st_size / 4
    loaded.close()


def test_a_context_takes_memory_as_it_fills_up() -> None:
    empty, full = bytes_measured_in_a_child(fill)
    assert empty < KEYS_AND_VALUES / 2 < KEYS_AND_VALUES < full


def fill() -> None:
    """Prints how many bytes a context takes when it is new, and when it is full."""
    loaded = Weights(resolve("builtin").weights)
    before = private_bytes()
    with zero_pages_released():
        context = Context(loaded, CELLS, 1, 1)
    empty = private_bytes() - before
    for begin in range(0, CELLS, BATCH):
        context.decode([BatchToken(5, begin + i, 0, False) for i in range(BATCH)])
    print(empty, private_bytes() - before)
    context.close()
    loaded.close()


def test_released_pages_change_no_logits(weights: Weights) -> None:
    def logits(made: AbstractContextManager[None]) -> bytes:
        with made:
            context = Context(weights, CELLS, 2, 1)
        context.decode([BatchToken(7 + i, i // 2, i % 2, i > 28) for i in range(30)])
        found = context.logits(29).tobytes()
        context.close()
        return found

    assert logits(zero_pages_released()) == logits(nullcontext())


def test_a_worker_holds_no_memory_for_unused_context(tmp_path: Path) -> None:
    """Its context of 200 MB is 32 times as long as the model was trained for."""
    key = b"llama.context_length" + struct.pack("<I", 4)  # a whole number of 32 bits
    data = resolve("builtin").weights.read_bytes()
    assert key + struct.pack("<I", CELLS) in data
    (tmp_path / "long.gguf").write_bytes(data.replace(key + struct.pack("<I", CELLS), key + struct.pack("<I", LONG)))
    files = replace(resolve(tmp_path / "long.gguf"), trusted=True)
    with closing(WorkerSupervisor(files, lambda: LoadPlan(ModelConfig(LONG, threads=1, slots=1)))) as worker:
        assert worker.info.context_length == LONG
        assert psutil.Process(worker._worker._process.pid).memory_full_info().uss < LONG // CELLS * KEYS_AND_VALUES / 2


def test_nonzero_memory_is_kept() -> None:
    filled, left = bytes_measured_in_a_child(write_among_zeros)
    assert left < filled / 4


def write_among_zeros() -> None:
    """Prints how many bytes a large allocation takes before and after its zeros are released; checks its content."""
    rng = random.Random(3)
    allocate = ctypes.CDLL(None).aligned_alloc
    allocate.restype = ctypes.c_void_p
    size, before = 64 * MIB + 64, private_bytes()
    with zero_pages_released():
        address = allocate(ctypes.c_size_t(64), ctypes.c_size_t(size))
        ctypes.memset(address, 0, size)
        places = [0, size - 1, *rng.choices(range(size), k=100)]
        for place in places:
            ctypes.c_ubyte.from_address(address + place).value = 1 + place % 255
        filled = private_bytes() - before
    print(filled, private_bytes() - before)
    found = ctypes.string_at(address, size)
    assert found.count(0) == size - len(set(places))
    assert all(found[place] == 1 + place % 255 for place in places)
    ctypes.CDLL(None).free(ctypes.c_void_p(address))


def test_released_file_pages_come_back_when_read(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(data := random.Random(1).randbytes(8 * MIB))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == data and resident(path) == len(data)
        release_file_pages(path)
        assert resident(path) == 0
        assert mapped[:] == data
