"""Reads adapter_config.json of the PEFT library: how strongly each matrix is changed, and what GGUF cannot express."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ...models.errors import ModelError
from .json_config import JSONConfig
from .safetensors import quoted

MERGE = (
    "merge it into its model with PEFT instead (PeftModel.from_pretrained(MODEL, ADAPTER).merge_and_unload(), then "
    "save_pretrained(FOLDER)), and convert that folder"
)
"""What to do about an adapter that GGUF cannot express."""

_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "bias": ("none",), "use_dora": (False,), "fan_in_fan_out": (False,), "modules_to_save": ([],),
    "layer_replication": ([],), "trainable_token_indices": ([], {}), "lora_bias": (False,), "use_qalora": (False,),
    "target_parameters": ([],), "use_bdlora": (False,), "invocation_string": ("",), "kasa_config": (),
    "monteclora_config": (), "arrow_config": (),
}  # fmt: skip
"""Settings that GGUF cannot express, and the values, besides null, that mean that they are off."""

_IRRELEVANT = frozenset(
    "auto_mapping base_model_class base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules "
    "inference_mode layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_config "
    "megatron_core parent_library peft_type peft_version qalora_group_size revision runtime_config target_modules "
    "task_type velora_config".split()
)
"""Settings of training, or of which matrices are changed, which the tensors themselves show."""

_USED = frozenset(
    "alora_invocation_tokens alpha_pattern init_lora_weights lora_alpha r rank_pattern use_rslora".split()
)

_PLAIN_INITIALIZATIONS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_CHANGES_BASE = re.compile(r"(?i)pissa(_niter_\d+)?|olora|corda|loftq|lora_ga")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """`alpha` is the number in the file; llama.cpp scales a matrix of rank r by alpha / r.

    `left_out` is a line for each setting whose meaning is unknown.
    """

    config: JSONConfig
    alpha: float
    left_out: list[str] = field(default_factory=list)

    def factor(self, module: str, rank: int) -> float:
        """Returns the number to multiply a matrix by, so that llama.cpp scales the matrix as PEFT does.

        `module` is PEFT's name of the changed module. Raises `ModelError` if the settings give another rank.
        """
        stated = self._of_module("rank_pattern", module, self.config.positive_int("r"))
        if stated != rank:
            raise self.config.error(f"{module} has the rank {rank}, but the settings say {stated:g}")
        alpha = self._of_module("alpha_pattern", module, self.config.number("lora_alpha"))
        rank_stabilized = self.config.flag("use_rslora", False)
        return alpha / (math.sqrt(rank) if rank_stabilized else rank) / (self.alpha / rank)

    def _of_module(self, patterns: str, module: str, usual: float) -> float:
        """Returns the value of the first pattern that matches the end of the module's name, as PEFT does."""
        part = self.config.part(patterns)
        for pattern in part.entries:
            if _matches(self.config, pattern, module):
                return part.number(pattern)
        return usual


def read_lora_settings(config: JSONConfig) -> LoraSettings:
    """Raises `ModelError` that says what to do for adapters that GGUF cannot express."""
    if config.get("peft_type") != "LORA":
        if config.get("peft_type") is None and ("lora_parameters" in config.entries or "lora_layers" in config.entries):
            raise config.error("the adapter was made by MLX; fuse it with mlx_lm.fuse, and convert the fused model")
        raise config.error(f"the adapter is of kind {quoted(config.get('peft_type'))}; only LORA can be converted")
    if config.get("alora_invocation_tokens"):
        raise config.error(
            "the adapter is an activated LoRA (aLoRA), which changes the model only after certain tokens; Galago "
            "cannot run it, and it cannot be merged into its model either"
        )
    for option, off_values in _UNSUPPORTED.items():
        value = config.get(option)
        if value is not None and value not in off_values:
            raise config.error(f"the adapter uses {option} {quoted(value)}, which GGUF cannot express; {MERGE}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and _CHANGES_BASE.fullmatch(start):
        raise _changed_base_error(config, start)
    alpha, rank = config.number("lora_alpha"), config.positive_int("r")
    if alpha == 0:
        raise config.error("lora_alpha is 0, so the adapter changes nothing")
    alpha *= math.sqrt(rank) if config.flag("use_rslora", False) else 1
    return LoraSettings(config, alpha, _unknown_settings(config))


def _unknown_settings(config: JSONConfig) -> list[str]:
    known = _UNSUPPORTED.keys() | _IRRELEVANT | _USED
    unknown = [
        name for name, value in config.entries.items() if name not in known and value not in (None, False, [], {})
    ]
    lines = [
        f"the setting {quoted(name)} of {config.path.name}, which Galago does not know" for name in sorted(unknown)
    ]
    start = config.get("init_lora_weights")
    if start not in _PLAIN_INITIALIZATIONS:
        lines.append(f"the initialization {quoted(start)}, which Galago does not know; if it changes the model's own "
                     "weights, the file is wrong")  # fmt: skip
    return lines


def _changed_base_error(config: JSONConfig, start: str) -> ModelError:
    return config.error(
        f"the adapter was initialized with {quoted(start)}, which also changes the model's own weights, so it does not "
        "fit the original model. Make a plain LoRA of it with PEFT: model.save_pretrained(FOLDER, "
        "path_initial_model_for_weight_conversion=INITIAL), where INITIAL is the adapter as saved before the training. "
        f"Or {MERGE}"
    )


def _matches(config: JSONConfig, pattern: str, module: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern means this module.

    Keys are regular expressions from an untrusted file. Those whose matching could take forever are refused.
    """
    quantifiers = re.sub(r"\.\*", "", pattern)
    if len(pattern) > 200 or pattern.count(".*") > 3 or re.search(r"[*+?{]", quantifiers):
        raise config.error(f"the pattern {quoted(pattern)} is too complex; {MERGE}")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        raise config.error(f"the pattern {quoted(pattern)} is not a regular expression") from None
