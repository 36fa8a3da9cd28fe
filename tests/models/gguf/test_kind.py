"""What GGUF files are, by their names in real repositories and by their headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes import crafted, lora
from galago.models.errors import ModelError
from galago.models.gguf.kind import GGUFKind, check_is_model, kind_of, kinds_by_name, kinds_in_folder
from galago.models.gguf.reader import read_header
from galago.models.registry.resolve import builtin_folder

TEXT, PROJECTOR = builtin_folder() / "text-Q8_0.gguf", builtin_folder() / "mmproj-Q8_0.gguf"

LISTINGS: dict[str, dict[str, GGUFKind]] = {
    "a head in a folder": {"gemma-4-E2B-it-Q8_0.gguf": "model", "MTP/gemma-4-E2B-it-Q8_0-MTP.gguf": "draft"},
    "a head beside the model": {"gemma-4-12B-it-UD-Q4_K_XL.gguf": "model", "mtp-gemma-4-12B-it.gguf": "draft"},
    "models with a head": {
        "ornith-9b-mtp-kl-Q8_0.gguf": "model",
        "Qwen3.5-4B-MTP-Q4_K_M.gguf": "model",
        "mtp-ornith-9b-mtp-kl-Q8_0.gguf": "draft",
    },
    "an assistant": {
        "gemma-4-26B-A4B-it-qat-UD-Q4_K_XL.gguf": "model",
        "gemma-4-26B-A4B-it-assistant-Q8_0.gguf": "draft",
    },
    "assistants of their own": {"mistral-7b-assistant-Q2_K.gguf": "model", "mistral-7b-assistant-Q8_0.gguf": "model"},
    "an assistant beside another model": {"mistral-7b-assistant-Q4_0.gguf": "model", "llama-7b-Q4_0.gguf": "model"},
    "a smaller draft model": {"Qwen3-32B-Q4_K_M.gguf": "model", "Qwen3-0.6B-draft-Q8_0.gguf": "draft"},
    "a draft model of its own": {"Qwen3-0.6B-draft-Q8_0.gguf": "model", "Qwen3-0.6B-draft-F16.gguf": "model"},
    "a draft model in a folder": {"big-Q8_0.gguf": "model", "draft/small-Q8_0.gguf": "draft"},
    "heads of other kinds": {
        "m-Q8_0.gguf": "model",
        "eagle3-m-Q8_0.gguf": "draft",
        "dflash-m-Q8_0.gguf": "draft",
        "m-eagle3-Q8_0.gguf": "draft",
    },
    "a model called Eagle": {"Eagle-7B-Q4_0.gguf": "model", "Eagle2-9B-Q4_0.gguf": "model"},
    "projectors of many names": {
        "tiny-Q8_0.gguf": "model",
        "tiny-vision-F16.gguf": "projector",
        "tiny-mm-proj-F16.gguf": "projector",
        "tiny-clip-F16.gguf": "projector",
        "MMPROJ-tiny.gguf": "projector",
        "tiny.mmproj-f16.gguf": "projector",
        "sub/mm_proj.gguf": "projector",
        "clip-vit-large.gguf": "projector",
        "tiny-vision-encoder-f16.gguf": "projector",
    },
    "models that see": {
        "Llama-3.2-11B-Vision-Instruct-Q4_K_M.gguf": "model",
        "granite-vision-3.3-2b-Q4_K_M.gguf": "model",
        "mmproj-model-f16.gguf": "projector",
    },
    "a model that sees and one that does not": {"L-3B-Q4_0.gguf": "model", "L-11B-Vision-Q4_0.gguf": "model"},
    "importance matrices": {
        "m-Q8_0.gguf": "model",
        "imatrix_unsloth.gguf": "importance matrix",
        "google_gemma-3-4b-it-imatrix.gguf": "importance matrix",
        "m.imatrix.gguf": "importance matrix",
    },
    "models made with an importance matrix": {"m-Q4_K_M-imatrix.gguf": "model", "m-iMatrix-IQ2_M.gguf": "model"},
    "an adapter": {"m-Q8_0.gguf": "model", "m-lora-F16.gguf": "adapter", "lora.gguf": "adapter"},
    "a model that a LoRA is merged into": {"zephyr-qlora-Q4_K_M.gguf": "model", "zephyr-qlora-Q8_0.gguf": "model"},
    "a vocabulary": {"m-Q8_0.gguf": "model", "ggml-vocab-llama-bpe.gguf": "vocabulary"},
    "parts": {"Q8_0/m-Q8_0-00001-of-00002.gguf": "model", "Q8_0/m-Q8_0-00002-of-00002.gguf": "model"},
    "a projector alone": {"mmproj-m-F16.gguf": "projector"},
}  # fmt: skip


@pytest.mark.parametrize("listing", LISTINGS)
def test_files_of_a_repository_are_told_apart_by_name(listing: str) -> None:
    expected = LISTINGS[listing]
    assert kinds_by_name([*expected, "README.md", "._x.gguf"]) == expected


HEADERS: list[tuple[GGUFKind, dict[str, Any], list[str] | None]] = [
    ("model", {"general.architecture": "llama"}, ["blk.0.attn_q.weight"]),
    ("model", {"general.architecture": "llama"}, None),
    ("model", {}, None),
    ("projector", {"general.architecture": "clip"}, []),
    ("projector", {"general.type": "mmproj", "general.architecture": "llama"}, []),
    ("adapter", {"general.type": "adapter", "general.architecture": "llama"}, ["blk.0.attn_q.weight.lora_a"]),
    ("importance matrix", {"general.type": "imatrix"}, ["blk.0.attn_q.weight.in_sum2"]),
    ("importance matrix", {"imatrix.chunk_count": 3}, None),
    ("control vector", {"general.architecture": "controlvector"}, ["direction.1"]),
    ("vocabulary", {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2"}, []),
    ("model", {"general.architecture": "llama", "split.no": 0, "split.count": 2}, []),
    ("part", {"split.no": 1, "split.count": 2}, ["blk.1.attn_q.weight"]),
    ("draft", {"general.architecture": "gemma4-assistant"}, None),
    ("draft", {"general.architecture": "gemma4_mtp"}, None),
    ("draft", {"general.architecture": "eagle3"}, ["blk.0.attn_q.weight"]),
    ("model", {"general.architecture": "a", "a.block_count": 5, "a.nextn_predict_layers": 1}, ["blk.0.x", "blk.4.x"]),
    ("draft", {"general.architecture": "a", "a.block_count": 5, "a.nextn_predict_layers": 1}, ["blk.4.x", "output"]),
    ("Ollama's form", {"general.architecture": "gemma3", "gemma3.vision.block_count": 27}, None),
    ("Ollama's form", {"general.architecture": "gemma3"}, ["blk.0.attn_q.weight", "v.blk.0.attn_q.weight"]),
    ("Ollama's form", {"general.architecture": "gptoss"}, None),
    ("model", {"general.architecture": ("llama",), "split.no": "x", "a.block_count": True}, ["blk.0.x"]),
]


@pytest.mark.parametrize(("kind", "metadata", "tensors"), HEADERS)
def test_files_are_told_apart_by_their_headers(
    kind: GGUFKind, metadata: dict[str, Any], tensors: list[str] | None
) -> None:
    assert kind_of(metadata, tensors) == kind


def test_the_header_decides_and_beside_a_model_a_name_says_which_is_the_draft_model(tmp_path: Path) -> None:
    for name, source in (
        ("a-Q8_0.gguf", TEXT), ("MTP/mtp-a-Q8_0.gguf", TEXT), ("encoder.gguf", PROJECTOR), ("a-vision.gguf", TEXT)
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(source)
    (tmp_path / "mmproj-damaged.gguf").write_text("<html>")
    names = ["a-Q8_0.gguf", "MTP/mtp-a-Q8_0.gguf", "encoder.gguf", "a-vision.gguf", "mmproj-damaged.gguf"]
    assert [*kinds_in_folder(tmp_path, names).values()] == ["model", "draft", "projector", "model", "projector"]
    assert kinds_in_folder(tmp_path / "MTP", ["mtp-a-Q8_0.gguf"]) == {"mtp-a-Q8_0.gguf": "model"}


def test_what_is_not_a_model_is_refused_with_what_it_is(tmp_path: Path) -> None:
    words = crafted.read(TEXT).having(tensors={}).write(tmp_path / "words.gguf")
    for path, reason in (
        (PROJECTOR, "is a projector, not a usable model: pass it as --mmproj"),
        (lora.write(tmp_path / "lora.gguf"), "is a LoRA adapter, not a usable model: pass it as --lora"),
        (words, "is a vocabulary without weights, not a usable model"),
    ):
        with pytest.raises(ModelError, match=reason):
            check_is_model(read_header(path))
    check_is_model(read_header(TEXT))
