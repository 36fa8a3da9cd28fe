"""The commands that manage models, with a local Hub, and the server's list of models."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from huggingface_hub import constants

from fakes.hub import LocalHub, digest, running
from fakes.scripts import scripts_environment
from fakes.server import DATA, serving
from galago.models.registry.resolve import builtin_folder
from galago.runtime.cli.main import main

GALAGO = [sys.executable, "-m", "galago.runtime.cli.main"]
TEXT = (builtin_folder() / "text-Q8_0.gguf").read_bytes()
EYES = (builtin_folder() / "mmproj-Q8_0.gguf").read_bytes()
CATALOG = """
[[model]]
name = "omni"
repository = "acme/omni-GGUF"
senses = ["vision", "audio"]
parameters = 3_670_000
licence = "MIT"
conditions = "be kind"
quants = [{ name = "Q8_0", total = 8_570_000 }, { name = "F16" }]
"""


class Output(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A user with an empty cache and a catalog of one model, and a local Hub that has it."""
    with running() as hub:
        hub.put("acme/omni-GGUF", {"omni-Q8_0.gguf": TEXT, "mmproj-omni-Q8_0.gguf": EYES})
        for name, value in (("HF_ENDPOINT", hub.url), ("HF_HOME", str(tmp_path / "hf")), ("HOME", str(tmp_path))):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))  # not those of the machine
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, str(tmp_path / name))
        catalog = tmp_path / "XDG_CONFIG_HOME/galago/catalog.toml"
        catalog.parent.mkdir(parents=True)
        catalog.write_text(CATALOG)
        yield hub


def galago(*arguments: str | Path, code: int = 0) -> Output:
    """Runs a command in this process, which is much faster than in one of its own."""
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        assert main([*map(str, arguments)]) == code, (stdout.getvalue(), stderr.getvalue())
    assert "Traceback" not in stderr.getvalue()
    return Output(stdout.getvalue(), stderr.getvalue())


def as_json(*arguments: str | Path, code: int = 0) -> Any:
    return json.loads(galago(*arguments, "--json", code=code).stdout)


def test_a_model_is_searched_pulled_used_and_removed(home: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\nomni " in galago("search", "sound").stdout
    assert "hf:acme/omni-GGUF  7 downloads" in galago("search", "omni", "--hub").stdout
    assert "install it with: galago pull omni" in galago("run", "omni", "Hi", code=1).stderr
    output = galago("pull", "omni")
    assert "acme/omni-GGUF at main, commit " in output.stdout and "be kind" in output.stdout
    assert (
        "omni is installed, and its files match their published digests. Try it with: galago run omni" in output.stdout
        and "100 %" in output.stderr
    )
    assert "already installed" in galago("pull", "omni").stdout
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the Hub was not asked" in (offline := galago("pull", "omni").stdout) and "already installed" in offline
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "omni:q8_0  8.57 MB" in galago("list").stdout
    details = galago("show", "omni").stdout
    assert "be kind" in details and "context          2048" in details
    question: list[str | Path] = ["Count the shapes.", "--image", DATA / "picture-5.png"]
    for name in ("omni", "hf:acme/omni-GGUF:Q8_0"):
        assert galago("run", name, *question).stdout == "Four.\n"
    assert galago("verify", "omni").stdout.count("matches its published digest") == 2
    assert "deleted omni, which freed 8.57 MB" in galago("rm", "omni").stdout
    assert "omni" not in galago("list").stdout
    assert "is not installed" in galago("rm", "omni", code=1).stderr


def test_the_catalog_is_shown_even_if_the_hub_cannot_be_asked(home: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = galago("search", "omni", "--hub", code=1)
    assert "\nomni " in done.stdout and "HF_HUB_OFFLINE" in done.stderr


def test_unconfirmed_facts_are_named_as_they_are_printed(home: LocalHub, tmp_path: Path) -> None:
    catalog = tmp_path / "XDG_CONFIG_HOME/galago/catalog.toml"
    catalog.write_text(CATALOG + 'unverified = ["licence", "quants.F16"]\n')
    assert re.search(r"^  not confirmed +license, F16$", galago("show", "omni").stdout, re.MULTILINE)


def test_every_command_prints_json(home: LocalHub) -> None:
    (found,) = [row for row in as_json("search", "omni") if row["model"] == "omni"]
    assert found["conditions"] == "be kind" and found["quants"][0]["total"] == 8_570_000
    pulled = as_json("pull", "omni")
    assert pulled["downloaded"] == pulled["size"] == len(TEXT) + len(EYES)
    assert [file["digest"] for file in pulled["files"]] == [digest(TEXT), digest(EYES)]
    listed = {row["model"]: row for row in as_json("list")}
    assert listed["omni:q8_0"]["vision"] and listed["omni:q8_0"]["context"] == 2048 and "builtin" in listed
    details = as_json("show", "omni")
    assert details["installed"] and details["catalogue"]["licence"] == "MIT" and details["commit"] == pulled["commit"]
    assert as_json("show", details["projector"])["kind"] == "projector"
    assert [row["problem"] for row in as_json("verify")] == [None, None]
    assert as_json("rm", "omni")["freed"] == len(TEXT) + len(EYES)


def test_the_list_of_models_fits_a_terminal(home: LocalHub, tmp_path: Path) -> None:
    galago("pull", "omni")
    folder = tmp_path / "a folder with a long name for models of other programs"
    folder.mkdir()
    os.link(builtin_folder() / "text-Q8_0.gguf", folder / "a-model-whose-name-is-as-long-as-they-are-today-Q8_0.gguf")
    (folder / "cut.gguf").write_bytes(TEXT)
    galago("import", folder)
    (folder / "cut.gguf").write_bytes(TEXT[:1000])
    *tables, places = (block.splitlines() for block in galago("list").stdout.split("\n\n"))
    lines = [line for table in tables for line in table]
    assert max(map(len, lines)) <= 80 and places[0].split() == ["model", "from"]
    assert any(line.startswith("cut: ") and "cut.gguf" in line for line in places)
    assert sum("images, audio" in line for line in lines) == 2


def test_verify_reports_a_damaged_file_and_how_to_repair_it(home: LocalHub) -> None:
    path = Path(as_json("pull", "omni")["files"][0]["path"])
    with path.resolve().open("r+b") as file:
        file.seek(-50, 2)
        file.write(b"\x99")
    output = galago("verify", code=1).stdout
    assert "its content differs from the published file" in output
    assert "galago rm omni:q8_0 && galago pull omni:q8_0" in output
    for command in ("rm", "pull", "verify"):
        galago(command, "omni:q8_0")


def test_models_of_other_programs_are_used_without_copying(home: LocalHub, tmp_path: Path) -> None:
    assert "neither LM Studio nor Ollama" in galago("import", code=1).stderr
    folder = tmp_path / ".lmstudio/models/acme/omni"
    folder.mkdir(parents=True)
    os.link(builtin_folder() / "text-Q8_0.gguf", folder / "theirs-Q8_0.gguf")
    os.link(builtin_folder() / "mmproj-Q8_0.gguf", folder / "mmproj-theirs.gguf")
    assert "imported 1 model; no files were copied" in galago("import").stdout
    assert galago("run", "theirs-q8_0", "Count the shapes.", "--image", DATA / "picture-5.png").stdout == "Four.\n"
    assert (
        "removed theirs-q8_0 from the list" in galago("rm", "theirs").stdout and (folder / "theirs-Q8_0.gguf").exists()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "omny"], "did you mean omni"),
        (["pull", "builtin"], "nothing to pull"),
        (["pull", "./x.gguf"], "nothing to pull"),
        (["pull", "omni:q3_k"], "acme/omni-GGUF has no weights with quantization q3_k; it has q8_0"),
        (["pull", "acme/none"], "there is no repository acme/none"),
        (["pull", "a b"], "'a b' is not a model name"),
        (["show", "none.gguf"], "there is no file none.gguf"),
        (["show", __file__], "not a GGUF file"),
        (["rm", "builtin"], "cannot be deleted"),
        (["rm", "x.gguf"], "delete it yourself"),
        (["verify", "omni"], "galago pull omni"),
        (["import", "/nowhere"], "no GGUF models"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(home: LocalHub, arguments: list[str], words: str) -> None:
    done = galago(*arguments, code=1)
    assert done.stderr.startswith("galago: ") and words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["pull"], ["rm"], ["show"], ["list", "x"], ["pull", "a", "b"], ["rm", "--x"]])
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    assert galago(*arguments, code=2).stderr


def test_an_interrupted_pull_has_exit_code_130_and_can_be_continued(home: LocalHub) -> None:
    under_way = threading.Event()

    def pace(at: int) -> None:
        if at > 1_200_000:
            under_way.set()
            time.sleep(0.05)

    home.fault(TEXT, pace=pace)
    with subprocess.Popen([*GALAGO, "pull", "omni"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert under_way.wait(20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130 and process.stderr and b"Traceback" not in process.stderr.read()
    home.faults.clear()
    galago("pull", "omni")
    assert galago("verify", "omni").stdout.count("matches its published digest") == 2


def test_the_server_lists_installed_models_and_accepts_every_spelling(home: LocalHub) -> None:
    galago("pull", "omni")
    with serving("--model", "omni") as server:
        server.wait_until_ready()
        cards = {card["id"]: card for card in httpx.get(f"{server.url}/v1/models").json()["data"]}
        assert {name: card["loaded"] for name, card in cards.items()} == {"omni": True, "builtin": False}
        assert cards["builtin"]["input_modalities"] == ["text", "image", "audio"]
        assert cards["builtin"]["context_length"] == 2048 and cards["builtin"]["size_bytes"] > 4_000_000
        assert httpx.get(f"{server.url}/v1/models/builtin").json()["loaded"] is False
        for name in ("omni", "omni:q8_0", "hf:acme/omni-GGUF", "acme/omni-GGUF:Q8_0"):
            assert server.ask("Opposite of big?", model=name).json()["choices"][0]["message"]["content"] == "Small."
        for name in ("gemma4-e2b", "acme/other-GGUF"):
            assert "'omni' answers instead" in server.ask("Opposite of big?", model=name).json()["warnings"][0]
        answer = server.ask("Opposite of big?", model="builtin")
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_the_catalog_is_checked_against_the_hub(home: LocalHub) -> None:
    def check() -> tuple[int, str]:
        command = [sys.executable, "-m", "checks", "catalog", "omni"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=scripts_environment())
        return done.returncode, done.stdout

    home.repos["acme/omni-GGUF"].licence = "mit"
    home.put("acme/omni-GGUF", {"omni-Q8_0.gguf": TEXT, "omni-F16.gguf": TEXT, "mmproj-omni-Q8_0.gguf": EYES})
    assert check() == (0, "0 wrong\n")
    home.repos["acme/omni-GGUF"].licence = "agpl-3.0"
    home.put("acme/omni-GGUF", {"omni-Q8_0.gguf": TEXT + bytes(1 << 20)})
    code, output = check()
    assert (
        code == 1
        and "omni: licence: the Hub says agpl-3.0" in output
        and "has no weights with quantization f16" in output
    )
    assert (
        "omni: quants.Q8_0: total is 4977088 bytes, not 8570000" in output
        and "the repository has no projector" in output
    )
