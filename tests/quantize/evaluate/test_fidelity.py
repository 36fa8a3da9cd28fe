"""KL divergence, agreement and perplexity, compared with a direct computation and resumed after an interruption."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fakes import faulty_models
from galago.models.errors import ModelError
from galago.models.registry.resolve import builtin_folder
from galago.quantize.evaluate.fidelity import (
    WINDOW_NATS,
    PassageMeasurement,
    kl_divergence,
    log_probs,
    pack,
    summarize,
    unpack,
)
from galago.quantize.evaluate.fidelity_job import FidelityJob, LogitsReader, command
from galago.quantize.evaluate.passages import MODALITIES, blank_media, from_questions, modality_of, sample_evenly
from galago.quantize.evaluate.questions import read
from galago.quantize.evaluate.record_log import Record, RecordLog
from galago.quantize.evaluate.variant_grid import quantized_file
from galago.quantize.variants.schemes import find
from galago.runtime.environment import worker_environment
from galago.runtime.llamacpp.context import Context
from galago.runtime.llamacpp.weights import Weights
from galago.runtime.types.prompt import BatchToken

LOGITS = arrays.arrays(np.float32, (3, 50), elements=st.floats(-30, 30, width=32))
TEXT = "There is a red circle above the small blue square. How many shapes are there? Two. " * 40


def exact(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)


@settings(deadline=None)
@given(LOGITS, LOGITS)
def test_divergence_matches_its_definition(one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    p, q = exact(one), exact(other)
    expected = (np.exp(p) * (p - q)).sum(axis=1)
    assert kl_divergence(log_probs(one), log_probs(other)) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert (kl_divergence(log_probs(one), log_probs(one)) == 0).all()


@settings(deadline=None)
@given(LOGITS)
def test_packed_rows_are_restored_almost_exactly(logits: NDArray[np.float32]) -> None:
    logp = log_probs(logits)
    kept = logp > logp.max(axis=1, keepdims=True) - WINDOW_NATS
    assert np.abs(unpack(pack(logp)) - logp)[kept].max() < 1e-3
    assert kl_divergence(unpack(pack(logp)), logp).max() < 1e-6


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(wrong: float) -> None:
    with pytest.raises(ModelError, match="NaN or infinity instead of the probabilities"):
        log_probs(np.array([[0.0, 1.0], [0.0, wrong]], np.float32))


@pytest.mark.parametrize(
    ("fault", "message"), [("nan", "computes NaN or infinity"), ("zeros", "finds all tokens equally likely")]
)
def test_a_model_whose_weights_are_no_use_is_refused(fault: str, message: str, tmp_path: Path) -> None:
    files = faulty_models.as_trusted(faulty_models.write(fault, tmp_path / "model.gguf"))
    reader = LogitsReader(files, threads=1, gpu_layers=0)
    with pytest.raises(ModelError, match=message):
        list(reader.log_probs(reader.text_windows(TEXT, 1)[0]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_summary_weights_positions_equally(seed: int) -> None:
    rng = np.random.default_rng(seed)
    passages = [
        PassageMeasurement(
            tuple(rng.exponential(size=n)), tuple(rng.random(n) < 0.9), tuple(rng.random(n)), tuple(rng.random(n))
        )
        for n in rng.integers(1, 9, 12)
    ]
    summary = summarize(passages)
    assert summary.kl_mean == pytest.approx(np.mean([kl for p in passages for kl in p.kl]))
    assert summary.perplexity == pytest.approx(np.exp(np.mean([loss for p in passages for loss in p.nll])))
    base = np.exp(np.mean([loss for p in passages for loss in p.base_nll]))
    assert summary.perplexity_ratio == pytest.approx(summary.perplexity / base)
    assert (
        summary.kl_low <= summary.kl_mean <= summary.kl_high and summary.top1_low <= summary.top1 <= summary.top1_high
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FidelityJob:
    """The built-in model as the baseline, on a text and a few questions."""
    folder = tmp_path_factory.mktemp("scores")
    text = folder / "text.txt"
    text.write_text(TEXT)
    pair = (str(builtin_folder() / "text-Q8_0.gguf"), str(builtin_folder() / "mmproj-Q8_0.gguf"))
    questions = (str(builtin_folder() / "heldout.zip"),)
    job = FidelityJob(*pair, questions, (str(text),), 2, str(folder / "rows"), "", str(folder / "base"), threads=1)
    score(job)
    return job


@pytest.fixture(scope="module")
def coarse(job: FidelityJob) -> FidelityJob:
    """The same text model in four bits, compared with the baseline."""
    folder = Path(job.rows).parent
    model = quantized_file(Path(job.weights), find("Q4_0"), folder, requantize=True)
    return replace(job, weights=str(model), base=job.records, records=str(folder / "coarse"))


def score(job: FidelityJob) -> list[Record]:
    done = subprocess.run(command(job), capture_output=True, text=True, env=worker_environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    log = RecordLog(Path(job.records))
    assert log.complete
    return log.records


def logits(model: str, tokens: list[int]) -> NDArray[np.float32]:
    """Returns the logits of every position, computed in one step."""
    weights = Weights(Path(model), gpu_layers=0)
    context = Context(weights, 512, 1, 1, draft_rows=511)
    context.decode([BatchToken(token, i, 0, True) for i, token in enumerate(tokens)])
    found = np.stack([context.logits(i) for i in range(len(tokens))])
    context.close()
    weights.close()
    return found


def test_scores_match_a_computation_on_full_logits(job: FidelityJob, coarse: FidelityJob) -> None:
    weights = Weights(Path(job.weights), gpu_layers=0)
    tokens = [weights.bos] * weights.adds_bos + weights.tokenize(TEXT, parse_special=False)
    weights.close()
    assert len(tokens) > 512
    tokens = tokens[:512]
    p, q = exact(logits(job.weights, tokens)[256:511]), exact(logits(coarse.weights, tokens)[256:511])
    expected = (np.exp(p) * (p - q)).sum(axis=1)
    losses = -q[np.arange(255), tokens[257:]]
    found = next(record for record in score(coarse) if record["rows"] == 255)
    assert np.mean(found["kl"]) == pytest.approx(expected.mean(), rel=1e-3)
    assert np.mean(found["nll"]) == pytest.approx(losses.mean(), rel=1e-3)
    assert np.mean(found["same"]) == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean(), abs=0.01)
    assert expected.mean() > 1e-4


def test_every_modality_is_compared_and_the_baseline_equals_itself(job: FidelityJob) -> None:
    records = score(replace(job, base=job.records, records=job.records + "-itself"))
    assert {record["sense"] for record in records} == set(MODALITIES)
    assert max(max(record["kl"]) for record in records) < 1e-6
    assert all(all(record["same"]) for record in records)
    assert all(("blind_nll" in record) == (record["sense"] != "text") for record in records)


def test_an_interrupted_run_resumes(job: FidelityJob) -> None:
    whole, rows = RecordLog(Path(job.records)).records, Path(job.rows).read_bytes()
    lines = Path(job.records).read_bytes().splitlines(keepends=True)
    again = replace(job, rows=job.rows + "-again", records=job.records + "-again")
    RecordLog(Path(again.records)).extend(record | {"kept": True} for record in whole[:3])
    with Path(again.records).open("ab") as file:
        file.write(lines[3][:20])
    kept = sum(record["rows"] for record in whole[:3]) * (len(rows) // sum(record["rows"] for record in whole))
    Path(again.rows).write_bytes(rows[: kept + 77])
    assert ["kept" in record for record in score(again)] == [True] * 3 + [False] * (len(whole) - 3)
    assert len(Path(again.rows).read_bytes()) == len(rows)
    assert Path(again.rows).read_bytes()[:kept] == rows[:kept]
    for one, other in zip(RecordLog(Path(again.records)).records, whole, strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-3)


def test_a_model_with_another_vocabulary_is_refused(job: FidelityJob, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_bytes(Path(job.rows).read_bytes()[:-2])
    other = replace(job, rows=str(rows), base=job.records, records=str(tmp_path / "records"))
    done = subprocess.run(command(other), capture_output=True, text=True, env=worker_environment(), timeout=300)
    assert done.returncode == 1 and "another vocabulary" in done.stderr


def test_blank_media_keep_text_and_modality() -> None:
    questions = sample_evenly(read(builtin_folder() / "heldout.zip"), 3)
    assert len({q.group for q in questions}) * 3 == len(questions)
    for passage in from_questions(questions):
        blind = blank_media(passage.messages)
        assert modality_of(blind) == passage.modality
        assert (blind == passage.messages) == (passage.modality == "text")
