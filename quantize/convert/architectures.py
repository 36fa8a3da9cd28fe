"""The model families that can be converted, by the class names of transformers.

A family is a function from a checkpoint to the content of a GGUF file. A tensor that is missing, unknown, or of another
shape than the config implies is an error, because a file with missing or made-up weights changes what the model says.
"""

from __future__ import annotations

from collections.abc import Callable

from ...models.errors import ModelError
from .checkpoint import Checkpoint
from .decoders import llama, qwen2, qwen3
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
    "BertModel": bert,
    "BertForMaskedLM": bert,
    "BertForPreTraining": bert,
}


def read_content(checkpoint: Checkpoint) -> GGUFContent:
    """Returns a checkpoint's tensors and sizes. Raises `ModelError` if its family is not supported."""
    config = checkpoint.config
    if "quantization_config" in config.entries:
        method = quoted(config.part("quantization_config").get("quant_method"))
        raise config.error(f"the weights are already quantized ({method}); convert the original model instead")
    return family(config, checkpoint.architecture)(checkpoint)


def family(config: JSONConfig, architecture: str) -> Callable[[Checkpoint], GGUFContent]:
    """Raises `ModelError` that says what to do if the family is not supported."""
    if architecture not in FAMILIES:
        name = config.path.parent.name or config.path
        described = f"is a {architecture}" if architecture else "names no architecture"
        raise ModelError(
            f"{name} {described}, which galago cannot convert. It converts {', '.join(FAMILIES)}. For other models and "
            "for projectors, download llama.cpp's sources and give their folder, which contains "
            "convert_hf_to_gguf.py, as --converter DIR",
            "checkpoint",
        )
    return FAMILIES[architecture]
