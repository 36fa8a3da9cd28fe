"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import unittest.mock
from pathlib import Path

import pytest

from fakes.server import DATA
from fakes.waiting import wait_until_read
from galago.models import errors
from galago.models.registry.resolve import resolve
from galago.runtime.cache.disk_cache import DiskCache
from galago.runtime.cli.main import COMMANDS, main
from galago.runtime.cli.ui import help_pages, options, progress

DOCS = Path(__file__).parents[3] / "docs"
GALAGO = [sys.executable, "-m", "galago.runtime.cli.main"]


def galago(*arguments: str | Path, stdin: str | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*GALAGO, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_run_answers_without_standard_input_and_standard_error() -> None:
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *GALAGO, "run", "builtin", "Opposite of big?"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "Small.\n")


def test_run_answers_text() -> None:
    assert galago("run", "builtin", "Opposite of big?").stdout == "Small.\n"


def test_run_answers_about_an_image() -> None:
    assert galago("run", "builtin", "Count the shapes.", "--image", DATA / "picture-5.png").stdout == "Four.\n"


def test_run_answers_about_audio() -> None:
    assert galago("run", "builtin", "What was said?", "--audio", DATA / "sound-1.wav").stdout == "Red diamond.\n"


def test_run_takes_the_paths_of_a_model_and_its_projector() -> None:
    weights = resolve("builtin").weights
    options: list[str | Path] = ["--mmproj", weights.with_name("mmproj-Q8_0.gguf"), "--image", DATA / "picture-5.png"]
    assert galago("run", weights, "Count the shapes.", *options).stdout == "Four.\n"


def test_run_follows_a_json_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}))
    answer = json.loads(galago("run", "builtin", "What is 8 - 2?", "--json-schema", schema).stdout)
    assert isinstance(answer["n"], int)


def test_run_reads_the_prompt_from_standard_input() -> None:
    assert galago("run", "builtin", "-", stdin="Opposite of big?").stdout == "Small.\n"


def test_stats_show_time_and_speed() -> None:
    stats = galago("run", "builtin", "Spell ehn.", "--stats").stderr
    assert re.search(
        r"time to first token \d+ ms, \d+ tokens per second \(\d+ prompt tokens, \d+ answer tokens\)", stats
    )


def test_run_says_that_an_answer_was_cut_off() -> None:
    assert "cut off" in galago("run", "builtin", "Spell ehn.", "--max-tokens", "2").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.gguf", "Hi"], "there is no model none.gguf"),
        (["builtin", "Hi", "--image", "none.png"], "there is no file none.png"),
        (["builtin", "Hi", "--image", __file__], "cannot be read as an image"),
        (["builtin", "Hi", "--temperature", "-1"], "temperature is -1"),
        (["builtin", "Hi", "--max-tokens", "-5"], "max_tokens is -5"),
        (["builtin", "Hi", "--ctx", "100000"], "trained for a context of 2048"),
        (["builtin", "Hi", "--threads", "0"], "threads"),
        (["builtin", "Hi", "--json-schema", __file__], "is not JSON"),
        (["builtin", "x " * 3000], "the prompt has"),
        (["builtin", "Hi", "--kv-type", "q8_0", "--flash-attention", "off"], "needs flash attention"),
    ],
)
def test_errors_are_one_line_and_exit_1(arguments: list[str], words: str) -> None:
    done = galago("run", *arguments, code=1)
    assert done.stdout == "" and done.stderr.startswith("galago: ") and words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "builtin"],
        ["run", "builtin", "Hi", "--no-such"],
        ["dance"],
        ["serve", "--port", "x"],
        ["chat", "builtin", "--kv-type", "q9"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert galago(*arguments, code=2).stderr


def test_a_mistyped_command_and_a_wrong_value_say_what_was_meant() -> None:
    assert galago("runn", code=2).stderr.endswith("'runn'; did you mean run? galago --help lists the commands\n")
    wrong = galago("chat", "builtin", "--kv-type", "q9", code=2).stderr
    assert "Invalid value for '--kv-type': 'q9' is not one of 'f16', 'q8_0', 'q4_0'." in wrong


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    fake = tmp_path / "fake.png"
    fake.write_text("# no picture")
    done = galago("run", "builtin", "Count.", "--image", DATA / "picture-5.png", "--image", fake, code=1)
    assert f"galago: {fake}: a file that starts with the bytes" in done.stderr
    chat = galago("chat", "builtin", stdin=f"/image {fake}\nCount.\n")
    assert f"galago: {fake}: a file that starts with the bytes" in chat.stderr


def test_a_missing_file_is_reported_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "load", unittest.mock.Mock(side_effect=AssertionError("the model was loaded")))
    assert main(["run", "builtin", "Count.", "--image", "nowhere.png"]) == 1
    assert "there is no file nowhere.png" in capsys.readouterr().err


def test_chat_remembers_clears_and_leaves() -> None:
    lines = [
        "Opposite of big?",
        f"/image {DATA / 'picture-5.png'}",
        "Count the shapes.",
        "/clear",
        f"/audio {DATA / 'sound-1.wav'}",
        "What was said?",
        "/bye",
        "never",
    ]
    answers = galago("chat", "builtin", stdin="\n".join(lines)).stdout.splitlines()
    assert (answers[0], answers[2]) == ("Small.", "Red diamond.") and len(answers) == 3


def test_chat_continues_after_an_error() -> None:
    done = galago("chat", "builtin", stdin="/foo\n/image none.png\nOpposite of big?\n")
    assert "there is no command /foo; nothing was sent to the model" in done.stderr
    assert "there is no file none.png" in done.stderr and done.stdout == "Small.\n"


def test_help_lists_every_command_and_each_has_help() -> None:
    text = galago("--help").stdout
    for name, summary in COMMANDS.items():
        assert f"{name} " in text and summary in text
        assert "Usage: galago " + name in galago(name, "--help").stdout


def test_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"galago \d+\.\d+\.\d+\n", galago("--version").stdout)


def test_a_closed_pipe_causes_no_traceback() -> None:
    command = f"{' '.join(GALAGO)} run builtin 'Spell ehn.' | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_run_works_on_a_terminal_without_unicode() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*GALAGO, "run", "builtin", "\u2665"], capture_output=True, timeout=60, env=environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_an_interrupted_answer_exits_with_130() -> None:
    command = [*GALAGO, "run", "builtin", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin
        process.stdin.write("What")
        process.stdin.flush()
        wait_until_read(process.stdin)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr and "Traceback" not in process.stderr.read()


def test_chat_drops_an_image_that_cannot_be_read() -> None:
    done = galago("chat", "builtin", stdin=f"/image {__file__}\nWhat?\nOpposite of big?\n/image\n")
    assert "cannot be read as an image" in done.stderr and "/image FILE" in done.stderr
    assert done.stdout == "Small.\n"


def test_closed_and_full_outputs_cause_no_traceback() -> None:
    for command in (f"{' '.join(GALAGO)} --help >&-", f"{' '.join(GALAGO)} run builtin hi >&-"):
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
    if Path("/dev/full").exists():
        command = f"{' '.join(GALAGO)} run builtin hi >/dev/full"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "Traceback" not in done.stderr and "No space" in done.stderr


def test_run_follows_a_grammar_and_a_regex(tmp_path: Path) -> None:
    rules = tmp_path / "rules.lark"
    rules.write_text('start: "it is " NUMBER\nNUMBER: /[0-9]{1,3}/', encoding="utf-8")
    answer = galago("run", "builtin", "What is 8 - 2?", "--grammar", rules).stdout
    assert answer.startswith("it is ") and answer[6:].strip().isdecimal()
    assert galago("run", "builtin", "What is 8 - 2?", "--regex", "[abc]{4}").stdout.strip().strip("abc") == ""
    rules.write_bytes(b"\xff")
    assert "not text in UTF-8" in galago("run", "builtin", "Hi", "--grammar", rules, code=1).stderr


def test_a_deeply_nested_schema_is_one_error_line(tmp_path: Path) -> None:
    schema = tmp_path / "deep.json"
    schema.write_text("[" * 100_000)
    assert "is not JSON" in galago("run", "builtin", "Hi", "--json-schema", schema, code=1).stderr


def test_progress_that_restarts_is_printed_again(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter(range(0, 1000, 5))
    with unittest.mock.patch("time.monotonic", lambda: next(times)), progress.bar("searching", 1.0) as update:
        for done in (0.5, 1.0, 0.05, 0.3):
            update(done, f"at {done}")
    printed = [line.split(", ")[1] for line in capsys.readouterr().err.splitlines()]
    assert printed == ["50 %: at 0.5", "100 %: at 1.0", "30 %: at 0.3"]


def test_errors_name_the_page_that_helps() -> None:
    assert galago("run", "none.gguf", "Hi", code=1).stderr.endswith("(see docs/guide/models.md)\n")
    assert help_pages.page_for(errors.GGUFError("damaged")) == "docs/guide/models.md"
    assert help_pages.page_for(errors.ConfigError("no GPU", "gpu-layers")) == "docs/guide/gpu.md"
    assert help_pages.page_for(errors.InvalidRequest("top_p is 2", "top_p")) is None


def test_cache_shows_and_deletes_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    stored = DiskCache(folder, ("model", "build"), 2**24, print)
    stored.put("state", "prefix", {}, b"x" * 2**20)
    stored.close()
    status = galago("cache", "status", folder).stdout
    assert re.fullmatch(r"1 file \(1\.0 MiB\) of 1 model\n  prefixes: 1 file \(1\.0 MiB\), least .*\n", status)
    assert galago("cache", "clear", folder).stdout == "deleted 1 file\n"
    assert "there is no folder" in galago("cache", "status", tmp_path / "none", code=1).stderr


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")
def test_the_pages_that_errors_name_exist() -> None:
    pages = {*help_pages.PAGES.values(), *help_pages.PARAM_PAGES.values()}
    assert {page for page in pages if not (DOCS.parent / page).is_file()} == set()
