"""The model families that can be converted, by the class names of transformers.

A family is a function from a checkpoint to the content of a GGUF file. A tensor that is missing, unknown, or of another
shape than the config implies is an error, because a file with missing or made-up weights changes what the model says.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...models.errors import ModelError
from .checkpoint import Checkpoint
from .decoders import gemma2, gemma3, granite, llama, qwen2, qwen3, smollm3
from .encoders import bert
from .gguf_content import GGUFContent
from .json_config import JSONConfig
from .safetensors import quoted

FAMILIES: dict[str, Callable[[Checkpoint], GGUFContent]] = {
    "LlamaForCausalLM": llama,
    "LlamaModel": llama,
    "MistralForCausalLM": llama,
    "MistralModel": llama,
    "Qwen2ForCausalLM": qwen2,
    "Qwen2Model": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3Model": qwen3,
    "GraniteForCausalLM": granite,
    "GraniteModel": granite,
    "SmolLM3ForCausalLM": smollm3,
    "SmolLM3Model": smollm3,
    "Gemma2ForCausalLM": gemma2,
    "Gemma3ForCausalLM": gemma3,
    "BertModel": bert,
    "BertForMaskedLM": bert,
    "BertForPreTraining": bert,
}

_REASONS = (
    (r".*For(Sequence|Token)Classification|.*ForQuestionAnswering|.*RewardModel", "its result is a class or score"),
    (
        r".*(VL|Vision|Vlm|Audio|Omni|ASR|Whisper|ForConditionalGeneration).*",
        "it has parts for images or sound; convert its text part with --converter DIR, and these parts with "
        "--converter DIR --mmproj",
    ),
    (r".*(Moe|MoE|Mixtral|Dbrx|Deepseek).*", "its layers have several experts"),
    (r".*(Mamba|Rwkv|Jamba|Lfm|Falcon(H1|Mamba)|MoeHybrid|Next).*", "it has layers with a recurrent state"),
    (r"(XLMRoberta|Roberta|Camembert|MPNet|Deberta|Debertav2|DistilBert|NomicBert|ModernBert|NewModel|Electra|Albert).*",
     "its encoder or its tokenizer differs from BERT's"),
    (r"(Gemma|Phi|Cohere|Glm|Chat[Gg][Ll][Mm]|Olmo|Starcoder|GPT|Falcon|Bloom|Exaone|InternLM|Baichuan|MiniCPM|Opt).*",
     "its layers differ from Llama's"),
)  # fmt: skip
"""Pattern of architectures -> why they cannot be converted. The first that matches counts."""


def read_content(checkpoint: Checkpoint) -> GGUFContent:
    """Returns a checkpoint's tensors and sizes. Raises `ModelError` if its family is not supported."""
    config = checkpoint.config
    if config.get("quantization_config") is not None:
        method = quoted(config.part("quantization_config").get("quant_method"))
        raise config.error(f"the weights are already quantized ({method}); convert the original model instead")
    mapped = family(config, checkpoint.architecture)
    if mapped is not bert and (config.get("is_causal", True) is not True or config.get("is_bidirectional")):
        raise config.error("its tokens also attend to later ones (is_causal), which llama.cpp does not support here")
    if config.get("auto_map"):
        checkpoint.left_out.append(
            f"what the checkpoint's own code (auto_map in config.json) computes differently from transformers' "
            f"{checkpoint.architecture}"
        )
    return mapped(checkpoint)


def family(config: JSONConfig, architecture: str) -> Callable[[Checkpoint], GGUFContent]:
    """Raises `ModelError` that says why and what to do if the family is not supported."""
    if architecture in FAMILIES:
        return FAMILIES[architecture]
    name = config.path.parent.name or config.path
    described = f"is a {architecture}" if architecture else "names no architecture"
    reason = next((f": {reason}" for pattern, reason in _REASONS if re.fullmatch(pattern, architecture)), "")
    raise ModelError(
        f"{name} {described}, which galago cannot convert{reason}. It converts Llama, Mistral, SmolLM, Granite, Qwen2, "
        "Qwen3, Gemma 2 and 3 and BERT. For other models and for projectors, download llama.cpp's sources and give "
        "their folder, which contains convert_hf_to_gguf.py, as --converter DIR",
        "checkpoint",
    )
