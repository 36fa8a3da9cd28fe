"""The options for loading a model, in the same form as the request options in `options.py`.

`MODEL_SETTINGS` and `SERVICE_SETTINGS` are the fields of `ModelConfig`; `FILES` are the other files of a model. A row
gives the bounds that `ModelConfig` checks, the flags of the commands, and the keyword of `load`.
"""

from __future__ import annotations

from .options import OptionSpec

FILES = (
    OptionSpec(
        "mmproj", "path", "projector file for image and audio input", unset="the one that belongs to the model",
        flags=("--mmproj",), metavar="FILE", attribute="",
    ),
    OptionSpec(
        "lora", "texts", "LoRA adapter and its strength; may be repeated", default=(), flags=("--lora",),
        metavar="FILE[:SCALE]", attribute="",
    ),
    OptionSpec(
        "draft", "text", "smaller model with the same vocabulary, for speculative decoding", flags=("--draft",),
        metavar="MODEL", attribute="",
    ),
)  # fmt: skip
"""The files of a model besides its weights."""

MODEL_SETTINGS = (
    OptionSpec(
        "context_length", "integer", "context length in tokens, shared by concurrent requests",
        unset="the model's, at most 8192", minimum=64, flags=("--context", "--ctx"), metavar="N", keyword="ctx",
    ),
    OptionSpec(
        "memory", "size", "memory the model may use, such as 4GB or 50%; sets --context and --parallel",
        unset="no limit", flags=("--memory",), metavar="SIZE",
    ),
    OptionSpec(
        "threads", "integer", "fixed number of CPU threads", unset="tuned while running", minimum=1, maximum=512,
        flags=("--threads",), metavar="N",
    ),
    OptionSpec(
        "gpu_layers", "integer", "layers to run on the GPU; -1 means as many as fit", default=-1, minimum=-1,
        flags=("--gpu-layers",), metavar="N",
    ),
    OptionSpec(
        "kv_type", "text", "precision of the KV cache; q8_0 and q4_0 need less memory", default="f16",
        choices=("f16", "q8_0", "q4_0"), flags=("--kv-type",),
    ),
    OptionSpec(
        "flash_attention", "text", "flash attention; auto uses it where the device supports it", default="auto",
        choices=("auto", "on", "off"), flags=("--flash-attention",),
    ),
    OptionSpec(
        "chat_template", "text", "chat template: chatml, llama3, gemma, mistral, plain, or a Jinja file",
        unset="the one in the model's file", flags=("--chat-template",), metavar="NAME",
    ),
)  # fmt: skip
"""How a model computes."""

SERVICE_SETTINGS = (
    OptionSpec(
        "slots", "integer", "requests answered at once", unset="4", minimum=1, maximum=64,
        flags=("--parallel", "--slots"), metavar="N",
    ),
    OptionSpec(
        "queue", "integer", "requests that may wait for a slot", default=512, minimum=0, maximum=65536,
        flags=("--queue",), metavar="N", keyword="",
    ),
    OptionSpec(
        "cache_mib", "integer", "memory for cached prefixes and encoded media; 0 means none", default=256, minimum=0,
        flags=("--cache-ram",), metavar="MIB",
    ),
    OptionSpec(
        "cache_folder", "path", "keep the cache in this folder over restarts; only you can read it", unset="not kept",
        flags=("--cache-dir",), metavar="DIR", keyword="cache_dir",
    ),
    OptionSpec(
        "cache_disk_mib", "integer", "largest size of the folder given to --cache-dir", default=4096, minimum=0,
        flags=("--cache-disk",), metavar="MIB", keyword="",
    ),
    OptionSpec(
        "hang_limit", "number", "restart a model that does not respond for this many seconds", default=30.0,
        minimum=2, maximum=86400, flags=("--hang-limit",), metavar="SECONDS", keyword="",
    ),
)  # fmt: skip
"""How a model serves several requests, one after the other or at once."""

SETTINGS = (*MODEL_SETTINGS, *SERVICE_SETTINGS)
LOADING = (*FILES, *SETTINGS)
