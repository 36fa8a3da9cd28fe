"""File names of repositories as published on the Hub, and tiny files in their place.

Names and folders are those of public listings, shortened to what matters, except those of `acme`. The content is made
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from galago.models.gguf.file_name import split_name, without_quant

from .crafted import BOOL, INT32, STRING, UINT32, Model, Tensor, Value

UINT16 = 2


def tiny_file(name: str, kind: str = "model") -> bytes:
    """Returns a GGUF file of a kind, named after a file of a repository, so that no two are alike."""
    stem, number, count = split_name(PurePosixPath(name).name)
    keys = {
        "general.architecture": Value(STRING, b"llama"),
        "general.name": Value(STRING, without_quant(stem).encode()),
    }
    keys["general.description"] = Value(STRING, name.encode())
    tensors = {"token_embd.weight": Tensor((32,), 0, 0)}
    if kind in ("model", "vocabulary", "head"):
        sizes = {"block_count": 1, "embedding_length": 32, "context_length": 512}
        if kind == "head":
            sizes |= {"block_count": 2, "nextn_predict_layers": 1}
            tensors = {"blk.1.nextn.eh_proj.weight": Tensor((32,), 0, 0)}
        keys |= {f"llama.{key}": Value(UINT32, value) for key, value in sizes.items()}
    if count > 1:
        keys |= {"split.no": Value(UINT16, number - 1), "split.count": Value(UINT16, count)}
        keys["split.tensors.count"] = Value(INT32, count)
    if kind == "projector":
        keys |= {"general.architecture": Value(STRING, b"clip"), "general.type": Value(STRING, b"mmproj")}
        keys |= {"clip.has_vision_encoder": Value(BOOL, True), "clip.vision.projection_dim": Value(UINT32, 32)}
    elif kind == "draft":
        keys["general.architecture"] = Value(STRING, b"gemma4-assistant")
    elif kind in ("adapter", "imatrix"):
        keys["general.type"] = Value(STRING, kind.encode())
    return Model(keys, {} if kind == "vocabulary" else tensors, bytes(128)).to_bytes()


@dataclass(frozen=True)
class Layout:
    """A repository: its files, and what pulling takes, by what follows its name; or a part of the error.

    `kinds` are those of files that are not models, besides the usual ones.
    """

    repository: str
    files: str
    pulls: dict[str, str]
    kinds: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return self.files.split()

    def content(self) -> dict[str, bytes]:
        return {name: tiny_file(name, self.kind(name)) if _is_whole(name) else name.encode() for name in self.names}

    def kind(self, name: str) -> str:
        usual = {"mmproj": "projector", "imatrix": "imatrix", "mtp/": "draft", "lora": "adapter"}
        return self.kinds.get(name) or next((kind for sign, kind in usual.items() if sign in name.lower()), "model")


def _is_whole(name: str) -> bool:
    """Whether a file is a GGUF file, and no piece of one."""
    return name.lower().endswith(".gguf")


def _parts(stem: str, count: int) -> str:
    return " ".join(f"{stem}-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1))


_GEMMA = "google_gemma-3-4b-it"
_SPLIT_70B = _parts("Meta-Llama-3.1-70B-Instruct-Q8_0/Meta-Llama-3.1-70B-Instruct-Q8_0", 2)
_R1_1BIT = _parts("DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S", 3)
_R1_4BIT = _parts("DeepSeek-R1-Q4_K_M/DeepSeek-R1-Q4_K_M", 9)
_R1_BF16 = _parts("DeepSeek-R1.BF16/DeepSeek-R1.BF16", 3)
_QWEN_4BIT = _parts("qwen2.5-7b-instruct-q4_k_m", 2)
_QWEN_FP16 = _parts("qwen2.5-7b-instruct-fp16", 4)
_GROK = _parts("grok-1-IQ3_XS-split", 9)
_SCOUT = _parts("Llama-4-Scout-17B-16E-Instruct-Q4_K_M", 2)
_QWEN_235B = _parts("Q4_K_M/Qwen3-235B-A22B-Q4_K_M", 3)
_QWEN_235B_UD = _parts("UD-Q2_K_XL/Qwen3-235B-A22B-UD-Q2_K_XL", 2)

LAYOUTS = (
    Layout(
        "bartowski/Llama-3.2-3B-Instruct-GGUF",
        "Llama-3.2-3B-Instruct-IQ3_M.gguf Llama-3.2-3B-Instruct-Q4_0.gguf Llama-3.2-3B-Instruct-Q4_0_4_4.gguf "
        "Llama-3.2-3B-Instruct-Q4_K_L.gguf Llama-3.2-3B-Instruct-Q4_K_M.gguf Llama-3.2-3B-Instruct-f16.gguf "
        "Llama-3.2-3B-Instruct.imatrix README.md",
        {
            "": "Llama-3.2-3B-Instruct-Q4_K_M.gguf",
            ":Q4_K_L": "Llama-3.2-3B-Instruct-Q4_K_L.gguf",
            ":q4_0": "Llama-3.2-3B-Instruct-Q4_0.gguf",
            ":Q4_0_4_4": "Llama-3.2-3B-Instruct-Q4_0_4_4.gguf",
            ":fp16": "Llama-3.2-3B-Instruct-f16.gguf",
            ":Llama-3.2-3B-Instruct-IQ3_M.gguf": "Llama-3.2-3B-Instruct-IQ3_M.gguf",
            ":Q8_0": "has no weights with quantization q8_0; it has f16, iq3_m, q4_0, q4_0_4_4, q4_k_l, q4_k_m",
        },
    ),
    Layout(
        "bartowski/google_gemma-3-4b-it-GGUF",
        f"{_GEMMA}-Q4_K_M.gguf {_GEMMA}-bf16.gguf {_GEMMA}.imatrix mmproj-{_GEMMA}-bf16.gguf mmproj-{_GEMMA}-f16.gguf "
        f"{_GEMMA}-imatrix.gguf",
        {
            "": f"{_GEMMA}-Q4_K_M.gguf mmproj-{_GEMMA}-f16.gguf",
            ":BF16": f"{_GEMMA}-bf16.gguf mmproj-{_GEMMA}-bf16.gguf",
            ":F16": "has no weights with quantization f16; it has bf16, q4_k_m",
        },
    ),
    Layout(
        "bartowski/Meta-Llama-3.1-70B-Instruct-GGUF",
        f"Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf Meta-Llama-3.1-70B-Instruct-IQ4_XS.gguf {_SPLIT_70B}",
        {
            "": "Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf",
            ":Q8_0": _SPLIT_70B,
            ":" + _SPLIT_70B.split()[1]: _SPLIT_70B,
            ":Meta-Llama-3.1-70B-Instruct-Q8_0": _SPLIT_70B,
        },
    ),
    Layout(
        "unsloth/Qwen3-0.6B-GGUF",
        "Qwen3-0.6B-BF16.gguf Qwen3-0.6B-IQ4_NL.gguf Qwen3-0.6B-Q8_0.gguf Qwen3-0.6B-UD-IQ1_M.gguf "
        "Qwen3-0.6B-UD-Q4_K_XL.gguf Qwen3-0.6B-UD-Q8_K_XL.gguf imatrix_unsloth.dat config.json",
        {
            "": "Qwen3-0.6B-UD-Q4_K_XL.gguf",
            ":Q4_K_XL": "Qwen3-0.6B-UD-Q4_K_XL.gguf",
            ":UD-Q8_K_XL": "Qwen3-0.6B-UD-Q8_K_XL.gguf",
            ":q8_k_xl": "Qwen3-0.6B-UD-Q8_K_XL.gguf",
            ":bf16": "Qwen3-0.6B-BF16.gguf",
        },
    ),
    Layout(
        "unsloth/gemma-3-4b-it-GGUF",
        "gemma-3-4b-it-Q4_K_M.gguf gemma-3-4b-it-UD-Q4_K_XL.gguf gemma-3-4b-it-BF16.gguf mmproj-BF16.gguf "
        "mmproj-F16.gguf mmproj-F32.gguf imatrix_unsloth.gguf_file",
        {
            "": "gemma-3-4b-it-Q4_K_M.gguf mmproj-F16.gguf",
            ":bf16": "gemma-3-4b-it-BF16.gguf mmproj-BF16.gguf",
            ":mmproj-F16": "has no weights with quantization mmproj-f16",
        },
    ),
    Layout(
        "unsloth/DeepSeek-R1-GGUF",
        f"{_R1_1BIT} {_R1_4BIT} {_R1_BF16} config.json",
        {"": _R1_4BIT, ":UD-IQ1_S": _R1_1BIT, ":IQ1_S": _R1_1BIT, ":DeepSeek-R1.BF16": _R1_BF16, ":BF16": _R1_BF16},
    ),
    Layout(
        "unsloth/Qwen3-235B-A22B-GGUF",
        f"{_QWEN_235B} {_QWEN_235B_UD}",
        {"": _QWEN_235B, ":q4_k_m": _QWEN_235B, ":Q2_K_XL": _QWEN_235B_UD},
    ),
    Layout(
        "unsloth/gemma-4-12B-it-qat-GGUF",
        "gemma-4-12B-it-qat-UD-Q4_K_XL.gguf MTP/gemma-4-12B-it-qat-Q8_0-MTP.gguf mmproj-BF16.gguf mmproj-F16.gguf",
        {
            "": "gemma-4-12B-it-qat-UD-Q4_K_XL.gguf mmproj-F16.gguf",
            ":Q4_K_XL": "gemma-4-12B-it-qat-UD-Q4_K_XL.gguf mmproj-F16.gguf",
            ":Q8_0": "has no weights with quantization q8_0; it has ud-q4_k_xl",
        },
    ),
    Layout(
        "unsloth/gpt-oss-20b-GGUF",
        "gpt-oss-20b-F16.gguf gpt-oss-20b-Q4_K_M.gguf gpt-oss-20b-UD-Q4_K_XL.gguf params template",
        {"": "gpt-oss-20b-Q4_K_M.gguf", ":f16": "gpt-oss-20b-F16.gguf"},
    ),
    Layout(
        "ggml-org/gpt-oss-20b-GGUF",
        "gpt-oss-20b-mxfp4.gguf",
        {"": "gpt-oss-20b-mxfp4.gguf", ":MXFP4": "gpt-oss-20b-mxfp4.gguf"},
    ),
    Layout(
        "ggml-org/gemma-3-4b-it-GGUF",
        "gemma-3-4b-it-Q4_K_M.gguf gemma-3-4b-it-Q8_0.gguf gemma-3-4b-it-f16.gguf mmproj-model-f16.gguf",
        {
            "": "gemma-3-4b-it-Q4_K_M.gguf mmproj-model-f16.gguf",
            ":F16": "gemma-3-4b-it-f16.gguf mmproj-model-f16.gguf",
        },
    ),
    Layout(
        "ggml-org/gemma-4-E2B-it-GGUF",
        "gemma-4-E2B-it-Q8_0.gguf gemma-4-E2B-it-bf16.gguf MTP/mtp-gemma-4-E2B-it-Q4_K_M.gguf "
        "MTP/mtp-gemma-4-E2B-it-Q8_0.gguf mmproj-gemma-4-E2B-it-Q8_0.gguf",
        {
            "": "gemma-4-E2B-it-Q8_0.gguf mmproj-gemma-4-E2B-it-Q8_0.gguf",
            ":Q8_0": "gemma-4-E2B-it-Q8_0.gguf mmproj-gemma-4-E2B-it-Q8_0.gguf",
            ":Q4_K_M": "has no weights with quantization q4_k_m; it has bf16, q8_0",
        },
    ),
    Layout(
        "ggml-org/SmolVLM-500M-Instruct-GGUF",
        "SmolVLM-500M-Instruct-Q8_0.gguf SmolVLM-500M-Instruct-f16.gguf mmproj-SmolVLM-500M-Instruct-Q8_0.gguf "
        "mmproj-SmolVLM-500M-Instruct-f16.gguf",
        {
            "": "SmolVLM-500M-Instruct-Q8_0.gguf mmproj-SmolVLM-500M-Instruct-Q8_0.gguf",
            ":F16": "SmolVLM-500M-Instruct-f16.gguf mmproj-SmolVLM-500M-Instruct-f16.gguf",
        },
    ),
    Layout(
        "ggml-org/ultravox-v0_5-llama-3_2-1b-GGUF",
        "Llama-3.2-1B-Instruct-Q4_K_M.gguf mmproj-ultravox-v0_5-llama-3_2-1b-f16.gguf",
        {"": "Llama-3.2-1B-Instruct-Q4_K_M.gguf mmproj-ultravox-v0_5-llama-3_2-1b-f16.gguf"},
    ),
    Layout(
        "ggml-org/models",
        "tinyllamas/stories260K.gguf tinyllamas/stories15M-q4_0.gguf bert-bge-small/ggml-model-f16.gguf "
        "jina-reranker-v1-tiny-en/ggml-model-f16.gguf phi-2/ggml-model-q4_0.gguf",
        {
            "": "has several models with this quantization; name one of them instead: "
            "phi-2/ggml-model-q4_0, tinyllamas/stories15m-q4_0",
            ":tinyllamas/stories260K.gguf": "tinyllamas/stories260K.gguf",
            ":stories260K": "tinyllamas/stories260K.gguf",
            ":phi-2/ggml-model-q4_0": "phi-2/ggml-model-q4_0.gguf",
            ":bert-bge-small": "bert-bge-small/ggml-model-f16.gguf",
            ":f16": "bert-bge-small/ggml-model-f16, jina-reranker-v1-tiny-en/ggml-model-f16",
        },
    ),
    Layout(
        "ggml-org/Qwen2.5-Coder-0.5B-Q8_0-GGUF",
        "qwen2.5-coder-0.5b-q8_0.gguf README.md",
        {"": "qwen2.5-coder-0.5b-q8_0.gguf", ":Q8_0": "qwen2.5-coder-0.5b-q8_0.gguf"},
    ),
    Layout(
        "ggml-org/Llama-4-Scout-17B-16E-Instruct-GGUF",
        f"{_SCOUT} mmproj-Llama-4-Scout-17B-16E-Instruct-f16.gguf",
        {"": f"{_SCOUT} mmproj-Llama-4-Scout-17B-16E-Instruct-f16.gguf"},
    ),
    Layout(
        "Qwen/Qwen2.5-7B-Instruct-GGUF",
        f"{_QWEN_FP16} qwen2.5-7b-instruct-q2_k.gguf qwen2.5-7b-instruct-q3_k_m.gguf {_QWEN_4BIT} LICENSE",
        {"": _QWEN_4BIT, ":Q3_K_M": "qwen2.5-7b-instruct-q3_k_m.gguf", ":fp16": _QWEN_FP16, ":F16": _QWEN_FP16},
    ),
    Layout(
        "Qwen/Qwen2-0.5B-Instruct-GGUF",
        "qwen2-0_5b-instruct-fp16.gguf qwen2-0_5b-instruct-q2_k.gguf qwen2-0_5b-instruct-q4_0.gguf "
        "qwen2-0_5b-instruct-q8_0.gguf",
        {
            "": "qwen2-0_5b-instruct-q4_0.gguf",
            ":f16": "qwen2-0_5b-instruct-fp16.gguf",
            ":FP16": "qwen2-0_5b-instruct-fp16.gguf",
            ":qwen2-0_5b-instruct-fp16": "qwen2-0_5b-instruct-fp16.gguf",
        },
    ),
    Layout(
        "Qwen/Qwen3-VL-4B-Instruct-GGUF",
        "Qwen3VL-4B-Instruct-F16.gguf Qwen3VL-4B-Instruct-Q4_K_M.gguf Qwen3VL-4B-Instruct-Q8_0.gguf "
        "mmproj-Qwen3VL-4B-Instruct-F16.gguf mmproj-Qwen3VL-4B-Instruct-Q8_0.gguf",
        {
            "": "Qwen3VL-4B-Instruct-Q4_K_M.gguf mmproj-Qwen3VL-4B-Instruct-Q8_0.gguf",
            ":F16": "Qwen3VL-4B-Instruct-F16.gguf mmproj-Qwen3VL-4B-Instruct-F16.gguf",
        },
    ),
    Layout(
        "Qwen/Qwen3-Embedding-0.6B-GGUF",
        "Qwen3-Embedding-0.6B-Q8_0.gguf Qwen3-Embedding-0.6B-f16.gguf",
        {"": "Qwen3-Embedding-0.6B-Q8_0.gguf", ":f16": "Qwen3-Embedding-0.6B-f16.gguf"},
    ),
    Layout(
        "acme/tiny-lora",
        "adapter_config.json adapter_model.safetensors README.md",
        {"": "acme/tiny-lora is a LoRA adapter, which needs its model: download it, use `galago convert`"},
    ),
    Layout(
        "acme/tiny-pickled",
        "pytorch_model.bin config.json tokenizer.json",
        {"": "acme/tiny-pickled has no GGUF weights, but pickled ones (.bin, .pt)"},
    ),
    Layout(
        "Qwen/Qwen3-0.6B",
        "model.safetensors config.json tokenizer.json generation_config.json",
        {"": "has no GGUF weights, but safetensors: look for a GGUF version with `galago search --hub`"},
    ),
    Layout(
        "lmstudio-community/gemma-3-12b-it-GGUF",
        "gemma-3-12b-it-Q3_K_L.gguf gemma-3-12b-it-Q4_K_M.gguf gemma-3-12b-it-Q8_0.gguf mmproj-model-f16.gguf",
        {
            "": "gemma-3-12b-it-Q4_K_M.gguf mmproj-model-f16.gguf",
            ":Q3_K_L": "gemma-3-12b-it-Q3_K_L.gguf mmproj-model-f16.gguf",
        },
    ),
    Layout(
        "mradermacher/Qwen2-Audio-7B-GGUF",
        "Qwen2-Audio-7B.IQ4_XS.gguf Qwen2-Audio-7B.Q4_K_M.gguf Qwen2-Audio-7B.Q8_0.gguf "
        "Qwen2-Audio-7B.mmproj-Q8_0.gguf Qwen2-Audio-7B.mmproj-f16.gguf",
        {
            "": "Qwen2-Audio-7B.Q4_K_M.gguf Qwen2-Audio-7B.mmproj-Q8_0.gguf",
            ":Q8_0": "Qwen2-Audio-7B.Q8_0.gguf Qwen2-Audio-7B.mmproj-Q8_0.gguf",
        },
    ),
    Layout(
        "mradermacher/Holo3-35B-A3B-i1-GGUF",
        "Holo3-35B-A3B.i1-IQ1_S.gguf Holo3-35B-A3B.i1-Q4_K_M.gguf Holo3-35B-A3B.imatrix.gguf imatrix.dat",
        {
            "": "Holo3-35B-A3B.i1-Q4_K_M.gguf",
            ":IQ1_S": "Holo3-35B-A3B.i1-IQ1_S.gguf",
            ":i1-Q4_K_M": "Holo3-35B-A3B.i1-Q4_K_M.gguf",
        },
    ),
    Layout(
        "mradermacher/Meta-Llama-3.1-70B-Instruct-GGUF",
        "Meta-Llama-3.1-70B-Instruct.Q4_K_M.gguf Meta-Llama-3.1-70B-Instruct.Q8_0.gguf.part1of2 "
        "Meta-Llama-3.1-70B-Instruct.Q8_0.gguf.part2of2",
        {
            "": "Meta-Llama-3.1-70B-Instruct.Q4_K_M.gguf",
            ":Q8_0": "--local-dir . && cat Meta-Llama-3.1-70B-Instruct.Q8_0.gguf.part1of2 "
            "Meta-Llama-3.1-70B-Instruct.Q8_0.gguf.part2of2 > Meta-Llama-3.1-70B-Instruct.Q8_0.gguf",
            ":Meta-Llama-3.1-70B-Instruct.Q8_0.gguf.part2of2": "70B-Instruct.Q8_0.gguf only in pieces",
        },
    ),
    Layout(
        "TheBloke/Mistral-7B-Instruct-v0.2-GGUF",
        "mistral-7b-instruct-v0.2.Q2_K.gguf mistral-7b-instruct-v0.2.Q4_K_M.gguf mistral-7b-instruct-v0.2.Q8_0.gguf "
        "config.json",
        {"": "mistral-7b-instruct-v0.2.Q4_K_M.gguf", ":q2_k": "mistral-7b-instruct-v0.2.Q2_K.gguf"},
    ),
    Layout(
        "TheBloke/Llama-2-70B-Chat-GGUF",
        "llama-2-70b-chat.Q4_K_M.gguf llama-2-70b-chat.Q8_0.gguf-split-a llama-2-70b-chat.Q8_0.gguf-split-b",
        {
            "": "llama-2-70b-chat.Q4_K_M.gguf",
            ":Q8_0": "has llama-2-70b-chat.Q8_0.gguf only in pieces; download and join them: hf download "
            "TheBloke/Llama-2-70B-Chat-GGUF llama-2-70b-chat.Q8_0.gguf-split-a llama-2-70b-chat.Q8_0.gguf-split-b",
        },
    ),
    Layout(
        "TheBloke/Falcon-180B-Chat-GGUF",
        "falcon-180b-chat.Q2_K.gguf-split-a falcon-180b-chat.Q2_K.gguf-split-b",
        {"": "&& cat falcon-180b-chat.Q2_K.gguf-split-a falcon-180b-chat.Q2_K.gguf-split-b > falcon-"},
    ),
    Layout(
        "google/gemma-3-4b-it-qat-q4_0-gguf",
        "gemma-3-4b-it-q4_0.gguf mmproj-model-f16-4B.gguf",
        {
            "": "gemma-3-4b-it-q4_0.gguf mmproj-model-f16-4B.gguf",
            ":Q4_0": "gemma-3-4b-it-q4_0.gguf mmproj-model-f16-4B.gguf",
        },
    ),
    Layout(
        "google/gemma-2b-it",
        "gemma-2b-it.gguf model-00001-of-00002.safetensors model-00002-of-00002.safetensors tokenizer.json",
        {"": "gemma-2b-it.gguf", ":gemma-2b-it": "gemma-2b-it.gguf"},
    ),
    Layout(
        "MaziyarPanahi/Meta-Llama-3-8B-Instruct-GGUF",
        "Meta-Llama-3-8B-Instruct.IQ4_XS.gguf Meta-Llama-3-8B-Instruct.Q4_K_M.gguf Meta-Llama-3-8B-Instruct.fp16.gguf",
        {"": "Meta-Llama-3-8B-Instruct.Q4_K_M.gguf", ":F16": "Meta-Llama-3-8B-Instruct.fp16.gguf"},
    ),
    Layout(
        "microsoft/Phi-3-mini-4k-instruct-gguf",
        "Phi-3-mini-4k-instruct-fp16.gguf Phi-3-mini-4k-instruct-q4.gguf Modelfile_q4",
        {
            "": "Phi-3-mini-4k-instruct-q4.gguf",
            ":q4": "Phi-3-mini-4k-instruct-q4.gguf",
            ":f16": "Phi-3-mini-4k-instruct-fp16.gguf",
        },
    ),
    Layout(
        "nomic-ai/nomic-embed-text-v1.5-GGUF",
        "nomic-embed-text-v1.5.Q4_K_M.gguf nomic-embed-text-v1.5.f16.gguf nomic-embed-text-v1.5.f32.gguf",
        {"": "nomic-embed-text-v1.5.Q4_K_M.gguf", ":fp32": "nomic-embed-text-v1.5.f32.gguf"},
    ),
    Layout(
        "LiquidAI/LFM2-VL-1.6B-GGUF",
        "LFM2-VL-1.6B-F16.gguf LFM2-VL-1.6B-Q4_0.gguf LFM2-VL-1.6B-Q8_0.gguf mmproj-LFM2-VL-1.6B-F16.gguf "
        "mmproj-LFM2-VL-1.6B-Q8_0.gguf",
        {"": "LFM2-VL-1.6B-Q4_0.gguf mmproj-LFM2-VL-1.6B-Q8_0.gguf"},
    ),
    Layout(
        "openbmb/MiniCPM-V-2_6-gguf",
        "ggml-model-Q4_K_M.gguf ggml-model-f16.gguf mmproj-model-f16.gguf",
        {
            "": "ggml-model-Q4_K_M.gguf mmproj-model-f16.gguf",
            ":ggml-model-f16": "ggml-model-f16.gguf mmproj-model-f16.gguf",
        },
    ),
    Layout(
        "moondream/moondream2-gguf",
        "moondream2-mmproj-f16.gguf moondream2-text-model-f16.gguf",
        {"": "moondream2-text-model-f16.gguf moondream2-mmproj-f16.gguf"},
    ),
    Layout(
        "xtuner/llava-llama-3-8b-v1_1-gguf",
        "llava-llama-3-8b-v1_1-f16.gguf llava-llama-3-8b-v1_1-int4.gguf llava-llama-3-8b-v1_1-mmproj-f16.gguf",
        {
            "": "llava-llama-3-8b-v1_1-int4.gguf llava-llama-3-8b-v1_1-mmproj-f16.gguf",
            ":int4": "llava-llama-3-8b-v1_1-int4.gguf llava-llama-3-8b-v1_1-mmproj-f16.gguf",
            ":f16": "llava-llama-3-8b-v1_1-f16.gguf llava-llama-3-8b-v1_1-mmproj-f16.gguf",
        },
    ),
    Layout(
        "leafspark/Llama-3.2-11B-Vision-Instruct-GGUF",
        "Llama-3.2-11B-Vision-Instruct.Q4_K_M.gguf Llama-3.2-11B-Vision-Instruct-mmproj.f16.gguf",
        {"": "Llama-3.2-11B-Vision-Instruct.Q4_K_M.gguf Llama-3.2-11B-Vision-Instruct-mmproj.f16.gguf"},
    ),
    Layout("Arki05/Grok-1-GGUF", _GROK, {"": _GROK, ":IQ3_XS": _GROK, ":grok-1-IQ3_XS-split-00002-of-00009": _GROK}),
    Layout(
        "Lewdiculous/L3-8B-Stheno-GGUF-IQ-Imatrix",
        "L3-8B-Stheno-IQ4_XS-imat.gguf L3-8B-Stheno-Q4_K_M-imat.gguf imatrix.txt",
        {"": "L3-8B-Stheno-Q4_K_M-imat.gguf", ":IQ4_XS": "L3-8B-Stheno-IQ4_XS-imat.gguf"},
    ),
    Layout(
        "acme/tiny-VL-GGUF",
        "tiny-VL-Q4_0.gguf tiny-VL-vision-f16.gguf",
        {"": "tiny-VL-Q4_0.gguf tiny-VL-vision-f16.gguf", ":f16": "has no weights with quantization f16; it has q4_0"},
        {"tiny-VL-vision-f16.gguf": "projector"},
    ),
    Layout(
        "acme/other-kinds-GGUF",
        "tiny-Q8_0.gguf tiny-Q8_0-imatrix.gguf tiny-style-Q8_0.gguf words-Q8_0.gguf eyes-Q8_0.gguf MTP/head-Q8_0.gguf",
        {"": "tiny-Q8_0.gguf eyes-Q8_0.gguf", ":Q8_0": "tiny-Q8_0.gguf eyes-Q8_0.gguf"},
        {"tiny-style-Q8_0.gguf": "adapter", "words-Q8_0.gguf": "vocabulary", "eyes-Q8_0.gguf": "projector"},
    ),
    Layout(
        "acme/with-an-assistant-GGUF",
        "tiny-it-Q8_0.gguf tiny-it-assistant-Q8_0.gguf tiny-it-assistant-Q4_K_M.gguf mmproj-tiny-it-BF16.gguf",
        {
            "": "tiny-it-Q8_0.gguf mmproj-tiny-it-BF16.gguf",
            ":Q8_0": "tiny-it-Q8_0.gguf mmproj-tiny-it-BF16.gguf",
            ":Q4_K_M": "has no weights with quantization q4_k_m; it has q8_0",
        },
    ),
    Layout(
        "acme/with-a-draft-GGUF",
        "large-F16.gguf small-draft-Q4_0.gguf",
        {"": "large-F16.gguf", ":small-draft-Q4_0": "small-draft-Q4_0.gguf"},
    ),
    Layout(
        "acme/one-part-GGUF",
        "tiny-Q8_0-00001-of-00002.gguf tiny-F16.gguf",
        {
            "": "tiny-F16.gguf",
            ":Q8_0": "part 2 of 2 is missing: tiny-Q8_0-00002-of-00002.gguf",
            ":tiny-Q8_0-00001-of-00002.gguf": "part 2 of 2 is missing: tiny-Q8_0-00002-of-00002.gguf",
        },
    ),
    Layout(
        "acme/two-models-GGUF",
        "2B/tiny-2B-Q8_0.gguf 2B/mmproj-F16.gguf 4B/tiny-4B-Q4_0.gguf 4B/mmproj-F16.gguf mmproj-Q8_0.gguf",
        {
            ":2B": "2B/tiny-2B-Q8_0.gguf 2B/mmproj-F16.gguf",
            ":Q4_0": "4B/tiny-4B-Q4_0.gguf 4B/mmproj-F16.gguf",
        },
    ),
    Layout(
        "acme/eyes-only-GGUF",
        "mmproj-tiny-F16.gguf",
        {"": "has no GGUF weights of a model: mmproj-tiny-F16.gguf is a projector"},
    ),
    Layout(
        "acme/clip-names-GGUF",
        "clip-captioner-Q8_0.gguf clip-captioner-F16.gguf",
        {"": "clip-captioner-Q8_0.gguf", ":f16": "clip-captioner-F16.gguf"},
    ),
    Layout(
        "acme/not-a-model-GGUF",
        "one-Q8_0.gguf two-Q4_0.gguf",
        {"": "has no GGUF weights of a model: one-Q8_0.gguf is a LoRA adapter; two-Q4_0.gguf is a projector"},
        {"one-Q8_0.gguf": "adapter", "two-Q4_0.gguf": "projector"},
    ),
)
"""Of publishers with many repositories, and of those that name files in ways of their own."""
