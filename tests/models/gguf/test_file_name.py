"""What the names of GGUF files say."""

from __future__ import annotations

import pytest

from galago.models.gguf.file_name import is_gguf, pieces, quant_of

QUANTS = {
    "Qwen3.5-0.8B-UD-Q4_K_XL.gguf": "ud-q4_k_xl",
    "gemma-4-E2B-it-Q8_0.gguf": "q8_0",
    "gemma-4-E2B_q4_0-it.gguf": "q4_0",
    "LFM2.5-VL-1.6B-Q4_0.gguf": "q4_0",
    "mmproj-LFM2.5-VL-1.6b-F16.gguf": "f16",
    "mmproj-BF16.gguf": "bf16",
    "model.IQ3_XXS.gguf": "iq3_xxs",
    "sub/Big-Q4_K_M-00002-of-00003.gguf": "q4_k_m",
    "gpt-oss-20b-mxfp4.gguf": "mxfp4",
    "stories260K.gguf": "",
    "Qwen3-Q8-model/readme.gguf": "",
    "qwen2.5-0.5b-instruct-fp16.gguf": "f16",
    "model-FP32.gguf": "f32",
    "tiny model (v1) Q8_0.gguf": "q8_0",
    "Q8_0/tiny.gguf": "q8_0",
    "FP16/tiny-00001-of-00002.gguf": "f16",
    "tiny-UD-Q4_K_XL/tiny.gguf": "ud-q4_k_xl",
    "Q8_0/tiny-Q4_0.gguf": "q4_0",
    "Q8_0/sub/tiny.gguf": "",
}


@pytest.mark.parametrize("name", QUANTS)
def test_the_quantization_is_read_from_the_name_of_a_file_or_of_its_folder(name: str) -> None:
    assert quant_of(name) == QUANTS[name]


def test_files_of_macos_are_not_gguf_files() -> None:
    assert [is_gguf(name) for name in ("a.gguf", "a.GGUF", "._a.gguf", "sub/._a.gguf", "a.gguf.txt")] == [
        True, True, False, False, False,
    ]  # fmt: skip


PIECES = {
    ("m.gguf.part1of2", "m.gguf.part2of2"): "join them with: cat m.gguf.part1of2 m.gguf.part2of2 > m.gguf",
    ("m.gguf.part2of2",): "m.gguf was cut into 2 pieces, but only m.gguf.part2of2 is there",
    ("m.Q6_K.gguf-split-b", "m.Q6_K.gguf-split-a"): "cat m.Q6_K.gguf-split-a m.Q6_K.gguf-split-b > m.Q6_K.gguf",
    ("a b.gguf.001", "a b.gguf.002"): "cat 'a b.gguf.001' 'a b.gguf.002' > 'a b.gguf'",
    tuple(f"m.gguf.part{n}" for n in (2, 10, 1, *range(3, 10))): "cat m.gguf.part1 m.gguf.part2 m.gguf.part3 ",
    ("m.gguf.part-aa", "m.gguf.part-ab"): "cat m.gguf.part-aa m.gguf.part-ab > m.gguf",
    ("m.gguf.aa", "m.gguf.ab"): "cat m.gguf.aa m.gguf.ab > m.gguf",
    ("m.gguf-chunk-001-of-002", "m.gguf-chunk-002-of-002"): "cat m.gguf-chunk-001-of-002 m.gguf-chunk-002-of-002 >",
    ("m.gguf-chunk-000-of-002", "m.gguf-chunk-001-of-002"): "join them with: cat m.gguf-chunk-000-of-002",
    ("m.gguf_part_01_of_02", "m.gguf_part_02_of_02"): "join them with: cat m.gguf_part_01_of_02",
    ("m.gguf-00001-of-00002", "m.gguf-00002-of-00002"): "join them with: cat m.gguf-00001-of-00002",
    ("m.gguf.chunk1", "m.gguf.chunk2"): "join them with: cat m.gguf.chunk1 m.gguf.chunk2",
    ("m.gguf.piece_a", "m.gguf.piece_b"): "join them with: cat m.gguf.piece_a m.gguf.piece_b",
    ("m.gguf-chunk-001-of-003", "m.gguf-chunk-003-of-003"): "cut into 3 pieces, but only m.gguf-chunk-001-of-003, m",
    ("m.gguf.001", "m.gguf.003"): "m.gguf was cut into 3 pieces, but only m.gguf.001, m.gguf.003 are there",
    ("m.gguf.part2", "m.gguf.part3"): "m.gguf was cut into 3 pieces, but only m.gguf.part2, m.gguf.part3 are there",
}


@pytest.mark.parametrize("names", PIECES, ids=lambda names: names[0])
def test_pieces_of_one_file_are_found_with_the_command_that_joins_them(names: tuple[str, ...]) -> None:
    (cut,) = pieces(["README.md", "other-Q8_0.gguf", *names])
    assert PIECES[names] in cut.how_to_join


def test_other_files_are_not_pieces() -> None:
    assert pieces(["m.gguf", "m-00001-of-00002.gguf", "m.gguf.json", "m.gguf.sha256", "m.gguf.incomplete", "x"]) == []
