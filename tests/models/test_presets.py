"""The file of presets: what is wrong costs one preset and is named with its line, and edits keep the rest."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.models.errors import ConfigError, NotFound
from galago.models.presets import check_name, read_tables, remove_table, write_table

GOOD = '[good]\nmodel = "builtin"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models.toml"


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ('[bad]\nmodel = "builtin\n', r"line 2: Illegal character .*; the preset 'bad' is left out"),
        (
            '[bad]\nmodel = "builtin"\n# note\n\nmodel = "other"\n',
            r"line 5: Cannot overwrite .*; the preset 'bad' is left out",
        ),
        ('[bad]\nsystem = """\nhello\n', r"line \d+: .*is left out"),
        ('[bad]\nsystem = "x"\n', r"line 1: model is missing"),
        ('[bad]\nsystem = """\n[good]\nmodel = 1\n"""\nmodel = 7\n', r"line 6: model is 7"),
        ('[bad]\n"mod\\u0065l" = 7\n', r"line 2: model is 7"),
        ('[bad]\nmodel = "builtin"\naliases = "x"\n', r"line 3: aliases must be a list"),
        ('[bad]\nmodel = "builtin"\n\naliases = [\n "x",\n 1,\n]\n', r"line 4: aliases: 1 is not a name"),
        ('["a/b/c"]\nmodel = "builtin"\n', r"line 1: 'a/b/c' cannot be the name of a preset"),
        ('[builtin]\nmodel = "builtin"\n', r"line 1: 'builtin' always means another model"),
        (f'[bad]\nmodel = "builtin"\ntop_k = {"1" * 5000}\n', r"line 5: .*digits.*; the preset 'bad' is left out"),
        ('[bad]\nmodel = "builtin"\n[[bad.messages]]\nrole =\n', r"line 4: .*; the preset 'bad' is left out"),
        ('bad = "builtin"\n', r"line 1: bad is not in a table"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_costs_one_preset(file: Path, wrong: str, problem: str) -> None:
    ends_open = '"""\nhello\n' in wrong or "1" * 5000 in wrong
    file.write_text(GOOD + wrong if ends_open else wrong + GOOD, "utf-8")
    tables = read_tables(file)
    assert [table.name for table in tables.tables] == ["good"]
    assert len(tables.problems) == 1
    assert re.match(f"{re.escape(str(file))}, {problem}", tables.problems[0])


def test_two_presets_cannot_share_a_name(file: Path) -> None:
    file.write_text(GOOD + '[other]\nmodel = "builtin"\naliases = ["GOOD:latest"]\n', "utf-8")
    tables = read_tables(file)
    assert [table.name for table in tables.tables] == ["good"]
    assert "line 5: aliases: 'GOOD:latest' is already a name of the preset 'good'" in tables.problems[0]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = " + b"[" * 100_000, b"[" * 2000, b"\0", b"[a]\n=\n" * 200])
def test_a_file_that_cannot_be_read_is_a_problem_and_no_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    tables = read_tables(file)
    assert not tables.tables and tables.problems


def test_no_file_is_no_problem(file: Path) -> None:
    assert read_tables(file) == ((), (), {})


@given(st.text("[]a=\"\n'.# 1\\{},", max_size=60))
def test_every_text_is_read_or_a_problem(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "models.toml")
        path.write_text(text, "utf-8")
        tables = read_tables(path)
        parsed = sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))
        assert bool(tables.problems) or bool(tables.tables) or not parsed


def test_edits_keep_comments_and_other_tables(file: Path) -> None:
    file.write_text(f"# mine\n{GOOD}# why\n", "utf-8")
    write_table("new:7b", {"model": "builtin", "system": 'two\nlines "\\ """', "stop": ["a", "b"]}, path=file)
    text = file.read_text("utf-8")
    assert text.startswith("# mine\n") and "# why" in text
    tables = {table.name: table.values for table in read_tables(file).tables}
    assert tables["new:7b"] == {"model": "builtin", "system": 'two\nlines "\\ """', "stop": ["a", "b"]}
    with pytest.raises(ConfigError, match="there is a preset 'new:7b' already"):
        write_table("NEW:7b", {"model": "x"}, path=file)
    write_table("NEW:7b", {"model": "x"}, replace=True, path=file)
    assert [table.values["model"] for table in read_tables(file).tables] == ["builtin", "x"]
    assert remove_table("new:7b", file) == "new:7b"
    assert [table.name for table in read_tables(file).tables] == ["good"] and "# mine" in file.read_text("utf-8")
    with pytest.raises(NotFound, match="no preset 'new:7b'"):
        remove_table("new:7b", file)


def test_presets_written_at_once_are_all_kept(file: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: write_table(f"p{i}", {"model": "builtin"}, path=file), range(24)))
    assert {table.name for table in read_tables(file).tables} == {f"p{i}" for i in range(24)}


def test_a_broken_file_is_not_written(file: Path) -> None:
    file.write_text("[good\n", "utf-8")
    with pytest.raises(ConfigError, match="is broken; correct it first"):
        write_table("new", {"model": "builtin"}, path=file)
    assert file.read_text("utf-8") == "[good\n"


@pytest.mark.parametrize("name", ["mario", "mario:7b", "me/mario", "Mario_2.1", "mario:latest"])
def test_names_of_ollama_are_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "x.gguf", "./x", "a b", "builtin", "DEFAULT", "x" * 101, "a/b/c", "\n", 7])
def test_other_texts_are_no_names(name: object) -> None:
    with pytest.raises(ConfigError):
        check_name(name)
