"""Reading GGUF headers: good ones are read correctly, bad ones raise GGUFError."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import galago.models
from fakes.gguf_writing import write_and_close
from galago.models.errors import GGUFError
from galago.models.gguf.header import GGML_TYPES, ArrayInfo, GGUFHeader
from galago.models.gguf.reader import MAX_HEADER_BYTES, MAX_STORED_ARRAY, read_header

BUILTIN = Path(galago.models.__path__[0]) / "builtin"
LARGE = 1 << 62
ANY_FILE = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def element(kind: int, value: object) -> bytes:
    return text(value) if isinstance(value, str) else struct.pack("<" + CODES[kind], value)


def key(name: str | bytes, kind: int, value: object) -> bytes:
    return text(name) + u32(kind) + element(kind, value)


def array(name: str, kind: int, values: Sequence[object], count: int | None = None) -> bytes:
    head = text(name) + u32(9) + u32(kind) + u64(len(values) if count is None else count)
    return head + b"".join(element(kind, value) for value in values)


def tensor(name: str | bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + u32(len(shape)) + b"".join(u64(n) for n in shape) + u32(kind) + u64(offset)


ARCH = key("general.architecture", 8, "llama")


@dataclass
class Crafted:
    """A GGUF file of which each part may be wrong."""

    keys: list[bytes] = field(default_factory=lambda: [ARCH])
    tensors: list[bytes] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    key_count: int | None = None
    tensor_count: int | None = None

    def bytes(self) -> bytes:
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        key_count = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + u32(self.version) + u64(tensor_count) + u64(key_count)
        head += b"".join(self.keys) + b"".join(self.tensors)
        return head + b"\0" * (-len(head) % 32 if self.tensors else 0) + self.data


def read_bytes(folder: Path, data: bytes) -> GGUFHeader:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return read_header(path)


def rejected(folder: Path, data: bytes) -> str:
    with pytest.raises(GGUFError) as caught:
        read_bytes(folder, data)
    assert caught.value.param == str(folder / "model.gguf")
    assert caught.value.message.startswith(("model.gguf: ", "model.gguf is "))
    return caught.value.message


# Good files


def test_the_builtin_text_model() -> None:
    header = read_header(BUILTIN / "text-Q8_0.gguf")
    told = (header.version, header.architecture, header.name, header.is_projector)
    assert told == (3, "llama", "galago-builtin", False)
    assert (header.context_length, header.embedding_length) == (2048, 256)
    assert header.chat_template is not None and "<|im_start|>" in header.chat_template
    assert header.get("tokenizer.ggml.tokens", None) == ArrayInfo(8, 512)
    assert header.get("tokenizer.ggml.add_bos_token", None) is False
    assert header.get("no.such.key", 7) == 7


def test_the_builtin_projector() -> None:
    header = read_header(BUILTIN / "mmproj-Q8_0.gguf")
    assert header.is_projector
    assert (header.context_length, header.embedding_length, header.chat_template) == (None, None, None)
    assert header.get("clip.vision.image_mean", ()) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["text-Q8_0.gguf", "mmproj-Q8_0.gguf"])
def test_the_tensor_table_agrees_with_the_gguf_package(name: str) -> None:
    header, reader = read_header(BUILTIN / name), gguf.GGUFReader(BUILTIN / name)
    ours = [(t.name, t.shape, t.type, t.nbytes, header.data_offset + t.offset) for t in header.tensors]
    theirs = [
        (t.name, tuple(map(int, t.shape)), int(t.tensor_type), int(t.n_bytes), int(t.data_offset))
        for t in reader.tensors
    ]
    assert ours == theirs
    assert header.parameters == sum(int(t.n_elements) for t in reader.tensors)


def test_block_sizes_agree_with_the_gguf_package() -> None:
    for kind, (weights, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # 40 in the package up to 0.19; ggml's block_q8_1 is two halves and 32 bytes
            assert GGML_TYPES[int(kind)] == (kind.name, weights, size)
    assert GGML_TYPES[9] == ("Q8_1", 32, 36)


def test_a_projector_is_recognized_by_type_or_architecture(tmp_path: Path) -> None:
    typed = Crafted([ARCH, key("general.type", 8, "mmproj")])
    assert read_bytes(tmp_path, typed.bytes()).is_projector
    assert read_bytes(tmp_path, Crafted([key("general.architecture", 8, "clip")]).bytes()).is_projector
    assert not read_bytes(tmp_path, Crafted().bytes()).is_projector


def test_a_model_without_a_name_is_named_after_its_file(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, Crafted().bytes()).name == "model"


def test_wrongly_typed_metadata_counts_as_missing(tmp_path: Path) -> None:
    keys = [key("general.architecture", 4, 7), key("tokenizer.chat_template", 4, 7), key("general.name", 7, True)]
    header = read_bytes(tmp_path, Crafted(keys).bytes())
    assert (header.architecture, header.chat_template, header.name, header.context_length) == ("", None, "model", None)


def test_version_2_and_every_scalar_type(tmp_path: Path) -> None:
    values = {0: 255, 1: -1, 2: 65535, 3: -2, 4: 2**32 - 1, 5: -3, 6: 0.5, 7: True, 10: 2**64 - 1, 11: -4, 12: 1.5}
    keys = [key(f"k{kind}", kind, value) for kind, value in values.items()]
    header = read_bytes(tmp_path, Crafted(keys, version=2).bytes())
    assert header.version == 2
    assert header.metadata == {f"k{kind}": value for kind, value in values.items()}


def test_tensors_without_dimensions_and_other_alignments(tmp_path: Path) -> None:
    keys = [ARCH, key("general.alignment", 4, 256)]
    tensors = [tensor("a", ()), tensor("b", (2, 3), offset=256)]
    crafted = Crafted(keys, tensors).bytes()
    data_offset = 256
    assert len(crafted) < data_offset
    header = read_bytes(tmp_path, crafted.ljust(data_offset + 256 + 24, b"\0"))
    assert header.data_offset == data_offset
    assert [(t.shape, t.nbytes, t.type_name) for t in header.tensors] == [
        ((), 4, "F32"),
        ((2, 3), 24, "F32"),
    ]


def test_a_tensor_of_an_unknown_type_has_no_size(tmp_path: Path) -> None:
    header = read_bytes(tmp_path, Crafted(tensors=[tensor("a", (7,), 999)]).bytes())
    assert (header.tensors[0].nbytes, header.tensors[0].type_name) == (None, "type 999")


def test_strings_longer_than_a_block_are_stored_or_skipped(tmp_path: Path) -> None:
    long = "é" * 2_000_000
    names = ["a"] * 40 + [long, "a", long] + ["a"] * 37
    keys = [key("long", 8, long), array("names", 8, names), array("ids", 10, list(range(300_000))), key("end", 0, 9)]
    header = read_bytes(tmp_path, Crafted(keys).bytes())
    assert header.metadata == {
        "long": long,
        "names": ArrayInfo(8, 80),
        "ids": ArrayInfo(10, 300_000),
        "end": 9,
    }


def test_a_large_vocabulary_is_read_quickly_and_not_stored(tmp_path: Path) -> None:
    words = b"".join(text(f"word{n}") for n in range(400_000))
    data = Crafted([ARCH, text("tokens") + u32(9) + u32(8) + u64(400_000) + words]).bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    begin = time.process_time()  # other processes do not count
    assert read_header(path).metadata["tokens"] == ArrayInfo(8, 400_000)
    assert time.process_time() - begin < 2.0
    assert peak_of(path) < 8 << 20


FINITE = st.floats(allow_nan=False, width=32)
VALUES = st.one_of(
    st.tuples(st.just(8), st.text()),
    st.tuples(st.just(0), st.integers(0, 255)),
    st.tuples(st.just(5), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just(10), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(6), FINITE),
    st.tuples(st.just(7), st.booleans()),
)
ARRAYS = st.one_of(
    st.tuples(st.just(8), st.lists(st.text(max_size=5), max_size=MAX_STORED_ARRAY + 5)),
    st.tuples(st.just(3), st.lists(st.integers(-(2**15), 2**15 - 1), max_size=MAX_STORED_ARRAY + 5)),
)
KEYS = st.text(min_size=1, max_size=20).map(lambda name: "x." + name + ".y")


@ANY_FILE
@given(
    st.dictionaries(KEYS, VALUES | ARRAYS, max_size=8),
    st.lists(st.lists(st.integers(1, 5), max_size=4), max_size=4),
)
def test_written_headers_are_read_back(
    tmp_path: Path, metadata: dict[str, tuple[int, object]], shapes: list[list[int]]
) -> None:
    keys: list[bytes] = []
    expected: dict[str, object] = {}
    for name, (kind, value) in metadata.items():
        if isinstance(value, list):
            keys.append(array(name, kind, value))
            expected[name] = tuple(value) if len(value) <= MAX_STORED_ARRAY else ArrayInfo(kind, len(value))
        else:
            keys.append(key(name, kind, value))
            expected[name] = value
    tensors, offset = [], 0
    for n, shape in enumerate(shapes):
        tensors.append(tensor(f"t{n}", tuple(shape), 0, offset))
        offset += -(-4 * math.prod(shape) // 32) * 32
    header = read_bytes(tmp_path, Crafted(keys, tensors, bytes(offset)).bytes())
    assert header.metadata == expected
    assert [t.shape for t in header.tensors] == [tuple(shape) for shape in shapes]
    assert header.parameters == sum(math.prod(shape) for shape in shapes)


def package_file(path: Path) -> Path:
    """A small valid model, written by the gguf package."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_custom_alignment(32)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_token_list([f"t{n}" for n in range(80)])
    writer.add_array("few", [1, 2, 3])
    writer.add_array("words", ["a", "bc"])
    writer.add_tensor("half", np.zeros((3, 5), np.float16))
    writer.add_tensor("packed", np.zeros((2, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    write_and_close(writer)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return package_file(tmp_path_factory.mktemp("gguf") / "small.gguf").read_bytes()


def test_a_file_from_the_gguf_package_is_read(tmp_path: Path, small: bytes) -> None:
    header = read_bytes(tmp_path, small)
    assert (header.name, header.context_length, header.parameters) == ("small", 128, 15 + 64)
    assert (header.get("few", ()), header.get("words", ())) == ((1, 2, 3), ("a", "bc"))
    assert [(t.shape, t.nbytes) for t in header.tensors] == [((5, 3), 30), ((32, 2), 68)]


# Bad files


def test_every_truncation_is_rejected_or_only_lacks_padding(tmp_path: Path, small: bytes) -> None:
    needed = read_bytes(tmp_path, small)
    last = needed.tensors[-1]
    end = needed.data_offset + last.offset + (last.nbytes or 0)
    for length in range(len(small)):
        if length < end:
            rejected(tmp_path, small[:length])
        else:
            assert read_bytes(tmp_path, small[:length]).tensors == needed.tensors


@ANY_FILE
@given(st.data())
def test_any_changed_bytes_are_read_or_rejected(tmp_path: Path, small: bytes, data: st.DataObject) -> None:
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(small) - 1))] = data.draw(st.integers(0, 255))
    read_or_rejected(tmp_path, bytes(changed))


@pytest.mark.parametrize("value", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_any_single_changed_byte_is_read_or_rejected(tmp_path: Path, small: bytes, value: int) -> None:
    for at in range(len(small)):
        read_or_rejected(tmp_path, small[:at] + bytes([value]) + small[at + 1 :])


@ANY_FILE
@given(st.binary(max_size=400), st.sampled_from([b"", b"GGUF", b"GGUF\3\0\0\0", Crafted().bytes()]))
def test_arbitrary_bytes_are_read_or_rejected(tmp_path: Path, data: bytes, start: bytes) -> None:
    read_or_rejected(tmp_path, start + data)


def read_or_rejected(folder: Path, data: bytes) -> None:
    """Reads a file, and asserts that the header of a small file is small, whatever the file claims."""
    path = folder / "model.gguf"
    path.write_bytes(data)
    assert peak_of(path) < 4 << 20


def peak_of(path: Path) -> int:
    tracemalloc.start()
    try:
        read_header(path)
    except GGUFError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def claim(name: str, kind: int, count: int) -> bytes:
    """An array that claims `count` elements and has none."""
    return array(name, kind, [], count)


CLAIMS = {
    "keys": (Crafted(key_count=10**9), "at most 65536"),
    "more keys than bytes": (Crafted(key_count=1000), "1000 keys cannot fit"),
    "tensors": (Crafted(tensor_count=10**9), "at most 65536"),
    "negative tensors": (Crafted(tensor_count=2**64 - 1), "at most 65536"),
    "more tensors than bytes": (Crafted(tensor_count=1000), "1000 tensors cannot fit"),
    "more strings than bytes": (Crafted([ARCH, claim("a", 8, 1000)]), "cannot fit"),
    "more numbers than bytes": (Crafted([ARCH, claim("a", 4, 1000)]), "cannot fit"),
    "strings in an array": (Crafted([ARCH, claim("a", 8, 10**9)]), "at most"),
    "numbers in an array": (Crafted([ARCH, claim("a", 4, 10**9)]), "at most"),
    "an array whose size wraps at 2^64": (Crafted([ARCH, claim("a", 10, 2**61 + 1)]), "at most"),
    "a string": (Crafted([ARCH, text("a") + u32(8) + u64(10**9)]), "at most"),
    "a string whose end wraps at 2^64": (Crafted([ARCH, text("a") + u32(8) + u64(2**64 - 8)]), "at most"),
    "a key": (Crafted([u64(10**9)]), "at most"),
    "a string in a long array": (Crafted([ARCH, array("a", 8, ["x"] * 69, 70) + u64(2**64 - 8)]), "truncated"),
    "dimensions": (Crafted(tensors=[text("t") + u32(10**9)]), "dimensions"),
    "bytes in a tensor": (Crafted(tensors=[tensor("t", (10**9,))]), "truncated"),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_small_file_with_large_claims_is_cheap_to_reject(tmp_path: Path, what: str) -> None:
    crafted, words = CLAIMS[what]
    data = crafted.bytes().ljust(1024, b"\0")
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    begin = time.process_time()  # other processes do not count
    assert peak_of(path) < 4 << 20
    assert time.process_time() - begin < 2.0
    assert words in rejected(tmp_path, data)


def test_a_truncated_download_says_so(tmp_path: Path) -> None:
    data = Crafted(tensors=[tensor("output.weight", (1000,))], data=bytes(100)).bytes()
    begin = len(data) - 100
    assert rejected(tmp_path, data) == (
        f"model.gguf: the file is truncated: tensor 'output.weight' ends at byte {begin + 4000}, "
        f"but the file has {len(data)} bytes; download it again (at byte {begin - 14})"
    )
    assert "download it again" in rejected(tmp_path, Crafted([ARCH, key("a", 8, "x" * 100)]).bytes()[:-50])


BAD = {
    "version 1": (Crafted(version=1), "version 1"),
    "version 4": (Crafted(version=4), "version 4"),
    "version 0": (Crafted(version=0), "version 0"),
    "big endian": (Crafted(version=0x03000000), "big-endian"),
    "the same key twice": (Crafted([ARCH, ARCH]), "twice"),
    "a key without a name": (Crafted([key("", 0, 1)]), "has no name"),
    "a key that is not UTF-8": (Crafted([key(b"\xff", 0, 1)]), "UTF-8"),
    "a key that is too long": (Crafted([key("x" * 65536, 0, 1)]), "at most 65535"),
    "an unknown value type": (Crafted([text("a") + u32(13) + bytes(8)]), "unknown type 13"),
    "an unknown element type": (Crafted([text("a") + u32(9) + u32(99) + u64(0)]), "unknown type 99"),
    "an array of arrays": (Crafted([text("a") + u32(9) + u32(9) + u64(1) + bytes(12)]), "array of arrays"),
    "the same tensor twice": (Crafted(tensors=[tensor("t", (1,)), tensor("t", (1,), 0, 32)]), "twice"),
    "a tensor name that is not UTF-8": (Crafted(tensors=[tensor(b"\xff", (1,))]), "UTF-8"),
    "a tensor name that is too long": (Crafted(tensors=[tensor("t" * 64, (1,))]), "at most 63"),
    "five dimensions": (Crafted(tensors=[tensor("t", (1,) * 5)]), "5 dimensions"),
    "a dimension of zero": (Crafted(tensors=[tensor("t", (4, 0))]), "impossible shape"),
    "2^63 weights": (Crafted(tensors=[tensor("t", (2**32, 2**31))]), "impossible shape"),
    "a negative dimension": (Crafted(tensors=[tensor("t", (2**64 - 1,))]), "impossible shape"),
    "a product that wraps to 0": (Crafted(tensors=[tensor("t", (2**32, 2**32))]), "impossible shape"),
    "rows that break a block": (Crafted(tensors=[tensor("t", (33,), 8)]), "rows of 33"),
    "a tensor after the end": (Crafted(tensors=[tensor("t", (1,), 0, LARGE)]), "truncated"),
    "an unknown tensor after the end": (Crafted(tensors=[tensor("t", (1,), 999, LARGE)]), "truncated"),
    "a tensor whose end wraps": (Crafted(tensors=[tensor("t", (8,), 0, 2**64 - 32)]), "truncated"),
    "a tensor off the alignment": (Crafted(tensors=[tensor("t", (1,), 0, 4)]), "alignment"),
    "tensors on each other": (Crafted(tensors=[tensor("t", (9,)), tensor("u", (1,), 0, 32)]), "overlaps"),
    "513 layers": (Crafted([ARCH, key("llama.block_count", 4, 513)]), "from 1 to 512"),
    "no layers": (Crafted([ARCH, key("llama.block_count", 4, 0)]), "from 1 to 512"),
    "layers in words": (Crafted([ARCH, key("llama.block_count", 8, "x" * 999)]), "from 1 to 512"),
    "513 layers of eyes": (Crafted([ARCH, key("clip.vision.block_count", 4, 513)]), "from 0 to 512"),
}
BAD |= {
    f"alignment {value}": (Crafted([ARCH, key("general.alignment", kind, value)]), "power of two")
    for kind, value in [(4, 0), (4, 3), (4, 1 << 17), (5, -32), (7, True), (8, "32")]
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_header_is_rejected(tmp_path: Path, what: str) -> None:
    crafted, words = BAD[what]
    message = rejected(tmp_path, replace(crafted, data=bytes(200)).bytes())
    assert words in message
    assert len(message) < 300


def test_the_limits_themselves_are_allowed(tmp_path: Path) -> None:
    keys = [ARCH, key("llama.block_count", 4, 512), key("clip.audio.block_count", 4, 0), key("k" * 65535, 0, 1)]
    tensors = [tensor("t" * 63, (1, 1, 1, 1)), tensor("u", (8,), 0, 32)]
    assert len(read_bytes(tmp_path, Crafted(keys, tensors, bytes(64)).bytes()).tensors) == 2


def test_names_in_messages_are_escaped(tmp_path: Path) -> None:
    crafted = Crafted([key("\x1b[2J\n", 0, 1), key("\x1b[2J\n", 0, 1)])
    assert rejected(tmp_path, crafted.bytes()).isprintable()


LOOKS_LIKE = {
    "safetensors": u64(10) + b'{"__metadata__":{}}',
    "zip": b"PK\x03\x04" + bytes(20),
    "pickle": b"\x80\x02}q\x00.",
    "HTML": b"\n <!DOCTYPE html><html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "before GGUF": b"tjgg" + bytes(20),
    "empty": b"",
    "begins with 47 47": b"GG",
    "begins with 00 01 02": bytes(range(30)),
}


@pytest.mark.parametrize("name", LOOKS_LIKE)
def test_another_file_format_is_named(tmp_path: Path, name: str) -> None:
    message = rejected(tmp_path, LOOKS_LIKE[name])
    assert "model.gguf is not a GGUF file; " in message and name in message


def test_a_path_that_is_not_a_file_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(GGUFError, match="directory"):
        read_header(folder)
    with pytest.raises(GGUFError, match="No such file"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(GGUFError, match="cannot be read"):
        read_header(tmp_path / ("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_rejected_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(GGUFError, match="regular file"):
        read_header(pipe)


def test_an_endless_header_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(Crafted([ARCH, claim("a", 0, MAX_HEADER_BYTES)]).bytes())
    with path.open("r+b") as file:
        file.truncate(MAX_HEADER_BYTES + 4096)  # sparse: takes no room on disk
    with pytest.raises(GGUFError, match="larger than 256 MiB"):
        read_header(path)


def test_ten_thousand_damaged_headers(tmp_path: Path) -> None:
    header = package_file(tmp_path / "header.gguf")
    program = Path(__file__).parents[2] / "fakes" / "mutations.py"
    done = subprocess.run([sys.executable, program, header, tmp_path, "10000"], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert set(found["outcomes"]) == {"read", "refused"} and sum(found["outcomes"].values()) == 10_000
    assert min(found["outcomes"].values()) > 100  # both happen, or the damage is of the wrong kind
    assert found["slowest"] < 1.0  # seconds of this process
    assert found["grown"] < 50e6  # bytes
