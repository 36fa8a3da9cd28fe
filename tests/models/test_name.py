"""Model names: parsing, and the one printed form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.models.errors import NotFound
from galago.models.registry.name import ModelRef, parse_ref

NAMES = {
    "builtin": ("builtin", "builtin", "", ""),
    "gemma4-e2b": ("name", "gemma4-e2b", "", ""),
    "Qwen3.5-0.8B:Q8_0": ("name", "qwen3.5-0.8b", "q8_0", ""),
    "qwen3.5-0.8b:ud-q4_k_xl@0123abc": ("name", "qwen3.5-0.8b", "ud-q4_k_xl", "0123abc"),
    "hf:ggml-org/gemma-4-E2B-it-GGUF:Q4_K_M@main": ("hub", "ggml-org/gemma-4-E2B-it-GGUF", "q4_k_m", "main"),
    "ggml-org/tinygemma3-GGUF": ("hub", "ggml-org/tinygemma3-GGUF", "", ""),
    "ggml-org/tinygemma3-GGUF@refs/pr/3": ("hub", "ggml-org/tinygemma3-GGUF", "", "refs/pr/3"),
    "model.gguf": ("path", "model.gguf", "", ""),
    "./model": ("path", "./model", "", ""),
    "~/models/a.GGUF": ("path", "~/models/a.GGUF", "", ""),
    "/data/model": ("path", "/data/model", "", ""),
    "a/b/c": ("path", "a/b/c", "", ""),
    "C:\\models\\a": ("path", "C:\\models\\a", "", ""),
}


@pytest.mark.parametrize("text", NAMES)
def test_a_name_is_parsed(text: str) -> None:
    assert parse_ref(text) == ModelRef(*NAMES[text])  # type: ignore[arg-type]


def test_the_printed_form_is_canonical() -> None:
    assert str(parse_ref("owner/Repo:Q8_0@main")) == "hf:owner/Repo:q8_0@main"
    assert str(parse_ref("Gemma4-E2B:Q8_0")) == "gemma4-e2b:q8_0"
    assert str(parse_ref("owner/Repo:Q8_0@main").without_version()) == "hf:owner/Repo"


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "hf:", "hf:name", "hf:/x", "a/b:", "name@", "a--b/c", "a/b--c", "a/..", "o/r@../x", "o/r@a..b",
     "o/r@x.lock", "o/r@a//b", "o/r:q8@x:y", "-a", "a\n", "hf:../../etc/passwd", "ö/x", "a\0b"],
)  # fmt: skip
def test_an_invalid_name_lists_valid_forms(text: str) -> None:
    with pytest.raises(NotFound, match="is not a model name: use a name from `galago search`, OWNER/REPO"):
        parse_ref(text)


@given(st.text(max_size=60) | st.from_regex(r"(hf:)?[a-zA-Z0-9./_-]{1,20}(:[\w.-]{1,9})?(@[\w./-]{1,9})?"))
def test_the_printed_form_parses_to_the_same_name(text: str) -> None:
    try:
        ref = parse_ref(text)
    except NotFound:
        return
    assert parse_ref(str(ref)) == ref
    if ref.kind in ("name", "hub"):
        assert ".." not in str(ref) and "\0" not in str(ref) and str(ref).isascii() and str(ref).isprintable()
