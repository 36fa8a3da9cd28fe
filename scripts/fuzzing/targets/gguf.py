"""Headers of GGUF files with arbitrary metadata, for the reader, `show`, `list`, `fit` and pairing."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fakes import crafted
from fakes.crafted import Model, Tensor, Value
from galago.models.capacity import memory, throughput
from galago.models.capacity.throughput import MachineBenchmark, WeightTypeSpeed
from galago.models.errors import GalagoError
from galago.models.gguf.header import GGML_TYPES, GGUFHeader
from galago.models.gguf.kind import header_kind
from galago.models.gguf.reader import read_header
from galago.models.registry import pairing
from galago.models.registry.installed import InstalledModel, summarize
from galago.models.registry.name import ModelRef
from galago.models.registry.resolve import builtin_folder, resolve
from galago.runtime.cli import show
from galago.runtime.config import ModelConfig
from galago.runtime.pool.budget import plan_load
from galago.runtime.types.placement import Device, LlamaBuild

from ..target import Target

_FILES = ("text-Q8_0.gguf", "mmproj-Q8_0.gguf")
_HOLE_BYTES = 5 << 20
_GPU = Device("gpu", "a GPU", "GPU", 8 << 30, 8 << 30)
_BUILDS = (LlamaBuild(frozenset({"AVX2", "REPACK"})), LlamaBuild(gpu_backends=("CUDA",), gpus=(_GPU,)))
_SPEED = WeightTypeSpeed(1e9, 1e9, 1e-9)
_BENCHMARK = MachineBenchmark(1, 1e-5, 1e-5, 1e-9, 1e-9, 1e-9, 1e-9, {t: _SPEED for t, _, _ in GGML_TYPES.values()})


@functools.cache
def _original(name: str) -> Model:
    """A good file, with a hole in place of its weights."""
    return crafted.read(builtin_folder() / name).having(data=b"")


def _whole(kind: int) -> st.SearchStrategy[Value]:
    code = crafted.CODES[kind]
    bits = {"b": 8, "h": 16, "i": 32, "q": 64}[code.lower()]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if code.islower() else (0, (1 << bits) - 1)
    return st.integers(low, high).map(lambda number: Value(kind, number))


def _scalars() -> st.SearchStrategy[Value]:
    texts = st.one_of(st.binary(max_size=12), st.sampled_from([b"llama", b"clip", b"mmproj", b"bert", b"imatrix"]))
    return st.one_of(
        *map(_whole, (0, 1, 2, 3, 4, 5, 10, 11)),
        st.sampled_from([0, 1, 2, 3, 255, 256, 512, 513, 65536, 2**31, 2**32 - 1]).map(lambda n: Value(4, n)),
        st.floats(width=32).map(lambda number: Value(6, number)),
        st.booleans().map(lambda flag: Value(7, flag)),
        texts.map(lambda text: Value(8, text)),
    )


def _values() -> st.SearchStrategy[Value]:
    arrays = st.tuples(_scalars(), st.integers(0, 80)).map(
        lambda pair: Value(crafted.ARRAY, [pair[0].content] * pair[1], pair[0].kind)
    )
    return st.one_of(_scalars(), arrays)


def _tensors() -> st.SearchStrategy[Tensor]:
    sizes = st.one_of(st.sampled_from([0, 1, 2, 32, 256, 512, 2**31, 2**62]), st.integers(0, 600))
    return st.builds(
        Tensor,
        st.lists(sizes, max_size=5).map(tuple),
        st.one_of(st.integers(0, 45), st.integers(0, 2**32 - 1)),
        st.sampled_from([0, 32, 64, 1024, 1 << 20, 1 << 40, 7]),
    )


@st.composite
def _models(draw: st.DrawFn) -> tuple[str, dict[str, Value | None], dict[str, Tensor | None], bytes]:
    """A file's name; values of keys and tensors that replace its own, `None` for none; and bytes put at its start."""
    name = draw(st.sampled_from(_FILES))
    model = _original(name)
    extra = ["general.alignment", "split.count", "llama.attention.key_length", "llama.expert_count", "general.license",
             "llama.expert_used_count", "llama.ssm.state_size", "llama.pooling_type", "general.type"]  # fmt: skip
    keys = st.sampled_from([*model.keys, *extra])
    changes = draw(st.dictionaries(keys, st.one_of(st.none(), _values()), max_size=5))
    names = st.sampled_from([*model.tensors, "output.weight", "blk.999999.attn_q.weight", ""])
    tensors = draw(st.dictionaries(names, st.one_of(st.none(), _tensors()), max_size=2))
    return name, changes, tensors, draw(st.one_of(st.just(b""), st.binary(max_size=40)))


def _check(value: Any) -> None:
    name, keys, tensors, start = value
    model = _original(name)
    merged_keys = {key: each for key, each in {**model.keys, **keys}.items() if each is not None}
    merged_tensors = {key: each for key, each in {**model.tensors, **tensors}.items() if each is not None}
    with tempfile.TemporaryDirectory() as folder:
        path = model.having(keys=merged_keys, tensors=merged_tensors).write(Path(folder) / "model.gguf")
        with path.open("r+b") as file:
            file.write(start)
            file.truncate(file.seek(0, 2) + _HOLE_BYTES)
        for use in (_show, _list, _fit, _pair):
            try:
                use(path)
            except GalagoError as error:
                assert len(error.message) < 2000, error.message


def _show(path: Path) -> None:
    show._lines(show._file(path))


def _list(path: Path) -> None:
    summarize(InstalledModel(ModelRef("path", str(path)), (path,), None, "folder"))


def _fit(path: Path) -> None:
    header = read_header(path)
    files = resolve("builtin", path) if header.is_projector else resolve(path)
    projector = header if header.is_projector else None
    for build in _BUILDS:
        plan_load(files, ModelConfig(memory=4 << 30), build)
    memory.estimate_caveats(files.header, projector)
    throughput.estimate_speed(files.header, _BENCHMARK, 1024)
    if projector is not None:
        throughput.encoding_seconds(projector, _BENCHMARK, "image", 100)
        throughput.encoding_seconds(projector, _BENCHMARK, "audio", 100)


def _pair(path: Path) -> None:
    header = read_header(path)
    header_kind(header)
    pairing.check_parts(header, (path,))
    pairing.dominant_type(header)
    for other in _FILES:
        good = _header(other)
        pairing.projector_mismatch(header.metadata, good.metadata)
        pairing.pick_projector(good, [header])


@functools.cache
def _header(name: str) -> GGUFHeader:
    return read_header(builtin_folder() / name)


TARGET = Target(
    inputs=_models(),
    check=_check,
    seeds=(
        ("text-Q8_0.gguf", {"llama.context_length": Value(crafted.UINT64, 1 << 63)}, {}, b""),
        ("text-Q8_0.gguf", {}, {name: None for name in list(_original("text-Q8_0.gguf").tensors)[1:]}
         | {"token_embd.weight": Tensor((32, 32), 99, 0)}, b""),
    ),
)  # fmt: skip
