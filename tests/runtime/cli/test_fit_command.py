"""`galago fit`, and the memory limit of other commands."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from galago.models import device
from galago.models.registry.resolve import resolve
from galago.runtime import load
from galago.runtime.cli.main import main
from galago.runtime.config import ModelConfig
from galago.runtime.inference import machine_benchmark
from galago.runtime.pool.budget import plan_load
from galago.runtime.pool.llama_build import installed_build

TEXT = resolve("builtin").weights


Capture = pytest.CaptureFixture[str]


def fit(capsys: Capture, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What `galago fit` prints to standard output and standard error."""
    assert main(["fit", *arguments]) == code
    return capsys.readouterr()


def test_test_models_are_not_recommended(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_benchmark, "measured", lambda *_: None)
    machine = dataclasses.replace(device.this_machine(), total_memory_bytes=64 << 30, available_memory_bytes=64 << 30)
    monkeypatch.setattr(device, "this_machine", lambda: machine)
    for command in (["fit", "--budget", "32GB"], ["search", "--fits"]):
        assert main(command) == 0
        found = capsys.readouterr().out
        assert "\nqwen3.5-0.8b" in found and "tinygemma3" not in found
    assert main(["search", "tinygemma3"]) == 0 and "tinygemma3  test  38M" in capsys.readouterr().out


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "galago.runtime.cli.main", "run", "builtin", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_model_that_fits_is_described(capsys: Capture) -> None:
    said, _ = fit(capsys, "builtin")
    assert re.match(r"builtin fits: a context of 2048 tokens, 4 requests at once, in \d+ MB of ", said)
    assert all(word in said for word in ("weights", "projector", "context", "caches", "tokens/s"))


def test_a_model_that_fits_is_printed_as_json(capsys: Capture) -> None:
    found = json.loads(fit(capsys, "builtin", "--context", "512", "--parallel", "2", "--json")[0])
    assert (found["fits"], found["context"], found["parallel"], found["largest_context"]) == (True, 512, 2, 2048)
    assert found["needed"] == sum(found["bytes"].values())
    assert found["speed"]["first"] >= found["speed"]["last"] > 0


def test_a_model_that_does_not_fit_is_reported_in_one_line(capsys: Capture) -> None:
    said, error = fit(capsys, "builtin", "--budget", "100MB", code=1)
    assert said == "" and len(error.splitlines()) == 1
    assert re.search(r"does not fit: a context of 256 tokens needs \d+ MB, but only 100 MB are available", error)
    assert json.loads(fit(capsys, "builtin", "--budget", "100MB", "--json", code=1)[0])["fits"] is False


def test_a_model_of_the_catalog_is_estimated_before_it_is_downloaded(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # nothing is installed
    machine = dataclasses.replace(device.this_machine(), total_memory_bytes=64_000_000_000)
    monkeypatch.setattr(device, "this_machine", lambda: machine)
    said, _ = fit(capsys, "qwen3.5-0.8b", "--budget", "64GB")
    assert re.match(r"qwen3.5-0.8b:\S+ fits: a context of \d+ tokens in about .* of 64", said)
    assert "galago pull qwen3.5-0.8b" in said
    _, error = fit(capsys, "qwen3.5-0.8b", "--budget", "100MB", code=1)
    assert "qwen3.5-0.8b" in error and "does not fit, by the catalog's figures" in error
    row = json.loads(fit(capsys, "qwen3.5-0.8b", "--budget", "64GB", "--json")[0])
    assert row["fits"] and not row["installed"] and row["needed"] > 0
    assert "for another quantization, pull it" in fit(capsys, "qwen3.5-0.8b:q1_0", code=1)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give a MODEL"),
        (("--budget", "4GB", "--context", "512"), 2, "give a MODEL"),
        (("--budget", "much"), 1, "is not an amount of memory"),
        (("builtin", "--context", "99999"), 1, "trained for a context of 2048"),
        (("builtin", "--context", "5"), 1, "at least 64"),
        (("missing.gguf",), 1, "there is no model missing.gguf"),
        (("builtin", "--mmproj", str(TEXT)), 1, "is not a projector"),
    ],
)
def test_wrong_arguments_have_clear_errors(capsys: Capture, arguments: tuple[str, ...], code: int, words: str) -> None:
    assert words in fit(capsys, *arguments, code=code)[1]


def test_run_reports_the_context_that_a_memory_limit_leads_to() -> None:
    done = run("Opposite of big?", "--memory", "450MB")
    assert done.stdout == "Small.\n"
    assert re.search(r"of 450 MB of memory: a context of 2048 tokens, 1 request at once", done.stderr)
    refused = run("Hi", "--memory", "50MB", code=1)
    assert re.search(r"builtin needs \d+ MB for a context of 256 tokens, but may take only 50 MB", refused.stderr)


def test_a_memory_limit_sets_only_what_was_not_given() -> None:
    files = resolve(TEXT)
    least = min(memory for memory in range(300, 700) if _settled(memory)) * 10**6

    def chosen(memory: int, **given: int) -> tuple[int | None, int | None]:
        plan = plan_load(files, ModelConfig(memory=memory, **given), installed_build())  # type: ignore[arg-type]
        assert len(plan.notes) == 1
        return plan.config.context_length, plan.config.slots

    steps = [chosen(least + extra * 1_000_000) for extra in range(12)]
    assert steps == sorted(steps) and steps[0] < steps[-1]
    assert chosen(least, context_length=2048, slots=3) == (2048, 3)
    assert chosen(10**9, slots=3) == (2048, 3)
    assert chosen(10**9, context_length=1024) == (1024, 1)
    assert plan_load(files, ModelConfig(), installed_build()).notes == ()


def _settled(megabytes: int) -> bool:
    from galago.models.errors import ConfigError

    try:
        plan_load(resolve(TEXT), ModelConfig(memory=megabytes * 10**6), installed_build())
    except ConfigError:
        return False
    return True


def test_the_python_api_has_the_same_memory_limit() -> None:
    with load("builtin", memory="600MB", slots=2) as model:
        assert model.info.context_length == 2048
        assert model.chat("Opposite of big?") == "Small."
