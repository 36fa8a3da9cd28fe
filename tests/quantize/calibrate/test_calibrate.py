"""Calibration: what is collected, how an interrupted run resumes, and which data is refused."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import bert
from fakes.experts import write
from galago.models.errors import ConfigError, EngineError, GalagoError, ModelError
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import builtin_folder
from galago.quantize import api
from galago.quantize.calibrate import calibration, imatrix, samples
from galago.quantize.calibrate.imatrix import ImportanceMatrix
from galago.quantize.calibrate.samples import ChatSample, TextSample
from galago.quantize.jobs import CalibrationJob
from galago.quantize.variants import variant
from galago.quantize.variants.schemes import find
from galago.quantize.variants.source import open_source
from galago.runtime.cli.main import main
from galago.runtime.process.job import Report, run_job

TEXT = builtin_folder() / "text-F16.gguf"
SAMPLES = builtin_folder() / "samples"
WORDS = "What day comes after Monday? Tuesday. How many shapes are there? Four. "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 20, encoding="utf-8")
    return path


def job(model: Path, part: Path, *files: Path, limit: int = 4, done: int = 0) -> CalibrationJob:
    return CalibrationJob(
        model=model,
        projector=None,
        files=files,
        datasets=("a",),
        chunk_tokens=64,
        max_segments=limit,
        held_out_every=0,
        products=False,
        file_bytes=1 << 23,
        threads=1,
        part=part,
        done_segments=done,
        key="k",
    )


def collect(job: CalibrationJob, on_report: Report = lambda _: None) -> None:
    run_job("galago.quantize.calibrate.collect_job", job, "a.gguf", on_report=on_report)


def test_every_token_is_counted_for_every_matrix(tmp_path: Path, text: Path) -> None:
    source = open_source(str(TEXT))
    matrix = calibration.collect(
        calibration.select_data(source, None, [text], chunk_tokens=72, max_segments=2), tmp_path / "part"
    )
    assert set(matrix.entries) == {t.name for t in source.tensors if t.name.startswith("blk.") and len(t.shape) == 2}
    assert {float(entry.counts[0]) for entry in matrix.entries.values()} == {144.0}  # 72 is not a multiple of the step
    assert matrix.datasets == ("text.txt",) and (matrix.chunks, matrix.chunk_size) == (2, 72)


def test_a_resumed_calibration_has_the_same_result(tmp_path: Path, text: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    collect(job(TEXT, whole, text))
    collect(job(TEXT, parted, text, limit=3))
    said: list[list[int]] = []
    collect(job(TEXT, parted, text, done=3), said.append)
    assert said == [[4, 4]]
    a, b = imatrix.read(whole), imatrix.read(parted)
    assert a.chunks == b.chunks == 4 and a.datasets == b.datasets
    for name, entry in a.entries.items():
        assert (entry.counts == b.entries[name].counts).all()
        np.testing.assert_allclose(entry.sums, b.entries[name].sums, rtol=1e-5)


def test_a_calibration_resumes_only_on_the_same_data(tmp_path: Path, text: Path) -> None:
    source = open_source(str(TEXT))
    data, part = calibration.select_data(source, None, [text], chunk_tokens=64, max_segments=2), tmp_path / "part"
    calibration.collect(data, part)
    reported: list[str] = []
    calibration.collect(data, part, lambda step, _share: reported.append(step))
    assert not reported  # everything was in `part`
    text.write_text(WORDS.upper() * 20, encoding="utf-8")
    calibration.collect(data, part, lambda step, _share: reported.append(step))
    assert reported == ["1 of 2", "2 of 2"]


def test_a_damaged_state_is_not_resumed(tmp_path: Path, text: Path) -> None:
    source = open_source(str(TEXT))
    data, part = calibration.select_data(source, None, [text], chunk_tokens=64, max_segments=1), tmp_path / "part"
    calibration.collect(data, part)
    whole = part.read_bytes()
    assert calibration._done_segments(part, data.key) == 1
    changed = list(range(0, len(whole), len(whole) // 40))
    for at in changed:
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        resumed = calibration._done_segments(part, data.key)
        assert not resumed or same(imatrix.read(part), whole, tmp_path / "whole")  # a byte of padding, or of a name
    for size in (0, 30, len(whole) // 2, len(whole) - 100):
        part.write_bytes(whole[:size])
        assert not calibration._done_segments(part, data.key)
    part.unlink()
    os.mkfifo(part)
    assert not calibration._done_segments(part, data.key)


def same(matrix: imatrix.ImportanceMatrix, content: bytes, path: Path) -> bool:
    path.write_bytes(content)
    return matrix.checksum() == imatrix.read(path).checksum()


def test_images_and_audio_calibrate_the_model_and_its_projector(tmp_path: Path) -> None:
    lines = [
        {"messages": [{"role": "user", "content": [{"type": "image", "file": str(SAMPLES / "shapes.png")},
                                                   {"type": "text", "text": "How many shapes are there?"}]},
                      {"role": "assistant", "content": "Four."}]},
        {"messages": [{"role": "user", "content": [{"type": "audio", "file": str(SAMPLES / "speech.wav")},
                                                   {"type": "text", "text": "What was said?"}]}]},
    ]  # fmt: skip
    data, out = tmp_path / "chats.jsonl", tmp_path / "m.gguf"
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert main(["calibrate", "builtin", "--data", str(data), "-o", str(out)]) == 0
    entries = imatrix.read(out).entries
    projector = {t.name for t in read_header(builtin_folder() / "mmproj-F16.gguf").tensors}
    seen = {name: float(entry.counts.max()) for name, entry in entries.items()}
    assert {name.split(".")[0] for name in seen} >= {"blk", "v", "a", "mm"}
    assert (
        len({count for name, count in seen.items() if name.startswith("blk.")}) == 1
    )  # also the last layer, which computes all rows
    assert all(name.startswith("blk.") or name in projector for name in seen)
    assert not (tmp_path / "m.gguf.part").exists()
    eyes = open_source(str(builtin_folder() / "mmproj-F16.gguf"))
    plan = variant.plan(eyes, variant.Recipe(find("Q4_0"), matrix=imatrix.read(out)))
    assert not plan.without_importance


def test_existing_matrices_are_added(tmp_path: Path, text: Path) -> None:
    source = open_source(str(TEXT))
    first = calibration.collect(
        calibration.select_data(source, None, [text], chunk_tokens=64, max_segments=1), tmp_path / "p"
    )
    imatrix.write(tmp_path / "first.gguf", first)
    both = calibration.collect(
        calibration.select_data(source, None, [text, tmp_path / "first.gguf"], chunk_tokens=64, max_segments=1),
        tmp_path / "q",
    )
    name = "blk.1.ffn_down.weight"
    np.testing.assert_allclose(both.entries[name].sums, 2 * first.entries[name].sums, rtol=1e-6)
    np.testing.assert_allclose(both.entries[name].means(), first.entries[name].means(), rtol=1e-6)


def test_a_model_that_computes_nan_is_reported_with_the_weight(tmp_path: Path, text: Path) -> None:
    header, content = read_header(TEXT), bytearray(TEXT.read_bytes())
    offset = next(tensor.offset for tensor in header.tensors if tensor.name == "blk.1.attn_norm.weight")
    struct.pack_into("<f", content, header.data_offset + offset, float("nan"))
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(EngineError, match=r"the inputs of blk\.1\.attn_\w\.weight are infinite or NaN"):
        collect(job(tmp_path / "bad.gguf", tmp_path / "part", text))


@pytest.mark.parametrize(
    ("context", "given", "expected"),
    [(128, None, 128), (4096, None, 512), (None, None, 512), (128, 64, 64), (128, 500, 500)],
)
def test_chunks_are_no_longer_than_the_context_unless_that_is_asked_for(
    context: int | None, given: int | None, expected: int
) -> None:
    source = open_source(str(builtin_folder() / "text-F16.gguf"))
    metadata = {**source.header.metadata, "llama.context_length": context or "unknown"}
    small = replace(source, header=replace(source.header, metadata=metadata))
    assert calibration.select_data(small, None, [], given).chunk_tokens == expected


def test_an_encoder_is_quantized_without_calibration(tmp_path: Path) -> None:
    """By default; calibration that is asked for is refused."""
    encoder, text = bert.write(tmp_path / "bert.gguf"), tmp_path / "text.txt"
    text.write_text("word " * 500)
    request = api.QuantizationRequest(str(encoder), tmp_path / "q.gguf", "Q4_0")
    assert api.quantize(request).plan.recipe.matrix is None
    refused: list[tuple[dict[str, Any], str]] = [
        ({"calibration": (text,)}, "bert.gguf computes embeddings and cannot be calibrated here"),
        ({"scheme": "IQ2_XXS"}, "IQ2_XXS needs calibration"),
        (
            {"scheme": None, "bits": 5.0},
            "bert.gguf computes embeddings, and mixtures are chosen by what a model answers",
        ),
    ]
    for changed, message in refused:
        with pytest.raises(ConfigError, match=message):
            api.quantize(replace(request, force=True, **changed))


def test_a_model_that_computes_only_zeros_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_module: str, job: CalibrationJob, *_given: object, **_options: object) -> None:
        entry = imatrix.ImatrixEntry(np.zeros((1, 64), np.float32), np.ones(1, np.float32))
        imatrix.write(job.part, ImportanceMatrix({"blk.0.attn_q.weight": entry}))

    monkeypatch.setattr(calibration, "run_job", run)
    data = calibration.select_data(open_source(str(builtin_folder() / "text-F16.gguf")), None, [])
    with pytest.raises(ModelError, match="text-F16.gguf computes only zeros"):
        calibration.collect(data, tmp_path / "part")


def test_experts_are_counted_separately(tmp_path: Path, text: Path) -> None:
    model = tmp_path / "experts.gguf"
    write(model)
    collect(job(model, tmp_path / "part", text, limit=2))
    entry = imatrix.read(tmp_path / "part").entries
    up, dense = entry["blk.0.ffn_up_exps.weight"], entry["blk.0.attn_q.weight"]
    assert up.sums.shape == (4, 64) and up.counts.sum() == 2 * dense.counts[0] == 2 * 128  # two experts per row
    assert entry["blk.0.ffn_down_exps.weight"].counts.tolist() == up.counts.tolist()
    quantized = variant.plan(
        open_source(str(model)), variant.Recipe(find("Q4_0"), matrix=imatrix.read(tmp_path / "part"))
    )
    variant.write(quantized, tmp_path / "q.gguf")


# Samples


def test_samples_are_read_from_text_json_lines_and_question_sets(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Title", encoding="utf-8")
    lines = [{"text": "plain"}, {"messages": [{"role": "user", "content": "Hi"}]}]
    (tmp_path / "b.jsonl").write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        question = {"group": "g", "task": "t", "answer": "Four.",
                    "messages": [{"role": "user", "content": [{"type": "text", "text": "Two and two?"}]}]}  # fmt: skip
        archive.writestr("questions.jsonl", json.dumps(question))
    read = samples.read([tmp_path / "a.md", tmp_path / "b.jsonl", tmp_path / "c.zip"])
    assert read[:2] == [TextSample("# Title"), TextSample("plain")]
    assert all(isinstance(sample, ChatSample) for sample in read[2:]) and len(read) == 4
    assert isinstance(read[3], ChatSample) and read[3].messages[-1].role == "assistant"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ('{"message": []}', "'messages' is missing"),
        ('{"messages": [{"role": "user"}]}', "'content' is missing"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "video", "file": "x"}]}]}',
            "type video is not supported",
        ),
        ('{"messages": [{"role": "user", "content": [{"type": "image", "file": "missing.png"}]}]}', "missing.png"),
        ("[]", "line 2"),
    ],
)
def test_an_invalid_line_is_reported_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "fine"}\n' + line, encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2") as error:
        samples.read([tmp_path / "d.jsonl"])
    assert message in error.value.message


def test_data_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text: byte 3 is invalid"):
        samples.read([tmp_path / "d.txt"])


def test_too_little_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("Hello", encoding="utf-8")
    with pytest.raises(GalagoError, match="too little calibration data"):
        collect(job(TEXT, tmp_path / "part", tmp_path / "d.txt"))


def test_without_data_the_built_in_text_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(TEXT), "--scheme", "IQ2_XS", "-o", str(tmp_path / "q.gguf")]) == 0
    told = capsys.readouterr().out
    assert samples.BUILTIN in told and list(tmp_path.iterdir()) == [tmp_path / "q.gguf"]
    assert read_header(tmp_path / "q.gguf").get("quantize.imatrix.dataset") == samples.BUILTIN


def test_an_empty_matrix_has_no_means() -> None:
    assert not ImportanceMatrix({}).means()
