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
    "acme/tiny/file.gguf": ("path", "acme/tiny/file.gguf", "", ""),
    "acme/tiny:Tiny-Q8_0.gguf": ("hub", "acme/tiny", "tiny-q8_0", ""),
    "acme/tiny:sub/Größe (1) a--b+Q8_0": ("hub", "acme/tiny", "sub/größe (1) a--b+q8_0", ""),
}

HUB = "https://huggingface.co"
ADDRESSES = {
    "hf.co/acme/Tiny-GGUF": "hf:acme/Tiny-GGUF",
    "HF.co/acme/Tiny-GGUF:Q8_0": "hf:acme/Tiny-GGUF:q8_0",
    "HF:acme/Tiny-GGUF:Q8_0": "hf:acme/Tiny-GGUF:q8_0",
    "huggingface.co/acme/Tiny:Q8_0@v1": "hf:acme/Tiny:q8_0@v1",
    "hf.co/acme/Tiny/Tiny-Q8_0.gguf": "hf:acme/Tiny:tiny-q8_0",
    "hf://acme/tiny/sub/file-Q8_0.gguf": "hf:acme/tiny:sub/file-q8_0",
    "hf://models/acme/tiny": "hf:acme/tiny",
    "huggingface://acme/tiny/file-Q8_0.gguf": "hf:acme/tiny:file-q8_0",
    "hf.co/acme/Tiny/Q8_0": "hf:acme/Tiny:q8_0",
    "hf://acme/Tiny/it/Q8_0": "hf:acme/Tiny:it/q8_0",
    f"{HUB}/acme/Tiny/Q8_0": "hf:acme/Tiny:q8_0",
    "hf.co/acme/Tiny/discussions/3": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny/commits/main": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny/": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny:Q8_0": "hf:acme/Tiny:q8_0",
    "http://www.hf.co/acme/Tiny/tree/main": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny/tree/main#readme": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny/tree/v2": "hf:acme/Tiny@v2",
    f"{HUB}/acme/Tiny/tree/main/UD-Q4_K_XL": "hf:acme/Tiny:ud-q4_k_xl",
    f"{HUB}/acme/Tiny/blob/main/Tiny-Q8_0.gguf": "hf:acme/Tiny:tiny-q8_0",
    f"{HUB}/acme/Tiny/blob/main/a/Tiny%20x-Q8_0.gguf": "hf:acme/Tiny:a/tiny x-q8_0",
    f"{HUB}/acme/Tiny/resolve/v1/T-00002-of-00003.gguf?download=true": "hf:acme/Tiny:t-00002-of-00003@v1",
    f"{HUB}/acme/Tiny/resolve/main/T-Q8_0.gguf": "hf:acme/Tiny:t-q8_0",
    f"{HUB}/acme/Tiny/blob/refs%2Fpr%2F3/T-Q8_0.gguf": "hf:acme/Tiny:t-q8_0@refs/pr/3",
    f"{HUB}/acme/Tiny/blob/refs/pr/3/T-Q8_0.gguf": "hf:acme/Tiny:t-q8_0@refs/pr/3",
    f"{HUB}/acme/Tiny/blob/main/README.md": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny/blob/main/T.Q8_0.gguf.part1of2": "hf:acme/Tiny:t.q8_0.gguf.part1of2",
    f"{HUB}/acme/Tiny/discussions/3": "hf:acme/Tiny",
    f"{HUB}/acme/Tiny?show_file_info=T-Q8_0.gguf&local-app=ollama": "hf:acme/Tiny:t-q8_0",
}
OTHER_ADDRESSES = {
    f"{HUB}/datasets/acme/x": "is the address of a dataset",
    f"{HUB}/spaces/acme/x": "is the address of a space",
    f"{HUB}/acme": "is not a model name",
    f"{HUB}/../x": "is not a model name",
    f"{HUB}/a/b/resolve/main/model.safetensors": "is not in the GGUF format",
    "https://example.com/acme/tiny": "not an address of the Hub. If example.com is a mirror, set HF_ENDPOINT to it",
    "http://169.254.169.254/acme/tiny:q8_0": "not an address of the Hub",
    "https://huggingface.co@example.com/acme/tiny": "not an address of the Hub",
}


@pytest.mark.parametrize("text", NAMES)
def test_a_name_is_parsed(text: str) -> None:
    assert parse_ref(text) == ModelRef(*NAMES[text])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ADDRESSES)
def test_the_address_of_a_page_of_the_hub_is_a_name(text: str) -> None:
    ref = parse_ref(text)
    assert (ref.kind, str(ref)) == ("hub", ADDRESSES[text]) and parse_ref(str(ref)) == ref


def test_the_address_of_a_page_of_the_hub_in_use_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.example:8080")
    assert str(parse_ref("http://mirror.example:8080/acme/tiny/tree/main")) == "hf:acme/tiny"


@pytest.mark.parametrize("text", OTHER_ADDRESSES)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(NotFound, match=OTHER_ADDRESSES[text]):
        parse_ref(text)


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


@given(st.text(max_size=60) | st.from_regex(r"(hf:|hf.co/)?[a-zA-Z0-9./_-]{1,20}(:[\w.-]{1,9})?(@[\w./-]{1,9})?"))
def test_the_printed_form_parses_to_the_same_name(text: str) -> None:
    try:
        ref = parse_ref(text)
    except NotFound:
        return
    assert parse_ref(str(ref)) == ref
    if ref.kind in ("name", "hub"):
        assert ".." not in str(ref) and str(ref).isprintable() and f"{ref.name}{ref.revision}".isascii()
