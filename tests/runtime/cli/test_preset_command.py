"""`galago preset`, and presets in the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.presets import EVERYTHING, write_presets
from galago.models.presets import read_tables
from galago.runtime.cli.main import main


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_presets(tmp_path, "# mine\n", monkeypatch)


def test_every_option_of_create_is_written_and_read_again(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (
        "--model builtin --system S --alias other --keep-alive 1h --temperature 0.5 --top-p 0.9 --top-k 4 --min-p 0.1 "
        "--seed 3 --frequency-penalty 0.1 --presence-penalty 0.2 --repeat-penalty 1.1 --max-tokens 9 --stop A --stop B "
        "--context 512 --parallel 2 --threads 1 --gpu-layers 0 --kv-type q8_0 --flash-attention on "
        "--chat-template plain --cache-ram 16 --memory 90% --draft builtin"
    ).split()
    assert main(["preset", "create", "mine", *given]) == 0
    assert "created the preset mine" in capsys.readouterr().out
    (table,) = read_tables().tables
    assert table.values == {
        "model": "builtin", "keep_alive": "1h", "aliases": ["other"], "system": "S", "temperature": 0.5, "top_p": 0.9,
        "top_k": 4, "min_p": 0.1, "seed": 3, "frequency_penalty": 0.1, "presence_penalty": 0.2, "repeat_penalty": 1.1,
        "max_tokens": 9, "stop": ["A", "B"], "context": 512, "parallel": 2, "threads": 1, "gpu_layers": 0,
        "kv_type": "q8_0", "flash_attention": "on", "chat_template": "plain", "cache_ram": 16, "memory": "90%",
        "draft": "builtin",
    }  # fmt: skip
    assert main(["preset", "show", "OTHER", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "mine", **table.values}]
    assert main(["preset", "show", "mine"]) == 0
    assert capsys.readouterr().out.startswith('[mine]\nmodel = "builtin"\n')
    assert main(["preset", "rm", "mine"]) == 0
    assert file.read_text("utf-8").startswith("# mine") and not read_tables().tables


def test_a_modelfile_becomes_a_preset_under_given_options(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Modelfile"
    path.write_text("FROM nothing-like-it\nSYSTEM S\nPARAMETER seed 1\nPARAMETER mirostat 1\n", "utf-8")
    assert main(["preset", "create", "mine", "--from", str(path)]) == 1
    assert "the preset 'mine': " in capsys.readouterr().err and not read_tables().tables
    assert main(["preset", "create", "mine", "--from", str(path), "--model", "builtin", "--seed", "2"]) == 0
    assert "'mirostat' is left out" in capsys.readouterr().err
    (table,) = read_tables().tables
    assert table.values == {"model": "builtin", "system": "S", "seed": 2}
    path.write_text("FROM builtin\nHELLO\n", "utf-8")
    assert main(["preset", "create", "other", "--from", str(path)]) == 1
    assert "Modelfile, line 2: 'HELLO' is not one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["create", "x"], "name the base model with --model"),
        (["create", "--model", "builtin"], "give the name of the preset"),
        (["create", "builtin", "--model", "builtin"], "always means another model"),
        (["create", "x", "--model", "builtin", "--keep-alive", "soon"], "keep_alive is 'soon'"),
        (["create", "x", "--model", "builtin", "--temperature", "1000"], "temperature is 1000"),
        (["create", "x", "--model", "builtin", "--chat-template", "nothing"], "neither chatml"),
        (["show", "x"], "there is no preset 'x'"),
        (["rm", "x"], "there is no preset 'x'"),
        (["rm", "x", "--top-k", "1"], "takes no settings"),
        (["create", "taken", "--model", "builtin"], "there is a preset 'taken' already"),
    ],
)
def test_mistakes_are_explained_and_change_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    file.write_text('[taken]\nmodel = "builtin"\n', "utf-8")
    assert main(["preset", *arguments]) == 1
    assert problem in capsys.readouterr().err
    assert file.read_text("utf-8") == '[taken]\nmodel = "builtin"\n'


def test_presets_are_listed_with_the_problems_of_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preset", "show"]) == 0
    assert "there are no presets" in capsys.readouterr().out
    file.write_text(
        f'{EVERYTHING}\n[gone]\nmodel = "nothing-like-it"\n[bad]\nmodel = "builtin"\ntop_k = 1.5\n', "utf-8"
    )
    assert main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = {row["model"]: row for row in json.loads(out)}
    assert rows["mario"]["preset_of"] == "builtin" and rows["mario"]["context"] == rows["builtin"]["context"]
    assert "nothing-like-it" in rows["gone"]["problem"] and "bad" not in rows
    assert "top_k is 1.5; it must be a whole number; the preset 'bad' is left out" in err
    assert main(["list"]) == 0
    assert "preset of builtin" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "hint"), [("rm", "galago preset rm mine"), ("show", "galago preset show mine")])
def test_commands_for_models_name_the_one_for_presets(
    file: Path, capsys: pytest.CaptureFixture[str], command: str, hint: str
) -> None:
    file.write_text('[mine]\nmodel = "builtin"\n', "utf-8")
    assert main([command, "mine"]) == 1
    assert f"mine is a preset; {hint}" in capsys.readouterr().err


def test_run_and_chat_use_a_preset_under_their_own_options(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[mine]\nmodel = "builtin"\nsystem = "Say hello."\nmax_tokens = 2\nthreads = 1\n', "utf-8")

    def prompt_and_answer_tokens(*options: str) -> tuple[str, str]:
        assert main(["run", "mine", "Opposite of big?", "--stats", *options]) == 0
        counts = capsys.readouterr().err.rpartition("(")[2]
        return counts.split()[0], counts.split(", ")[1].split()[0]

    prompt, answer = prompt_and_answer_tokens()
    assert answer == "2"
    assert prompt_and_answer_tokens("--system", "Say hello.", "--max-tokens", "1") == (prompt, "1")
    assert prompt_and_answer_tokens("--system", "Say hello to all.")[0] != prompt
    lines = iter(["Opposite of big?", "/bye"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    assert main(["chat", "mine"]) == 0
    assert "the answer was cut off" in capsys.readouterr().err
