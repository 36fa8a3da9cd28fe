"""The options of a request, in one table from which all other descriptions of them derive.

A row gives the bounds that `Sampling` and `Request` check, the flag of `galago run` and `galago chat`, the keyword of
`model.chat`, the conversion from each HTTP dialect, the limits in the OpenAPI document, and the reference page.
`load_options.py` is the same table for loading a model.

To add a sampling option:

1. add a row to `SAMPLING`;
2. apply it in `sampling/sampler.py`;
3. add a field to each typed signature: `Sampling` in `types/request.py`, `ChatOptions` in `python_api.py`, and the
   request struct of each HTTP dialect that the row names (`server/*/schema.py`).

`tests/runtime/types/test_options.py` fails until the signatures and the table agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from .messages import DEFAULT_VIDEO_FRAMES, MAX_VIDEO_FRAMES, ReasoningEffort

OptionKind: TypeAlias = Literal[
    "number", "integer", "flag", "text", "texts", "path", "paths", "size", "token_ids", "token_biases", "object"
]
"""What a value is. A `size` is a text such as "4GB" or "50%"; an `object` is converted by each dialect itself."""

Dialect: TypeAlias = Literal["chat", "completions", "responses", "anthropic", "ollama"]
"""The HTTP APIs: OpenAI's chat completions, completions and responses, Anthropic's messages, and Ollama's."""

MAX_INTEGER = 2**31 - 1
MAX_STOPS = 256
MAX_TOP_LOGPROBS = 20
"""Alternatives per token, as in OpenAI's API."""


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option, under every name it has.

    `help` is a phrase without a full stop; `unset` says what happens when the option is left out. Numbers are checked
    against `minimum` and `maximum`. `attribute` is the field of `Sampling`, `Request` or `ModelConfig` (default: the
    name; empty: none). `keyword` is the Python keyword (default: the name; empty: none). `wire` holds, by dialect, the
    path of the request field, followed by the dialect's other fields with the same meaning. `gguf` is the key under
    `general.sampling.`, and `checkpoint` the key in a checkpoint's generation_config.json. With `file` the command line
    reads the value from a file. `other_values` are numbers that clients of other programs send over HTTP, with their
    meanings.
    """

    name: str
    kind: OptionKind
    help: str
    unset: str = ""
    default: object = None
    minimum: float = float("-inf")
    maximum: float = float("inf")
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    metavar: str = ""
    file: bool = False
    attribute: str | None = None
    keyword: str | None = None
    wire: Mapping[Dialect, tuple[str, ...]] = field(default_factory=dict)
    gguf: str = ""
    checkpoint: str = ""
    other_values: Mapping[float, object] = field(default_factory=dict)

    @property
    def field_name(self) -> str:
        return self.name if self.attribute is None else self.attribute

    @property
    def python_name(self) -> str:
        return self.name if self.keyword is None else self.keyword

    @property
    def label(self) -> str:
        """Its name in errors: the first flag without dashes."""
        return self.flags[0].lstrip("-") if self.flags else self.name

    @property
    def bounds(self) -> tuple[float, float] | None:
        return (self.minimum, self.maximum) if self.kind in ("number", "integer") else None


def _openai(name: str) -> dict[Dialect, tuple[str, ...]]:
    """The same field of OpenAI's chat completions and completions."""
    return {"chat": (name,), "completions": (name,)}


PROMPT = (
    OptionSpec("image", "paths", "image file; may be repeated", flags=("--image",), metavar="FILE"),
    OptionSpec("audio", "paths", "audio file; may be repeated", flags=("--audio",), metavar="FILE"),
    OptionSpec("video", "paths", "video file; may be repeated", flags=("--video",), metavar="FILE"),
    OptionSpec(
        "frames", "integer", "frames to show of each video", default=DEFAULT_VIDEO_FRAMES, minimum=1,
        maximum=MAX_VIDEO_FRAMES,
        flags=("--frames",), metavar="N",
    ),
    OptionSpec("system", "text", "system message", flags=("--system",), metavar="TEXT"),
)  # fmt: skip
"""Options that become part of the messages."""

SAMPLING = (
    OptionSpec(
        "temperature", "number", "randomness; 0 always takes the most likely token",
        unset="the model's, else 0", minimum=0, maximum=100, flags=("--temperature",), metavar="X",
        wire={
            **_openai("temperature"), "responses": ("temperature",), "anthropic": ("temperature",),
            "ollama": ("options.temperature",),
        },
        gguf="temp", checkpoint="temperature",
    ),
    OptionSpec(
        "top_p", "number", "sample from the most likely tokens whose probabilities add up to this",
        unset="the model's, else 1", minimum=0, maximum=1, flags=("--top-p",), metavar="X",
        wire={
            **_openai("top_p"), "responses": ("top_p",), "anthropic": ("top_p",), "ollama": ("options.top_p",),
        },
        gguf="top_p", checkpoint="top_p",
    ),
    OptionSpec(
        "top_k", "integer", "sample from this many of the most likely tokens; 0 means all",
        unset="the model's, else 0", minimum=0, maximum=MAX_INTEGER, flags=("--top-k",), metavar="N",
        wire={**_openai("top_k"), "responses": ("top_k",), "anthropic": ("top_k",), "ollama": ("options.top_k",)},
        gguf="top_k", checkpoint="top_k", other_values={-1: 0},
    ),
    OptionSpec(
        "min_p", "number", "drop tokens less likely than this fraction of the most likely one",
        unset="the model's, else 0", minimum=0, maximum=1, flags=("--min-p",), metavar="X",
        wire={**_openai("min_p"), "responses": ("min_p",), "ollama": ("options.min_p",)},
        gguf="min_p", checkpoint="min_p",
    ),
    OptionSpec(
        "seed", "integer", "make a sampled answer repeatable",
        unset="a new one for each answer", minimum=-(2**63), maximum=2**64 - 1, flags=("--seed",), metavar="N",
        wire={**_openai("seed"), "responses": ("seed",), "ollama": ("options.seed",)}, other_values={-1: None},
    ),
    OptionSpec(
        "frequency_penalty", "number", "lower a token's logit by this much for each time it was generated",
        unset="0", minimum=-2, maximum=2, flags=("--frequency-penalty",), metavar="X",
        wire={
            **_openai("frequency_penalty"), "responses": ("frequency_penalty",),
            "ollama": ("options.frequency_penalty",),
        },
    ),
    OptionSpec(
        "presence_penalty", "number", "lower a token's logit by this much once it was generated",
        unset="0", minimum=-2, maximum=2, flags=("--presence-penalty",), metavar="X",
        wire={
            **_openai("presence_penalty"), "responses": ("presence_penalty",), "ollama": ("options.presence_penalty",),
        },
    ),
    OptionSpec(
        "repeat_penalty", "number", "divide the logits of recent tokens by this; 1 changes nothing",
        unset="the model's, else 1", minimum=0.01, maximum=100, flags=("--repeat-penalty",), metavar="X",
        wire={**_openai("repeat_penalty"), "ollama": ("options.repeat_penalty",)},
        gguf="penalty_repeat", checkpoint="repetition_penalty", other_values={0: 1},
    ),
    OptionSpec(
        "logit_bias", "token_biases", "add a number from -100 to 100 to the logits of given token ids",
        unset="no bias", default=(), wire=_openai("logit_bias"),
    ),
)  # fmt: skip
"""How the next token is chosen: the fields of `Sampling`."""

REQUEST = (
    OptionSpec(
        "max_tokens", "integer", "longest answer, in tokens", unset="until the context is full",
        minimum=0, maximum=MAX_INTEGER, flags=("--max-tokens",), metavar="N",
        wire={
            "chat": ("max_tokens", "max_completion_tokens"), "completions": ("max_tokens",),
            "responses": ("max_output_tokens",), "anthropic": ("max_tokens",), "ollama": ("options.num_predict",),
        },
        other_values={-1: None, -2: None},
    ),
    OptionSpec(
        "min_tokens", "integer", "do not let the model end its answer before this many tokens", unset="0",
        minimum=0, maximum=MAX_INTEGER, wire=_openai("min_tokens"),
    ),
    OptionSpec(
        "stop", "texts", "end the answer before this text; may be repeated", default=(),
        flags=("--stop",), metavar="TEXT",
        wire={**_openai("stop"), "responses": ("stop",), "anthropic": ("stop_sequences",), "ollama": ("options.stop",)},
    ),
    OptionSpec(
        "stop_token_ids", "token_ids", "end the answer before any of these tokens", default=(),
        wire=_openai("stop_token_ids"),
    ),
    OptionSpec(
        "timeout", "number", "fail if the answer is not complete after this many seconds", unset="no limit",
        minimum=0, maximum=86400, wire=_openai("timeout"),
    ),
    OptionSpec(
        "logprobs", "integer", "report each token's log-probability, and this many of the most likely alternatives",
        unset="none", minimum=0, maximum=MAX_TOP_LOGPROBS,
        wire={
            "chat": ("top_logprobs",), "completions": ("logprobs",), "responses": ("top_logprobs",),
            "ollama": ("top_logprobs",),
        },
    ),
    OptionSpec(
        "ignore_eos", "flag", "continue after the model ends its answer", default=False, wire=_openai("ignore_eos"),
    ),
    OptionSpec(
        "cache", "flag", "take from the prefix cache, and add to it", default=True, wire=_openai("cache"),
    ),
    OptionSpec(
        "lora", "object", "scale of each loaded LoRA adapter, in order", unset="as loaded", wire=_openai("lora"),
    ),
    OptionSpec(
        "json_schema", "object", "make the answer follow this JSON schema",
        flags=("--json-schema",), metavar="FILE", file=True,
        wire={
            **_openai("response_format"), "responses": ("text.format",), "anthropic": ("output_config.format",),
            "ollama": ("format",),
        },
    ),
    OptionSpec(
        "grammar", "text", "make the answer follow this Lark grammar",
        flags=("--grammar",), metavar="FILE", file=True, wire=_openai("grammar"),
    ),
    OptionSpec(
        "regex", "text", "make the answer match this regular expression",
        flags=("--regex",), metavar="REGEX", wire=_openai("regex"),
    ),
    OptionSpec(
        "tools", "object", "functions that the model may call", default=(),
        wire={"chat": ("tools",), "responses": ("tools",), "anthropic": ("tools",), "ollama": ("tools",)},
    ),
    OptionSpec(
        "tool_choice", "object", "auto, none, required, or the name of the tool to call", unset="auto", default="auto",
        wire={"chat": ("tool_choice",), "responses": ("tool_choice",), "anthropic": ("tool_choice",)},
    ),
    OptionSpec(
        "parallel_tool_calls", "object", "allow several tool calls in one answer", unset="yes", default=True,
        wire={
            "chat": ("parallel_tool_calls",), "responses": ("parallel_tool_calls",),
            "anthropic": ("tool_choice.disable_parallel_tool_use",),
        },
    ),
    OptionSpec(
        "reasoning_effort", "object", "how long the model reasons before it answers",
        unset="what the chat template does by default", choices=get_args(ReasoningEffort),
        wire={
            "chat": ("reasoning_effort",), "responses": ("reasoning.effort",),
            "anthropic": ("output_config.effort", "thinking"), "ollama": ("think",),
        },
    ),
    OptionSpec(
        "chat_template_kwargs", "object", "variables for the chat template", attribute="template_variables", keyword="",
        wire={"chat": ("chat_template_kwargs",)},
    ),
    OptionSpec(
        "continue_final", "object", "continue an assistant message at the end instead of starting a new one",
        unset="yes", default=True, wire={"chat": ("continue_final_message", "add_generation_prompt")},
    ),
)  # fmt: skip
"""The other options of a request: fields of `Request`."""


def bounds(dialect: Dialect) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each number in a dialect's requests, by the name of its field."""
    return {
        path.rpartition(".")[2]: option.bounds
        for option in (*SAMPLING, *REQUEST)
        for path in option.wire.get(dialect, ())
        if option.bounds is not None
    }


def wire_fields(options: Iterable[OptionSpec], dialect: Dialect) -> tuple[tuple[OptionSpec, str], ...]:
    """The options that a dialect has, each with the path of its field."""
    return tuple((option, option.wire[dialect][0]) for option in options if dialect in option.wire)


def markdown(options: Iterable[OptionSpec]) -> str:
    """A table for the reference documentation: the name in Python, flags, HTTP fields, range, and meaning."""
    lines = ["| Python | Command line | HTTP | Range | Meaning | Default |", "|---|---|---|---|---|---|"]
    for option in options:
        python = f"`{option.python_name}`" if option.python_name else ""
        flags = ", ".join(f"`{flag}`" for flag in option.flags)
        paths = dict.fromkeys(path for names in option.wire.values() for path in names)
        meaning = option.help[:1].upper() + option.help[1:].removesuffix("; may be repeated")
        cells = (python, flags, ", ".join(f"`{path}`" for path in paths), range_text(option), meaning, _default(option))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def range_text(option: OptionSpec) -> str:
    """The values that an option accepts, in words."""
    if option.choices:
        return ", ".join(option.choices)
    if option.bounds is None:
        return ""
    if option.minimum == -(2**63):
        return "any 64-bit integer"
    if option.maximum in (float("inf"), MAX_INTEGER):
        return f"{option.minimum} or more"
    return f"from {option.minimum} to {option.maximum}"


def _default(option: OptionSpec) -> str:
    if option.unset:
        return option.unset
    if option.kind == "flag":
        return "yes" if option.default else "no"
    return "" if option.default in (None, ()) else str(option.default)
