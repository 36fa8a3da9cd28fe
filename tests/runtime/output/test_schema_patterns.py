"""Rewritten patterns match only texts that the original matches, over all short texts of a few characters."""

from __future__ import annotations

import itertools
import re

import pytest

from galago.runtime.output.structured.patterns import not_equal, opposite, whole_text, without_looks

TEXTS = ["".join(chars) for count in range(5) for chars in itertools.product("abk .0", repeat=count)]

LOOKS = [
    r"^(?!\.)(?!.*\.\.)[ab.]+$", r"\bak\b", r"^(?=.*[0-9])(?=.*[a-z]).{2,}$",
    r"^(?!ab)", r"^(?!(?:ab|b)$)[ab]*$",
    r"^(?!.*aba).*$", r"^(?!.*abab)[ab]*$", r"(?!a)b", r"^(?!$).*$", r"^(?!a|bk)", r"\bab",
    r"ab\b", r"^\w+\b$", r"^ab(?!k)", r"(?<=a)b", r"(?<!a)b", r"^a+(?=k)",
]  # fmt: skip


def matches(patterns: list[str], text: str) -> bool:
    return all(re.search(pattern, text, re.ASCII) for pattern in patterns)


@pytest.mark.parametrize("pattern", LOOKS)
def test_patterns_without_look_around_match_what_the_original_matches(pattern: str) -> None:
    rewritten = without_looks(pattern)
    assert rewritten is not None and not any("(?=" in rule or "(?!" in rule for rule in rewritten)
    accepted = [text for text in TEXTS if matches(rewritten, text)]
    assert accepted and all(re.search(pattern, text, re.ASCII) for text in accepted)


@pytest.mark.parametrize("pattern", ["a(?!b)k", r"(\w)(?!\1)", r"\B", "a|(?=b)k", r"^(?!.*[ab]k)"])
def test_other_look_around_is_not_rewritten(pattern: str) -> None:
    assert without_looks(pattern) is None


@pytest.mark.parametrize("pattern", ["^ab$", "ab", "^a", "a|b", "^(a|b)$", "^[a-k]", "aba"])
def test_opposites_match_exactly_the_other_texts(pattern: str) -> None:
    rules = opposite(pattern)
    assert rules is not None
    for text in TEXTS:
        assert matches(rules, text) is not bool(re.search(pattern, text)), text


@pytest.mark.parametrize("text", ["a", "", "a.b", "ab "])
def test_every_text_but_one_is_matched(text: str) -> None:
    rule = not_equal(text)
    assert rule is not None and [other for other in TEXTS if not re.search(rule, other)] == [text]


@pytest.mark.parametrize("pattern", ["^a$", "a", "^a|b$", "a|b", "^(a|b)$", r"\.", r"\.k"])
def test_a_pattern_of_a_part_becomes_one_of_the_whole_text(pattern: str) -> None:
    whole = whole_text(pattern)
    assert whole is not None
    for text in TEXTS:
        assert bool(re.fullmatch(whole, text)) is bool(re.search(pattern, text)), text
