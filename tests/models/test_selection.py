"""Selection of weights and projectors by file names as they occur on the Hub."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galago.models.errors import NotFound
from galago.models.registry import selection


def test_weights_are_selected_in_messy_repositories() -> None:
    names = ["README.md", "mmproj-x-F16.gguf", "mmproj-x-Q8_0.gguf", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", "y-Q8_0.gguf"]
    choice = selection.select_files(names, projector="mmproj*")
    assert choice.weights.parts == ("Llama-3.2-1B-Instruct-Q4_K_M.gguf",)
    assert choice.projectors == ("mmproj-x-Q8_0.gguf", "mmproj-x-F16.gguf")
    assert selection.select_files(names, "Q8_0").weights.parts == ("y-Q8_0.gguf",)
    assert selection.select_files(names, "", default="Q8_0").weights.parts == ("y-Q8_0.gguf",)


def test_two_models_with_one_quantization_are_distinguished_by_name() -> None:
    names = ["a/one-Q8_0.gguf", "two-Q8_0.gguf"]
    with pytest.raises(NotFound, match="has several models with this quantization; name one.*: a/one-q8_0, two-q8_0"):
        selection.select_files(names, "q8_0", where="o/r")
    assert selection.select_files(names, "one-q8_0").weights.parts == ("a/one-Q8_0.gguf",)


def test_parts_are_complete_and_in_order() -> None:
    parts = [f"m-Q4_0-0000{n}-of-00003.gguf" for n in (3, 1, 2)]
    assert selection.select_files(parts).weights.parts == tuple(sorted(parts))
    with pytest.raises(NotFound, match="part 2 of 3 is missing: m-Q4_0-00002-of-00003.gguf"):
        selection.select_files(parts[:2])


PARTS = "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"
COPIES: dict[str, tuple[list[str], str, tuple[str, ...]]] = {
    "one file and parts": (["m-Q8_0.gguf", *PARTS], "Q8_0", ("m-Q8_0.gguf",)),
    "one file and parts, by name": (["m-Q8_0.gguf", *PARTS], "m-q8_0", ("m-Q8_0.gguf",)),
    "the parts, by the name of one": (["m-Q8_0.gguf", *PARTS], "m-Q8_0-00002-of-00002", PARTS),
    "the second part": ([*PARTS], "m-Q8_0-00002-of-00002", PARTS),
    "in other cases": (["M-q8_0.gguf", "m-Q8_0.gguf"][::-1], "", ("M-q8_0.gguf",)),
    "in more and fewer parts": (
        [*PARTS, *(f"m-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3))],
        "m-q8_0",
        PARTS,
    ),
    "above and in a folder": (["Q8_0/m-Q8_0.gguf", "m-Q8_0.gguf"], "", ("m-Q8_0.gguf",)),
    "in a folder, by its path": (["Q8_0/m-Q8_0.gguf", "m-Q8_0.gguf"], "q8_0/m-q8_0", ("Q8_0/m-Q8_0.gguf",)),
    "parts above, one file in a folder": (["x/m-Q8_0.gguf", *PARTS], "q8_0", PARTS),
    "by the folder": (["it/m-Q8_0.gguf", "it/m-Q4_0.gguf", "pt/m-Q4_0.gguf"], "it", ("it/m-Q4_0.gguf",)),
    "by a folder and a name": (["it/m-Q4_0.gguf", "pt/m-Q4_0.gguf"], "pt/m-q4_0", ("pt/m-Q4_0.gguf",)),
    "the tag of an importance matrix": (["m.i1-Q4_K_S.gguf", "m.i1-Q2_K.gguf"], "i1-Q2_K", ("m.i1-Q2_K.gguf",)),
    "4 bits before 16": (["m-fp16.gguf", "m-q4.gguf"], "", ("m-q4.gguf",)),
    "a name that other programs write": (["m-int4.gguf", "m-f16.gguf"], "", ("m-int4.gguf",)),
}


@pytest.mark.parametrize("case", COPIES)
def test_one_of_several_copies_is_taken(case: str) -> None:
    names, asked, parts = COPIES[case]
    assert selection.select_files(names, asked).weights.parts == parts
    assert selection.select_files(names[::-1], asked).weights.parts == parts


@pytest.mark.parametrize("names", [["a/m-Q8_0.gguf", "b/m-Q8_0.gguf"], ["a/m-Q8_0.gguf", "b/n-Q8_0.gguf"]])
def test_copies_in_different_folders_are_told_apart_by_names_that_work(names: list[str]) -> None:
    with pytest.raises(NotFound, match="name one of them instead: ") as raised:
        selection.select_files(names)
    choices = raised.value.message.partition("instead: ")[2].split(", ")
    assert [selection.select_files(names, choice).weights.parts for choice in choices] == [(name,) for name in names]


FILES = st.from_regex(r"[a-z/-]{0,5}(Q\d_0|f16)?(-0000\d-of-0000\d)?\.gguf")


@given(st.lists(st.text(max_size=20) | FILES, max_size=8))
def test_any_file_names_give_a_selection_or_not_found(names: list[str]) -> None:
    try:
        choice = selection.select_files(names)
    except NotFound:
        return
    assert set(choice.weights.parts) <= set(names) and set(choice.projectors) <= set(names)


@pytest.mark.parametrize(
    ("quant", "weights"),
    [
        ("fp16", "a-FP16.gguf"), ("F16", "a-FP16.gguf"), ("Q4_K_XL", "a-UD-Q4_K_XL.gguf"), ("q8_0", "Q8_0/a.gguf"),
        ("ud-q4_k_xl", "a-UD-Q4_K_XL.gguf"), ("latest", "a-UD-Q4_K_XL.gguf"), ("", "a-UD-Q4_K_XL.gguf"),
        ("bf16", "a-BF16.gguf"), ("mtp-a-q8_0", "MTP/mtp-a-Q8_0.gguf"),
    ],
)  # fmt: skip
def test_a_quantization_is_found_in_the_forms_that_people_write(quant: str, weights: str) -> None:
    names = ["a-FP16.gguf", "a-BF16.gguf", "a-UD-Q4_K_XL.gguf", "Q8_0/a.gguf", "MTP/mtp-a-Q8_0.gguf", "mmproj.gguf"]
    assert selection.select_files(names, quant).weights.parts == (weights,)


@pytest.mark.parametrize(
    ("names", "quant", "reason"),
    [
        (["mmproj-a.gguf"], "", "has no GGUF weights of a model: mmproj-a.gguf is a projector"),
        (["imatrix.gguf", "README.md"], "", "imatrix.gguf is an importance matrix"),
        (["README.md"], "", "o/r has no GGUF weights of a model$"),
        (["a-Q8_0-00001-of-00003.gguf"], "", "parts 2, 3 of 3 are missing: a-Q8_0-00002-of-00003.gguf, a-Q8_0-00003"),
        (["a-F16.gguf", "a-Q8_0-00001-of-00002.gguf"], "q8_0", "part 2 of 2 is missing"),
        (
            ["a-F16.gguf", "a.Q8_0.gguf-split-a", "a.Q8_0.gguf-split-b"],
            "q8_0",
            "cat a.Q8_0.gguf-split-a a.Q8_0.gguf-sp",
        ),
        (["a-F16.gguf", "a-Q8_0-00001-of-00002.gguf"], "q4_0", "has no weights with quantization q4_0; it has f16"),
        (["a-F16.gguf", "mmproj-a-F16.gguf"], "mmproj-a-F16", r"it has f16\. mmproj-a-F16.gguf is a projector$"),
        (["a-F16.gguf", "x/a-imatrix.gguf"], "x/a-imatrix.gguf", "f16. a-imatrix.gguf is an importance matrix$"),
        (["a-Q4_0.gguf", "b-Q4_0.gguf", "b-Q8_0.gguf"], "b", "b; it has a-q4_0, b-q4_0, q8_0$"),
        (["a-Q4_0.gguf", "x/a-Q4_0.gguf"], "q8_0", "q8_0; it has q4_0$"),
    ],
)
def test_what_is_missing_is_named(names: list[str], quant: str, reason: str) -> None:
    with pytest.raises(NotFound, match=reason):
        selection.select_files(names, quant, where="o/r")


PROJECTORS: dict[str, tuple[str, list[str], str]] = {
    "of the same name": ("b-7b-Q4_0", ["mmproj-a-2b-F16", "mmproj-b-7b-F16"], "mmproj-b-7b-F16"),
    "of the same name, though in a worse type": ("b-Q8_0", ["a-mmproj-Q8_0", "b-mmproj-F32"], "b-mmproj-F32"),
    "of no name": ("c-Q4_0", ["mmproj-a-2b-F16", "mmproj-F16"], "mmproj-F16"),
    "of the shorter name": ("a-Q4_0", ["mmproj-a-it-F16", "mmproj-a-F16"], "mmproj-a-F16"),
    "of the longer name": ("a-it-Q4_0", ["mmproj-a-F16", "mmproj-a-it-F16"], "mmproj-a-it-F16"),
    "of the same quantization": ("a-BF16", ["mmproj-a-F16", "mmproj-a-BF16"], "mmproj-a-BF16"),
}


@pytest.mark.parametrize("case", PROJECTORS)
def test_the_projector_whose_name_is_most_like_that_of_the_weights_is_the_first(case: str) -> None:
    weights, projectors, first = PROJECTORS[case]
    names = [f"{name}.gguf" for name in (weights, *projectors)]
    assert selection.select_files(names).projectors[0] == f"{first}.gguf"
