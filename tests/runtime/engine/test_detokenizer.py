"""Assembling an answer's text: whole characters, stop strings, and independence of how the bytes were split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.runtime.engine.sequence import Detokenizer


def assemble(parts: list[bytes], stop: list[str]) -> tuple[str, bool]:
    text = Detokenizer(stop)
    out = "".join(text.feed(part) for part in parts)
    return out + text.finish(), text.stopped


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def test_a_character_split_over_tokens_is_joined() -> None:
    text = Detokenizer()
    heart = "\u2665".encode()
    assert text.feed(heart[:1]) == ""
    assert text.feed(heart[1:]) == "\u2665"


def test_an_incomplete_character_at_the_end_becomes_a_replacement_character() -> None:
    assert assemble(["\u2665".encode()[:2]], []) == ("\ufffd", False)


def test_the_answer_ends_before_the_stop_string() -> None:
    assert assemble([b"one two three"], [" two"]) == ("one", True)


def test_a_stop_string_split_over_tokens_is_found() -> None:
    assert assemble([b"one <", b"/s", b"> two"], ["</s>"]) == ("one ", True)


def test_text_that_only_begins_like_a_stop_string_is_released() -> None:
    text = Detokenizer(["</s>"])
    assert text.feed(b"a <") == "a "
    assert text.feed(b"b>") == "<b>"


def test_held_back_text_is_released_at_the_end() -> None:
    assert assemble([b"one </s"], ["</s>"]) == ("one </s", False)


def test_nothing_is_held_back_without_stop_strings() -> None:
    assert Detokenizer().feed(b"x") == "x"


def test_nothing_follows_a_stop() -> None:
    text = Detokenizer(["."])
    assert (text.feed(b"a.b"), text.feed(b"c"), text.finish()) == ("a", "", "")


@pytest.mark.parametrize(("stop", "expected"), [(["c", "abcd"], "ab"), (["bc", "c"], "a"), (["aa"], "b")])
def test_the_stop_string_that_is_complete_first_wins(stop: list[str], expected: str) -> None:
    data = b"baaa" if stop == ["aa"] else b"abcd"
    assert assemble([data], stop)[0] == expected
    assert assemble([bytes([b]) for b in data], stop)[0] == expected


@given(
    st.text(alphabet="ab\u00e9\u2665", max_size=30),
    st.lists(st.text(alphabet="ab\u00e9\u2665", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_any_split_gives_the_same_answer(text: str, stop: list[str], cuts: list[int]) -> None:
    data = text.encode()
    whole = assemble([data], stop)
    assert assemble(split(data, cuts), stop) == whole
    ends = [at + len(s) for s in stop if (at := text.find(s)) >= 0]
    if ends:
        assert whole[1]
        assert any(text[: min(ends)].endswith(s) and whole[0] == text[: min(ends) - len(s)] for s in stop)
    else:
        assert whole == (text, False)


@given(st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=12))
def test_any_bytes_become_text(data: bytes, cuts: list[int]) -> None:
    assert assemble(split(data, cuts), [])[0] == data.decode("utf-8", "replace")
