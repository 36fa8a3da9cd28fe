"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest.mock
from pathlib import Path

import pytest

from fakes.server import DATA
from galago.models.registry.resolve import resolve
from galago.runtime.cli.main import COMMANDS
from galago.runtime.cli.ui import progress

GALAGO = [sys.executable, "-m", "galago.runtime.cli.main"]


def galago(*arguments: str | Path, stdin: str | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*GALAGO, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_text_question() -> None:
    assert galago("run", "builtin", "Opposite of big?").stdout == "Small.\n"


def test_a_question_about_a_picture() -> None:
    assert galago("run", "builtin", "Count the shapes.", "--image", DATA / "picture-5.png").stdout == "Four.\n"


def test_a_question_about_a_sound() -> None:
    assert galago("run", "builtin", "What was said?", "--audio", DATA / "sound-1.wav").stdout == "Red diamond.\n"


def test_a_path_with_a_projector() -> None:
    weights = resolve("builtin").weights
    options = ["--mmproj", weights.with_name("mmproj-Q8_0.gguf"), "--image", DATA / "picture-5.png"]
    assert galago("run", weights, "Count the shapes.", *options).stdout == "Four.\n"


def test_an_answer_that_follows_a_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}))
    answer = json.loads(galago("run", "builtin", "What is 8 - 2?", "--json-schema", schema).stdout)
    assert isinstance(answer["n"], int)


def test_a_prompt_from_standard_input() -> None:
    assert galago("run", "builtin", "-", stdin="Opposite of big?").stdout == "Small.\n"


def test_stats_show_time_and_speed() -> None:
    stats = galago("run", "builtin", "Spell ehn.", "--stats").stderr
    assert re.search(r"time to first token \d+ ms, \d+ tokens per second \(\d+ tokens read, \d+ answered\)", stats)


def test_a_cut_answer_says_so() -> None:
    assert "cut off" in galago("run", "builtin", "Spell ehn.", "--max-tokens", "2").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.gguf", "Hi"], "there is no model none.gguf"),
        (["builtin", "Hi", "--image", "none.png"], "there is no file none.png"),
        (["builtin", "Hi", "--image", __file__], "cannot be read as a picture"),
        (["builtin", "Hi", "--temperature", "-1"], "temperature is -1"),
        (["builtin", "Hi", "--max-tokens", "0"], "max_tokens is 0"),
        (["builtin", "Hi", "--ctx", "100000"], "trained for a context of 2048"),
        (["builtin", "Hi", "--threads", "0"], "threads"),
        (["builtin", "Hi", "--json-schema", __file__], "is not JSON"),
        (["builtin", "x " * 3000], "the prompt has"),
        (["builtin", "Hi", "--kv-type", "q8_0", "--flash-attention", "off"], "needs flash attention"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_1(arguments: list[str], words: str) -> None:
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
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    assert galago(*arguments, code=2).stderr


def test_a_conversation() -> None:
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
    said = galago("chat", "builtin", stdin="\n".join(lines)).stdout.splitlines()
    assert (said[0], said[2]) == ("Small.", "Red diamond.") and len(said) == 3


def test_a_conversation_goes_on_after_an_error() -> None:
    done = galago("chat", "builtin", stdin="/image none.png\nOpposite of big?\n")
    assert "there is no file none.png" in done.stderr and done.stdout == "Small.\n"


def test_help_lists_every_command_and_each_explains_itself() -> None:
    text = galago("--help").stdout
    for name, summary in COMMANDS.items():
        assert f"{name} " in text and summary in text
        assert "Usage: galago " + name in galago(name, "--help").stdout


def test_the_version_is_the_package_s() -> None:
    assert re.fullmatch(r"galago \d+\.\d+\.\d+\n", galago("--version").stdout)


def test_a_reader_that_leaves_causes_no_traceback() -> None:
    command = f"{' '.join(GALAGO)} run builtin 'Spell ehn.' | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_a_terminal_without_unicode_is_no_obstacle() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*GALAGO, "run", "builtin", "\u2665"], capture_output=True, timeout=60, env=environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_an_interrupted_answer_exits_with_130() -> None:
    command = [*GALAGO, "run", "builtin", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr and "Traceback" not in process.stderr.read()


def test_a_picture_that_cannot_be_read_does_not_stay_in_the_conversation() -> None:
    done = galago("chat", "builtin", stdin=f"/image {__file__}\nWhat?\nOpposite of big?\n/image\n")
    assert "cannot be read as a picture" in done.stderr and "/image FILE" in done.stderr
    assert done.stdout == "Small.\n"


def test_outputs_that_are_closed_or_full_are_no_crash() -> None:
    for command in (f"{' '.join(GALAGO)} --help >&-", f"{' '.join(GALAGO)} run builtin hi >&-"):
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
    if Path("/dev/full").exists():
        command = f"{' '.join(GALAGO)} run builtin hi >/dev/full"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "Traceback" not in done.stderr and "No space" in done.stderr


def test_an_answer_that_follows_a_grammar(tmp_path: Path) -> None:
    rules = tmp_path / "rules.lark"
    rules.write_text('start: "it is " NUMBER\nNUMBER: /[0-9]{1,3}/', encoding="utf-8")
    answer = galago("run", "builtin", "What is 8 - 2?", "--grammar", rules).stdout
    assert answer.startswith("it is ") and answer[6:].strip().isdecimal()
    assert galago("run", "builtin", "What is 8 - 2?", "--regex", "[abc]{4}").stdout.strip().strip("abc") == ""
    rules.write_bytes(b"\xff")
    assert "not text in UTF-8" in galago("run", "builtin", "Hi", "--grammar", rules, code=1).stderr


def test_a_schema_nested_without_end_is_one_line(tmp_path: Path) -> None:
    schema = tmp_path / "deep.json"
    schema.write_text("[" * 100_000)
    assert "is not JSON" in galago("run", "builtin", "Hi", "--json-schema", schema, code=1).stderr


def test_progress_that_begins_anew_is_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter(range(0, 1000, 5))
    with unittest.mock.patch("time.monotonic", lambda: next(times)), progress.bar("searching", 1.0) as show:
        for done in (0.5, 1.0, 0.05, 0.3):
            show(done, f"at {done}")
    told = [line.split(", ")[1] for line in capsys.readouterr().err.splitlines()]
    assert told == ["50 %: at 0.5", "100 %: at 1.0", "30 %: at 0.3"]
