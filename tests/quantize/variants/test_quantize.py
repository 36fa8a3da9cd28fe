"""Quantization of models and projectors: what is written and reported, and how existing files are protected."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fakes import experts, faulty_models
from fakes.gguf_writing import write_and_close
from fakes.shapes import SHAPES, write
from galago.models.errors import ConfigError, EngineCrashed, GalagoError, ModelError
from galago.models.gguf.header import GGUFHeader
from galago.models.gguf.reader import read_header
from galago.models.kept_file import TEMPORARY_SUFFIX
from galago.models.registry.resolve import builtin_folder
from galago.quantize import api
from galago.quantize.calibrate import imatrix
from galago.quantize.calibrate.imatrix import ImatrixEntry, ImportanceMatrix
from galago.quantize.jobs import QuantizationJob
from galago.quantize.variants import invalid_values, variant
from galago.quantize.variants.schemes import BLOCKS, SCHEMES, find, is_scheme
from galago.quantize.variants.source import open_source
from galago.runtime.cli.main import main
from galago.runtime.llamacpp.projector import Projector
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.process.job import run_job

TEXT = builtin_folder() / "text-F16.gguf"
PROJECTOR = builtin_folder() / "mmproj-F16.gguf"


def ones(header: GGUFHeader) -> ImportanceMatrix:
    """An importance matrix in which all columns count equally."""
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) == 2]
    entry = {t.name: ImatrixEntry(np.ones((1, t.shape[0]), np.float32), np.ones(1, np.float32)) for t in matrices}
    return ImportanceMatrix(entry, ("nothing",), 1, 512)


def made(source: Path, out: Path, scheme: str, matrix: ImportanceMatrix | None = None) -> variant.VariantPlan:
    plan = variant.plan(open_source(str(source)), variant.Recipe(find(scheme), matrix=matrix))
    variant.write(plan, out)
    return plan


def types(path: Path) -> Counter[str]:
    return Counter(tensor.type_name for tensor in read_header(path).tensors if len(tensor.shape) == 2)


# What is written


@pytest.mark.parametrize("name", [s.name for s in SCHEMES.values() if s.needs_calibration])
def test_schemes_that_need_calibration_give_a_model_that_loads(tmp_path: Path, name: str) -> None:
    out = tmp_path / "q.gguf"
    plan = made(TEXT, out, name, ones(read_header(TEXT)))
    assert dict(plan.type_counts) == Counter(t.type_name for t in read_header(out).tensors)
    assert types(out)[find(name).type]
    Weights(out, gpu_layers=0).close()


def test_a_scheme_that_needs_calibration_is_refused_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(TEXT), "--scheme", "iq2_xs", "-o", str(tmp_path / "q.gguf"), "--no-calibration"]) == 1
    assert "IQ2_XS needs calibration" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_table_of_schemes_matches_what_llamacpp_writes(tmp_path: Path) -> None:
    for name in ("F16", "BF16", "Q8_0", "Q6_K", "Q5_0", "IQ4_NL", "Q3_K_S"):
        made(TEXT, tmp_path / name, name)
        scheme, written = find(name), read_header(tmp_path / name)
        assert types(tmp_path / name).most_common(1)[0][0] == scheme.type
        assert written.get("general.file_type") == scheme.ftype


def test_the_planned_size_is_the_size_of_the_file(tmp_path: Path) -> None:
    plan = made(TEXT, tmp_path / "q.gguf", "Q4_K_M")
    assert abs((tmp_path / "q.gguf").stat().st_size - plan.size) < 4096
    assert plan.bits_per_weight == pytest.approx(8 * sum(plan.nbytes.values()) / read_header(TEXT).parameters)


def test_the_file_records_its_provenance(tmp_path: Path) -> None:
    made(TEXT, tmp_path / "q.gguf", "Q4_0", ones(read_header(TEXT)))
    header = read_header(tmp_path / "q.gguf")
    assert header.get("galago.quantize.scheme") == "Q4_0"
    assert header.get("galago.quantize.source") == "text-F16.gguf"
    assert len(str(header.get("galago.quantize.source_sha256"))) == 64
    assert "llama-cpp-python" in str(header.get("galago.quantize.made_by"))
    assert header.get("quantize.imatrix.dataset") == "nothing" and header.get("quantize.imatrix.chunks_count") == 1


def test_single_tensors_get_the_requested_types(tmp_path: Path) -> None:
    source = open_source(str(TEXT))
    asked = {t.name: "Q5_K" if "ffn" in t.name else "Q3_K" for t in source.tensors if len(t.shape) == 2}
    plan = variant.plan(source, variant.Recipe(find("Q4_K_M"), types=asked))
    variant.write(plan, tmp_path / "q.gguf")
    assert {t.name: t.type_name for t in read_header(tmp_path / "q.gguf").tensors if len(t.shape) == 2} == asked


def test_fallback_types_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "narrow.gguf", tmp_path / "out.gguf"
    write(source, replace(SHAPES["135M"], layers=1, vocabulary=320))
    assert main(["quantize", str(source), "--scheme", "Q4_K_S", "--no-calibration", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    narrow = [t for t in read_header(out).tensors if t.shape[0] % 256 and BLOCKS[t.type_name][0] > 1]
    assert narrow and told["fallbacks"] == {t.name: t.type_name for t in narrow}
    assert {t.type_name for t in narrow} >= {"Q5_0"}


@pytest.mark.parametrize("scheme", ["int8", "Q4_0", "IQ4_NL", "Q6_K", "BF16"])
def test_a_quantized_projector_keeps_exact_tensors_and_works(tmp_path: Path, scheme: str) -> None:
    out = tmp_path / "mm.gguf"
    made(PROJECTOR, out, scheme)
    before, after = ({t.name: t.type_name for t in read_header(path).tensors} for path in (PROJECTOR, out))
    changed = {name for name in before if before[name] != after[name]}
    assert changed and not [n for n in changed if "embd" in n or "conv2d" in n or n.endswith("bias")]
    weights = Weights(TEXT, gpu_layers=0)
    eyes = Projector(out, weights, threads=1, largest_image=512, use_gpu=False)
    assert eyes.vision and eyes.audio
    eyes.close()
    weights.close()


def test_a_transposed_projection_keeps_its_type(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(PROJECTOR)
    writer = gguf.GGUFWriter(tmp_path / "mm.gguf", "clip")
    writer.add_type("mmproj")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("mm.input_projection.weight", np.ones((64, 64), np.float16))
    write_and_close(writer)
    plan = variant.plan(open_source(str(tmp_path / "mm.gguf")), variant.Recipe(find("Q8_0")))
    assert plan.types["mm.input_projection.weight"] == "F16" and plan.types["v.blk.0.ffn_up.weight"] == "Q8_0"


def test_split_models_become_one_file(tmp_path: Path) -> None:
    split(TEXT, tmp_path)
    made(tmp_path / "m-00001-of-00002.gguf", tmp_path / "whole.gguf", "Q8_0")
    made(TEXT, tmp_path / "direct.gguf", "Q8_0")
    assert data(tmp_path / "whole.gguf") == data(tmp_path / "direct.gguf")


def split(path: Path, folder: Path) -> None:
    """Writes a model as two parts."""
    reader = gguf.GGUFReader(path)
    half = len(reader.tensors) // 2
    for number, tensors in enumerate((reader.tensors[:half], reader.tensors[half:])):
        writer = gguf.GGUFWriter(folder / f"m-0000{number + 1}-of-00002.gguf", "llama")
        for field in reader.fields.values() if number == 0 else ():
            if not field.name.startswith(("GGUF.", "general.architecture")):
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        write_and_close(writer)


def data(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def test_a_quantized_model_is_quantized_again_only_with_requantize(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, out = str(builtin_folder() / "text-Q8_0.gguf"), tmp_path / "q.gguf"
    command = ["quantize", small, "--scheme", "Q4_0", "-o", str(out), "--no-calibration"]
    assert main(command) == 1 and "already quantized (Q8_0)" in capsys.readouterr().err
    assert main([*command, "--requantize"]) == 0 and types(out)["Q4_0"]


def test_the_schemes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in listed for name in SCHEMES)


# Existing files


def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "q.gguf"
    out.write_bytes(b"precious")
    command = ["quantize", "builtin", "--scheme", "Q8_0", "-o", str(out)]
    assert main(command) == 1 and "already exists" in capsys.readouterr().err and out.read_bytes() == b"precious"
    assert main([*command, "--force"]) == 0 and read_header(out).tensors


@pytest.mark.parametrize("link", [shutil.copy, os.link, os.symlink])
def test_the_model_itself_is_never_overwritten(tmp_path: Path, link: Callable[[Path, Path], object]) -> None:
    model, out = tmp_path / "model.gguf", tmp_path / "out.gguf"
    shutil.copy(TEXT, model)
    link(model, out)
    plan = variant.plan(open_source(str(model)), variant.Recipe(find("Q8_0")))
    if link is shutil.copy:
        variant.write(plan, out, force=True)
    else:
        with pytest.raises(ConfigError, match="is the model itself"):
            variant.write(plan, out, force=True)
    assert model.read_bytes() == TEXT.read_bytes()


def test_a_disk_that_is_too_full_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = variant.plan(open_source(str(TEXT)), variant.Recipe(find("Q8_0")))
    full = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: full)
    with pytest.raises(ConfigError, match="are free in"):
        variant.write(plan, tmp_path / "q.gguf")
    assert not list(tmp_path.iterdir())


def limited() -> None:
    """Behaves like a disk that is full after a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_disk_that_fills_up_leaves_no_partial_file(tmp_path: Path) -> None:
    out = tmp_path / "q.gguf"
    command = [
        sys.executable,
        "-m",
        "galago.runtime.cli.main",
        "quantize",
        str(TEXT),
        "--scheme",
        "Q8_0",
        "-o",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 1 and "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_killed_run_leaves_no_result_and_the_next_one_succeeds(tmp_path: Path) -> None:
    out, begun = tmp_path / "q.gguf", list[Path]()
    arguments = ["quantize", str(TEXT), "--scheme", "IQ4_XS", "-o", str(out), "--no-calibration"]
    process = subprocess.Popen([sys.executable, "-m", "galago.runtime.cli.main", *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(path.stat().st_size for path in begun) and time.monotonic() < deadline:
        begun = list(tmp_path.glob(f".q.gguf.*{TEMPORARY_SUFFIX}"))
        time.sleep(0.01)
    [part] = begun
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    while writers(part) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not writers(part)  # the child process ends with its parent
    assert main(arguments) == 0
    assert list(tmp_path.iterdir()) == [out]


def writers(path: Path) -> list[str]:
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found += [str(link)] if os.readlink(link) == str(path) else []
        except OSError:
            continue
    return found


# Damaged files


def edited(change: Callable[[bytearray, GGUFHeader], None]) -> bytes:
    content = bytearray(TEXT.read_bytes())
    change(content, read_header(TEXT))
    return bytes(content)


def put(number: float, name: str, kind: str = "<e") -> Callable[[bytearray, GGUFHeader], None]:
    """Writes a number into a tensor."""

    def change(content: bytearray, header: GGUFHeader) -> None:
        offset = next(tensor.offset for tensor in header.tensors if tensor.name == name)
        struct.pack_into(kind, content, header.data_offset + offset + 64, number)

    return change


def value(key: bytes, packed: bytes) -> Callable[[bytearray, GGUFHeader], None]:
    """Replaces the bytes after a key: its type, and the beginning of its value."""

    def change(content: bytearray, _header: GGUFHeader) -> None:
        at = content.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
        content[at : at + len(packed)] = packed

    return change


def replaced(old: bytes, new: bytes) -> Callable[[bytearray, GGUFHeader], None]:
    def change(content: bytearray, _header: GGUFHeader) -> None:
        at = content.index(old)
        content[at : at + len(old)] = new

    return change


def retyped(content: bytearray, name: bytes, kind: int) -> None:
    at = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4 + 16
    struct.pack_into("<I", content, at, kind)


def reshaped(content: bytearray, name: bytes, columns: int) -> None:
    at = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4
    struct.pack_into("<Q", content, at, columns)


U32 = struct.pack("<I", 4)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "garbage": (bytes(range(256)) * 64, "not a GGUF file"),
    "text": (b"<html>404</html>" * 64, "an HTML"),
    "header cut": (TEXT.read_bytes()[:1000], "truncated"),
    "data cut": (TEXT.read_bytes()[:-100_000], "truncated"),
    "version": (edited(lambda c, _: struct.pack_into("<I", c, 4, 99)), "GGUF version 99"),
    "tensor count": (edited(lambda c, _: struct.pack_into("<Q", c, 8, 1 << 40)), "tensors"),
    "key count": (edited(lambda c, _: struct.pack_into("<Q", c, 16, 1 << 50)), "keys"),
    "NaN": (edited(put(float("nan"), "blk.0.ffn_up.weight")), r"blk\.0\.ffn_up\.weight"),
    "infinite": (edited(put(float("inf"), "blk.3.attn_q.weight")), r"blk\.3\.attn_q\.weight"),
    "NaN among norms": (edited(put(float("nan"), "blk.1.attn_norm.weight", "<f")), r"blk\.1\.attn_norm\.weight"),
    "layers": (edited(value(b"llama.block_count", U32 + struct.pack("<I", 100_000))), "block_count"),
    "no layers": (edited(value(b"llama.block_count", U32 + bytes(4))), "block_count"),
    "type of a number": (edited(value(b"llama.block_count", struct.pack("<I", 6))), "block_count"),
    "architecture": (edited(replaced(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0lLama")), "architecture"),
    "missing key": (edited(replaced(b"llama.embedding_length", b"llama.embedding_lengtH")), "embedding_length"),
    "tensor twice": (edited(replaced(b"blk.0.ffn_up.weight", b"blk.1.ffn_up.weight")), "twice"),
    "tensor type": (edited(lambda c, h: retyped(c, b"blk.0.attn_q.weight", 4)), "type 4"),
    "wrong tensor type": (edited(lambda c, h: retyped(c, b"blk.0.attn_q.weight", 0)), "overlap|outside|truncated"),
    "integers": (edited(lambda c, h: retyped(c, b"blk.0.attn_q.weight", 25)), "I16|i16"),
    "shape": (edited(lambda c, h: reshaped(c, b"blk.0.attn_q.weight", 0)), "impossible shape"),
    "huge shape": (edited(lambda c, h: reshaped(c, b"blk.0.attn_q.weight", 1 << 40)), "overlap|truncated|impossible"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_with_one_line_and_nothing_is_written(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = DAMAGED[kind]
    model, out = tmp_path / "model.gguf", tmp_path / "q.gguf"
    model.write_bytes(content)
    assert main(["quantize", str(model), "--scheme", "Q4_K_M", "-o", str(out), "--no-calibration"]) == 1
    progress = "galago: quantizing"
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(progress)]
    assert len(errors) == 1 and "model.gguf" in errors[0] and re.search(message, errors[0]), errors
    assert list(tmp_path.iterdir()) == [model] and model.read_bytes() == content


def test_values_too_large_for_f16_are_reported(tmp_path: Path) -> None:
    wide = tmp_path / "wide.gguf"
    made(TEXT, wide, "F32")
    content = bytearray(wide.read_bytes())
    header = read_header(wide)
    offset = next(t.offset for t in header.tensors if t.name == "blk.2.ffn_down.weight")
    struct.pack_into("<f", content, header.data_offset + offset, 1e6)
    wide.write_bytes(content)
    with pytest.raises(ModelError, match=r"blk\.2\.ffn_down\.weight contains .* 1 is beyond 65504"):
        made(wide, tmp_path / "q.gguf", "F16")
    made(wide, tmp_path / "b.gguf", "BF16")


# The child process


def test_a_crashed_child_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match=r"crashed on a\.gguf: its process was killed by SIGABRT"):
        job = QuantizationJob(TEXT, tmp_path / "q", 15, threads=1, types=(("blk.0.attn_q.weight", 26),))
        run_job(
            "galago.quantize.variants.quantize_job", job, "a.gguf"
        )  # llama.cpp asserts that nobody quantizes to integers


def test_an_error_of_the_child_keeps_its_class_and_message(tmp_path: Path) -> None:
    with pytest.raises(GalagoError) as caught:
        job = QuantizationJob(tmp_path / "missing", Path("/dev/null"), 15, threads=1, dry_run=True)
        run_job("galago.quantize.variants.quantize_job", job, "a.gguf")
    assert type(caught.value) is ModelError and "missing" in caught.value.message


# Importance matrices


def matrix(*columns: float, count: float = 2) -> ImportanceMatrix:
    return ImportanceMatrix(
        {"w": ImatrixEntry(np.array([columns], np.float32), np.array([count], np.float32))}, ("a",), 3, 64
    )


def test_a_matrix_is_read_back_from_its_file(tmp_path: Path) -> None:
    imatrix.write(tmp_path / "m.gguf", matrix(1, 2, 3))
    found = imatrix.read(tmp_path / "m.gguf")
    assert found.datasets == ("a",) and (found.chunks, found.chunk_size) == (3, 64)
    assert found.entries["w"].sums.tolist() == [[1, 2, 3]] and found.means()["w"].tolist() == [0.5, 1, 1.5]


def test_matrices_are_added() -> None:
    both = imatrix.merge([matrix(1, 2), matrix(3, 4)])
    assert both.means()["w"].tolist() == [1, 1.5] and both.chunks == 6 and both.datasets == ("a",)
    with pytest.raises(ModelError, match="different models"):
        imatrix.merge([matrix(1, 2), matrix(1, 2, 3)])


def test_an_expert_without_data_counts_all_columns_equally() -> None:
    entry = ImatrixEntry(np.array([[2, 4], [0, 0]], np.float32), np.array([2, 0], np.float32))
    assert entry.means().tolist() == [1, 2, 1, 1]


def test_rows_of_zeros_are_no_data() -> None:
    entry = ImatrixEntry(np.array([[2, 4], [0, 0]], np.float32), np.array([2, 3], np.float32))
    assert entry.means().tolist() == [1, 2, 1, 1] and entry.unvisited(2) == 1


@pytest.mark.parametrize("zeros", [64, 256])
def test_weights_whose_inputs_were_zero_are_not_lost(tmp_path: Path, zeros: int) -> None:
    """With an importance of zero, llama.cpp makes a whole block zero."""
    importance = np.ones((1, 256), np.float32)
    importance[0, :zeros] = 0
    name = "blk.0.attn_q.weight"
    matrix = ImportanceMatrix({name: ImatrixEntry(importance, np.ones(1, np.float32))})
    made(TEXT, tmp_path / "q.gguf", "Q4_0", matrix)
    stored = next(tensor for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors if tensor.name == name)
    weights = gguf.quants.dequantize(stored.data, stored.tensor_type)
    assert np.count_nonzero(weights[:, :zeros]) > weights[:, :zeros].size / 2


def test_a_matrix_whose_values_would_overflow_is_refused() -> None:
    source = open_source(str(TEXT))
    entries = {"blk.0.attn_q.weight": ImatrixEntry(np.full((1, 256), 1e35, np.float32), np.ones(1, np.float32))}
    with pytest.raises(ModelError, match="values for blk.0.attn_q.weight that are too large"):
        variant.plan(source, variant.Recipe(find("Q4_K_M"), matrix=ImportanceMatrix(entries)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_a_matrix_of_impossible_values_is_refused(tmp_path: Path, bad: float) -> None:
    imatrix.write(tmp_path / "m.gguf", matrix(1, bad))
    with pytest.raises(ModelError, match="cannot be sums of squares"):
        imatrix.read(tmp_path / "m.gguf")


def test_a_matrix_of_another_model_is_refused(tmp_path: Path) -> None:
    source = open_source(str(TEXT))
    with pytest.raises(ModelError, match="covers no tensor"):
        variant.plan(source, variant.Recipe(find("Q4_0"), matrix=matrix(1, 2)))
    wrong = ImportanceMatrix(
        {"blk.0.attn_q.weight": ImatrixEntry(np.ones((1, 64), np.float32), np.ones(1, np.float32))}
    )
    with pytest.raises(ModelError, match="64 columns"):
        variant.plan(source, variant.Recipe(find("Q4_0"), matrix=wrong))


def test_a_model_is_not_a_matrix() -> None:
    with pytest.raises(ModelError, match="is not an importance matrix"):
        imatrix.read(TEXT)


ROWS = {"blk.0.ffn_up_exps.weight": 4, "blk.0.ffn_gate_exps.weight": 4, "blk.0.ffn_down_exps.weight": 4,
        **{f"blk.0.attn_{name}.weight": 1 for name in ("q", "k", "v", "output")}}  # fmt: skip
UNSEEN = "the importance matrix has no data for some experts of "


@pytest.mark.parametrize(
    ("left_out", "added", "unvisited", "warnings"),
    [
        ([], [], {}, []),
        ([], [], {"blk.0.ffn_up_exps.weight": [2]}, [f"{UNSEEN}blk.0.ffn_up_exps.weight (1 in all)"]),
        (
            [],
            [],
            dict.fromkeys(list(ROWS)[:3], [0, 3]),
            [f"{UNSEEN}{', '.join(list(ROWS)[1::-1])}, blk.0.ffn_down_exps.weight (6 in all)"],
        ),
        ([], ["blk.9.x"], {}, ["the importance matrix has data for blk.9.x, which experts.gguf lacks"]),
        ([], list("abcde"), {}, ["the importance matrix has data for a, b, c and 2 more, which experts.gguf lacks"]),
        (["blk.0.attn_q.weight"], [], {}, ["the importance matrix has no data for blk.0.attn_q.weight; they are"]),
        ([], [], {"blk.0.attn_q.weight": [0]}, ["the importance matrix has no data for blk.0.attn_q.weight; they are"]),
        (
            [],
            [],
            {"blk.0.ffn_up_exps.weight": [0, 1, 2, 3]},
            ["the importance matrix has no data for blk.0.ffn_up_exps.weight; they are"],
        ),
    ],
)
@pytest.mark.parametrize("scheme", ["Q4_0", "Q8_0"])
def test_a_matrix_that_does_not_fit_is_told(
    left_out: list[str],
    added: list[str],
    unvisited: dict[str, list[int]],
    warnings: list[str],
    scheme: str,
    tmp_path: Path,
) -> None:
    """Q8_0 uses no importance, so that only names which the model lacks matter."""
    source = open_source(str(experts.write(tmp_path / "experts.gguf")))
    columns = {tensor.name: tensor.shape[0] for tensor in source.tensors}
    entries = {}
    for name, count in (ROWS | dict.fromkeys(added, 1)).items():
        counts = np.full(count, 2, np.float32)
        counts[unvisited.get(name, [])] = 0
        sums = np.repeat(counts[:, None] / 4, columns.get(name, 64), axis=1).astype(np.float32)
        entries[name] = ImatrixEntry(sums, counts)
    matrix = ImportanceMatrix({name: entry for name, entry in entries.items() if name not in left_out})
    types = {tensor.name: scheme if tensor.name in ROWS else "F32" for tensor in source.tensors}
    plan = variant.VariantPlan(source, variant.Recipe(find(scheme), matrix=matrix), types)
    expected = warnings if scheme == "Q4_0" or added else []
    assert len(plan.warnings) == len(expected)
    for found, begin in zip(plan.warnings, expected, strict=True):
        assert found.startswith(begin)


def test_a_weight_that_needs_importance_and_has_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {name: entry for name, entry in ones(read_header(TEXT)).entries.items() if not name.startswith("blk.1.")}
    imatrix.write(tmp_path / "half.gguf", ImportanceMatrix(rest))
    arguments = ["quantize", str(TEXT), "-o", str(tmp_path / "x.gguf"), "--scheme", "IQ2_XXS"]
    assert main([*arguments, "--calibration", str(tmp_path / "half.gguf")]) == 1
    assert re.search(r"the importance matrix has no data for blk\.1\.\S+, without which", capsys.readouterr().err)


@pytest.fixture(scope="module")
def with_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A model whose output shares the table of the embeddings (`True`), and one with two tables."""
    folder = tmp_path_factory.mktemp("tables")
    return {tied: experts.write(folder / f"{'one' if tied else 'two'}.gguf", tied=tied) for tied in (True, False)}


OUTPUT, EMBEDDINGS = "output.weight", "token_embd.weight"


@pytest.mark.parametrize(
    ("scheme", "tied", "types", "expected"),
    [
        ("Q4_0", False, {}, {}),
        ("Q4_K_L", False, {}, {OUTPUT: "Q8_0", EMBEDDINGS: "Q8_0"}),
        ("q3_k_xl", False, {}, {OUTPUT: "Q8_0", EMBEDDINGS: "Q8_0"}),
        ("Q2_K_L", True, {}, {EMBEDDINGS: "Q8_0"}),
        ("Q4_0", False, {"output_type": "BF16"}, {OUTPUT: "BF16"}),
        ("Q4_0", False, {"embedding_type": "Q5_1"}, {EMBEDDINGS: "Q5_1"}),
        ("Q5_K_L", False, {"output_type": "Q5_0"}, {OUTPUT: "Q5_0", EMBEDDINGS: "Q8_0"}),
        ("Q4_0", True, {"output_type": "Q5_0"}, {EMBEDDINGS: "Q5_0"}),
        ("Q4_0", True, {"embedding_type": "Q5_0"}, {EMBEDDINGS: "Q5_0"}),
    ],
)
def test_schemes_set_the_types_of_output_and_embeddings(
    scheme: str, tied: bool, types: dict[str, str], expected: dict[str, str], with_tables: dict[bool, Path]
) -> None:
    assert variant.table_types(open_source(str(with_tables[tied])), replace(find(scheme), **types)) == expected  # type: ignore[arg-type]


def test_output_and_embeddings_are_written_in_the_types_that_are_asked_for(
    with_tables: dict[bool, Path], tmp_path: Path
) -> None:
    request = api.QuantizationRequest(
        str(with_tables[False]),
        tmp_path / "q.gguf",
        "Q4_0",
        use_calibration=False,
        output_tensor_type="BF16",
        token_embedding_type="q5_1",
    )
    result = api.quantize(request)
    written = {tensor.name: tensor.type_name for tensor in read_header(tmp_path / "q.gguf").tensors}
    assert written[OUTPUT] == "BF16" and written[EMBEDDINGS] == "Q5_1" and written["blk.0.attn_q.weight"] == "Q4_0"
    assert written == result.plan.types and not result.plan.fallbacks


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output_tensor_type": "Q9_0"}, "--output-tensor-type: there is no type Q9_0; choose one of F32, F16"),
        ({"token_embedding_type": "IQ2_XXS"}, "--token-embedding-type: there is no type IQ2_XXS"),
        ({"output_tensor_type": "Q6_K"}, "output.weight cannot be Q6_K: its rows have 64 weights.*blocks of 256"),
        ({"scheme": "F16", "output_tensor_type": "Q8_0"}, "--output-tensor-type needs a --scheme that quantizes"),
        ({"scheme": None, "bits": 5, "token_embedding_type": "Q8_0"}, "--token-embedding-type needs a --scheme"),
        (
            {"model": True, "output_tensor_type": "Q8_0", "token_embedding_type": "Q5_0"},
            "one.gguf has one table for output and token embeddings, which cannot be both Q8_0 and Q5_0",
        ),
        ({"model": PROJECTOR, "scheme": "Q4_K_L"}, "mmproj-F16.gguf has no output and no token embeddings"),
        ({"scheme": "Q4_M_K"}, "there is no quantization scheme Q4_M_K; choose one of .*Q4_K_L"),
    ],
)
def test_types_that_output_and_embeddings_cannot_have_are_refused(
    changed: dict[str, Any], message: str, with_tables: dict[bool, Path], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": False, "scheme": "Q4_0", "use_calibration": False} | changed
    model = given.pop("model")
    path = with_tables[model] if isinstance(model, bool) else model
    with pytest.raises(ConfigError, match=message):
        api.quantize(api.QuantizationRequest(str(path), tmp_path / "q.gguf", **given))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Q4_K", "Q4_K_M"), ("q5_k", "Q5_K_M"), ("Q3_K", "Q3_K_M"), ("int8", "Q8_0"), ("Q6_K_L", "Q6_K_L"), ("Q9", None)],
)
def test_schemes_have_the_names_that_people_know(name: str, expected: str | None) -> None:
    assert is_scheme(name) is (expected is not None)
    if expected is not None:
        assert find(name).name == expected


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("UD-Q4_K_XL", "Q4_K_L"),
        ("q4_k_xl", "Q4_K_L"),
        ("UD-Q8_K_XL", "Q8_0"),
        ("UD-IQ2_M", "IQ2_M"),
        ("UD-IQ1_S", "IQ2_XXS"),
    ],
)
def test_the_name_of_another_publishers_mix_leads_to_the_nearest_scheme(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is a mix of types.* nearest scheme here is {nearest}, .*--like"):
        find(name)


def fill_rows(value: Callable[[int], float]) -> Callable[[dict[str, Any]], None]:
    """Returns a change that gives each row of a matrix one value."""

    def fill(tensors: dict[str, Any]) -> None:
        for number, row in enumerate(tensors["blk.0.ffn_up.weight"]):
            row[:] = value(number)

    return fill


@pytest.mark.parametrize(
    ("value", "is_told"), [(None, False), (lambda _row: 0.0, True), (lambda row: float(row % 7), True)]
)
def test_a_matrix_of_equal_weights_is_told(
    value: Callable[[int], float] | None, is_told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source.gguf", tmp_path / "out.gguf"
    faulty_models.changed(TEXT, source, fill_rows(value) if value else lambda _: None)
    assert main(["quantize", str(source), "-o", str(out), "--scheme", "Q4_0", "--no-calibration"]) == 0
    told = "in each row of blk.0.ffn_up.weight, all weights are equal, such as zeros, so source.gguf may be damaged"
    assert (told in capsys.readouterr().err) is is_told


def test_the_last_row_counts_as_well(tmp_path: Path) -> None:
    def fill(tensors: dict[str, Any]) -> None:
        tensors["blk.0.ffn_up.weight"][:] = 1
        tensors["blk.0.ffn_up.weight"][-1, -1] = 2

    assert invalid_values.constant_tensors([faulty_models.changed(TEXT, tmp_path / "source.gguf", fill)]) == []
