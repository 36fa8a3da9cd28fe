"""Ollama's Modelfiles are read as Ollama reads them, and written so that they can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.models.errors import ConfigError
from galago.models.modelfile import KEYWORDS, ROLES, Instruction, modelfile_text, parse_modelfile


def pairs(text: str) -> list[tuple[str, str, str]]:
    return [(one.keyword, one.argument, one.value) for one in parse_modelfile(text)]


def test_keywords_have_any_case_and_comments_and_empty_lines_are_skipped() -> None:
    assert pairs(
        "# a\n\n  from llama3.2:1b  \r\nParameter\ttemperature  0.5\n# b\nSYSTEM be nice # not a comment\n"
    ) == [
        ("FROM", "", "llama3.2:1b"),
        ("PARAMETER", "temperature", "0.5"),
        ("SYSTEM", "", "be nice # not a comment"),
    ]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"""one"""', "one"),
        ('"""one\ntwo"""', "one\ntwo"),
        ('"""\n# one\nFROM x\n"""', "\n# one\nFROM x\n"),
        ('"""say "hi""""', 'say "hi"'),
        ('"one"', "one"),
        ('"one\ntwo"', "one\ntwo"),
        ('"  "', "  "),
        ('one "two"', 'one "two"'),
        ("", ""),
        ('""', ""),
        ('""""""', ""),
    ],
)
def test_quotes_spread_a_value_over_lines(written: str, value: str) -> None:
    assert pairs(f"FROM x\nSYSTEM {written}\nPARAMETER stop {written}\n")[1:] == [
        ("SYSTEM", "", value),
        ("PARAMETER", "stop", value),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM x\n\nHELLO y\n", "line 3: 'HELLO' is not one of FROM, SYSTEM"),
        ('FROM x\nSYSTEM """open\n\n', "line 2: the quotes of SYSTEM are not closed"),
        ("FROM x\nPARAMETER\n", "line 2: PARAMETER needs the name of a parameter"),
        ("FROM x\nMESSAGE robot hi\n", "line 2: 'robot' is not a role; use system, user, assistant"),
        ("FROM\n", "line 1: FROM needs the name of a model"),
        ("SYSTEM x\n", "the Modelfile has no FROM"),
        ("", "the Modelfile has no FROM"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        parse_modelfile(text)


VALUES = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=40).filter(
    lambda value: '"""' not in value
)
INSTRUCTIONS = st.one_of(
    st.builds(Instruction, st.sampled_from([k for k in KEYWORDS if k not in ("FROM", "PARAMETER", "MESSAGE")]), VALUES),
    st.builds(Instruction, st.just("PARAMETER"), VALUES, st.text("abc_", min_size=1)),
    st.builds(Instruction, st.just("MESSAGE"), VALUES, st.sampled_from(ROLES)),
)


@given(st.lists(INSTRUCTIONS, max_size=6))
def test_what_is_written_is_read_again(instructions: list[Instruction]) -> None:
    instructions = [Instruction("FROM", "base"), *instructions]
    assert parse_modelfile(modelfile_text(instructions)) == instructions


@given(st.lists(st.sampled_from(['"""', '"', "FROM x", "\n", " ", "#", "SYSTEM", "MESSAGE user", "PARAMETER a", "é"])))
def test_any_text_is_read_or_refused_with_a_reason(pieces: list[str]) -> None:
    try:
        assert parse_modelfile("".join(pieces))[0].line >= 1
    except ConfigError as error:
        assert error.message
