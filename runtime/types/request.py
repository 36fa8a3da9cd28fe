"""A request to generate text, its sampling settings, and their validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from ...models.errors import GalagoError, InvalidRequest
from .limits import limit, limit_error
from .messages import TOOL_NAME, Message, ReasoningEffort, Text, Tool
from .options import MAX_INTEGER, MAX_STOPS, REQUEST, SAMPLING, Dialect, OptionSpec, wire_fields
from .warnings import Warnings

MAX_BIAS = 100.0
"""The largest number that `logit_bias` adds to a logit, as in OpenAI's API."""
MAX_TOOLS = 512

_SAMPLING_NUMBERS = tuple(option for option in SAMPLING if option.bounds is not None)
_SAMPLING_NAMES = frozenset(option.name for option in SAMPLING)
_REQUEST_NUMBERS = {option.name: option for option in REQUEST if option.bounds is not None}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `None` means the recommendation of the model's file, or else greedy sampling.

    Applied in the order repeat_penalty, frequency_penalty, presence_penalty and logit_bias, top_k, top_p, min_p,
    temperature. `temperature` 0 takes the most likely token. `logit_bias` has pairs of a token id and the number to
    add to its logit.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for option in _SAMPLING_NUMBERS:
            if (value := getattr(self, option.name)) is not None:
                check_option(option, value)
        for token, bias in self.logit_bias:
            check_number("logit_bias", token, 0, MAX_INTEGER, whole=True)
            check_number("logit_bias", bias, -MAX_BIAS, MAX_BIAS)


@dataclass(frozen=True, slots=True)
class CompletionPrompt:
    """A prompt without a chat template: token ids, or text whose control tokens are parsed.

    With a `suffix` the answer is the text between both. With `prompt_logprobs` the log-probabilities of the prompt's
    tokens are reported before the answer, which may then be empty.
    """

    prompt: str | tuple[int, ...]
    suffix: str | None = None
    prompt_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A chat to answer, or a `completion` prompt without messages to continue.

    `max_tokens`: `None` means the rest of the context. `min_tokens`: the model cannot end the answer earlier.
    `stop_token_ids`: these tokens end the answer too. `cache`: the prefix cache is read and written.
    `lora`: the scale of each loaded adapter, 0 for missing ones; `None` means as loaded.
    `timeout`: the answer fails if it is not complete this many seconds after the request's arrival.
    `json_schema`, `grammar` (Lark, in llguidance's dialect), `regex`: the form of the answer; at most one of them.
    `logprobs`: the log-probability of each token is reported, with this many of the most likely alternatives.
    `continue_final`: a final assistant message is continued.
    `allowed_tools`: the names of the tools that may be called, if not all. `parallel_tool_calls`: several calls may be
    in one answer. `reasoning_effort`: `None` means the template's default; `effort_field` is the caller's name for it.
    `template_variables` are set for the template. `background`: lowest priority; the request is preempted while there
    is any other. `client` identifies the sender: the waiting requests of several clients take turns.
    `strict`: refuses what cannot be done as asked, instead of doing it as far as possible with a warning.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    cache: bool = True
    json_schema: dict[str, Any] | bool | None = None
    lora: tuple[float, ...] | None = None
    timeout: float | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    allowed_tools: tuple[str, ...] | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: ReasoningEffort | None = None
    effort_field: str = "reasoning_effort"
    template_variables: dict[str, Any] = field(default_factory=dict)
    grammar: str | None = None
    regex: str | None = None
    logprobs: int | None = None
    continue_final: bool = True
    completion: CompletionPrompt | None = None
    background: bool = False
    client: str = ""
    strict: bool = False
    min_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.completion is not None and self.completion.prompt_logprobs

    @property
    def shown_tools(self) -> tuple[Tool, ...]:
        """The tools that the prompt shows: of several with one name only the first, and none that cannot be called."""
        if self.tool_choice == "none":
            return ()
        named = {tool.name: tool for tool in reversed(self.tools) if TOOL_NAME.fullmatch(tool.name)}
        return tuple(tool for tool in self.tools if named.get(tool.name) is tool)

    @property
    def unusable_tools(self) -> tuple[str, ...]:
        """For each tool that is left out of `shown_tools`, a sentence that says why."""
        names = [tool.name for tool in self.tools]
        problems = dict.fromkeys(
            f"two tools are named {name!r}; only the first of them can be called"
            for i, name in enumerate(names)
            if names.index(name) != i
        )
        for i, name in enumerate(names):
            if not TOOL_NAME.fullmatch(name):
                problems[f"tools[{i}] is left out: {_bad_name(name)}"] = None
        return tuple(problems)

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The shown tools that the answer may call."""
        allowed = self.allowed_tools
        return tuple(tool for tool in self.shown_tools if allowed is None or tool.name in allowed)

    @property
    def is_constrained(self) -> bool:
        """Whether a grammar must enforce the form of the answer."""
        forms = (self.json_schema, self.grammar, self.regex)
        return bool(self.tools) or any(form is not None for form in forms)

    @property
    def continued_message(self) -> Message | None:
        """The final assistant message, if the answer continues it."""
        if self.completion is not None:
            return None
        last = self.messages[-1]
        continues = self.continue_final and last.role == "assistant" and last.parts and not last.tool_calls
        return last if continues else None

    def __post_init__(self) -> None:
        if self.completion is not None and (self.messages or self.tools):
            raise InvalidRequest("a completion prompt excludes messages and tools", "prompt")
        if not self.messages and self.completion is None:
            raise InvalidRequest("there is no message to answer", "messages")
        for name in ("max_tokens", "min_tokens", "timeout", "logprobs"):
            check_option(_REQUEST_NUMBERS[name], getattr(self, name))
        if self.timeout == 0:
            raise InvalidRequest("timeout is 0, which leaves no time for an answer; give more seconds", "timeout")
        for token in self.stop_token_ids:
            check_number("stop_token_ids", token, 0, MAX_INTEGER, whole=True)
        if self.wants_prompt_logprobs and self.logprobs is None:
            raise InvalidRequest("logprobs must be set to report the log-probabilities of the prompt", "logprobs")
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequest(f"stop has {len(self.stop)} strings; at most {MAX_STOPS} are allowed", "stop")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise InvalidRequest("stop has an empty string, which would end every answer at once", "stop")
        for scale in self.lora or ():
            check_number("lora", scale, -100, 100)
        forms = [name for name in ("json_schema", "grammar", "regex") if getattr(self, name) is not None]
        if len(forms) > 1:
            raise InvalidRequest(f"{' and '.join(forms)} exclude each other; give only one of them", forms[-1])
        self._check_tools()

    def _check_tools(self) -> None:
        names = [tool.name for tool in self.tools]
        if len(names) > MAX_TOOLS:
            raise InvalidRequest(f"there are {len(names)} tools; at most {MAX_TOOLS} are allowed", "tools")
        if self.tool_choice == "required" and not self.shown_tools:
            reason = f": {_bad_name(names[0])}" if names else ""
            raise InvalidRequest(f"tool_choice requires a call, but there are no tools{reason}", "tool_choice")
        if self.allowed_tools == ():
            raise InvalidRequest('tool_choice allows no tool; use "none" if none may be called', "tool_choice")
        for name in self.allowed_tools or ():
            if name not in names or not TOOL_NAME.fullmatch(name):
                raise InvalidRequest(f"tool_choice names {name!r}, which is not one of the tools", "tool_choice")


def _bad_name(name: str) -> str:
    return f"{name[:80]!r} is not a valid name; use 1 to 256 letters, digits and _ - . / : @"


def check_option(
    option: OptionSpec, value: object, name: str | None = None, error: type[GalagoError] = InvalidRequest
) -> None:
    """Checks a number against its bounds in the table; `name` is the caller's name for it, if it is another one."""
    check_number(
        name or option.name, value, option.minimum, option.maximum, whole=option.kind == "integer", error=error
    )


def check_number(
    name: str, value: object, low: float, high: float, *, whole: bool = False, error: type[GalagoError] = InvalidRequest
) -> None:
    """Raises an error unless a value is `None` or within its bounds."""
    kinds = int if whole else (int, float)
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high):
        kind = "a whole number" if whole else "a number"
        allowed = f"from {low} to {high}" if high < float("inf") else f"of at least {low}"
        raise error(f"{name} is {value!r}; it must be {kind} {allowed}", name)


def sampling_from(source: object, dialect: Dialect, warnings: Warnings) -> Sampling:
    """Reads the sampling options from a dialect's request, a struct with the fields that the table names.

    A number beyond its bounds is replaced by the nearest possible one, with a warning.
    """
    return Sampling(**_read(_SAMPLING_FIELDS[dialect], source, warnings))


def recommended_sampling(number: Callable[[str], float | None]) -> Sampling:
    """The settings that a model's file recommends; `number` reads a number from its metadata by key."""
    values: dict[str, Any] = {}
    for option in SAMPLING:
        value = number(f"general.sampling.{option.gguf}") if option.gguf else None
        if value is not None:
            values[option.name] = int(value) if option.kind == "integer" else value
    return Sampling(**{"temperature": 0.0} | values)


def filled(sampling: Sampling, defaults: Sampling) -> Sampling:
    """Returns the settings with missing ones taken from `defaults`."""
    missing = {f.name: getattr(defaults, f.name) for f in fields(sampling) if getattr(sampling, f.name) in (None, ())}
    return replace(sampling, **missing)


def request_fields_from(
    source: object, dialect: Dialect, warnings: Warnings, skip: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads the other options of a dialect's request, as arguments of `Request`.

    Leaves out those that each dialect writes in its own form (kind "object"), and those in `skip`. A number beyond its
    maximum is replaced by that, with a warning.
    """
    return _read([field for field in _REQUEST_FIELDS[dialect] if field.option.name not in skip], source, warnings)


def _read(fields: Iterable[_WireField], source: object, warnings: Warnings) -> dict[str, Any]:
    values = {}
    for entry in fields:
        value: Any = source
        for part in entry.parts:
            value = getattr(value, part, None)
        if entry.is_number and value is not None:
            value = possible_number(entry.option, entry.path, value, warnings)
        values[entry.target] = option_value(entry.option, value, warnings)
    return values


def possible_number(option: OptionSpec, path: str, value: float, warnings: Warnings) -> Any:
    """The number that a client means by `value` in the field `path`, or `None` for the default.

    A number that is out of range is replaced by the nearest one, or by the default if it is too small to mean
    anything, such as a limit of -5 tokens.
    """
    if value in option.other_values:
        return option.other_values[value]
    nearest = min(max(value, option.minimum), option.maximum)
    if nearest == value:
        return value
    shown = f"{value:g}" if isinstance(value, float) else value
    means_nothing = value < option.minimum and option.name not in _SAMPLING_NAMES
    instead = "it is ignored" if means_nothing else f"{nearest} is used"
    warnings.add_unless_strict(f"{path} is {shown}, out of range", path, instead=instead)
    return None if means_nothing else nearest


def max_tokens_from(value: int | None, path: str, warnings: Warnings) -> int | None:
    """The limit of an answer's tokens that a client means by a number in the field `path`; `None` for no limit."""
    return None if value is None else possible_number(_REQUEST_NUMBERS["max_tokens"], path, value, warnings)


def option_value(option: OptionSpec, given: Any, warnings: Warnings | None = None) -> Any:
    """The value that `Sampling` and `Request` hold for one given by a client; `None` means that none was given.

    With `warnings`, what has no effect or is out of bounds is left out or limited, with a warning.
    """
    match option.kind:
        case "flag":
            return option.default if given is None else bool(given)
        case "text":
            return given or None
        case "texts":
            texts = (given,) if isinstance(given, str) else tuple(given or ())
            return texts if warnings is None else _without_empty(texts, option.name, warnings)
        case "token_ids":
            return tuple(given or ())
        case "token_biases":
            return _biases(given or {}, warnings)
    return given


def _biases(given: Mapping[int | str, float], warnings: Warnings | None) -> tuple[tuple[int, float], ...]:
    biases = [(_token_id(token), _bias(token, bias, warnings)) for token, bias in given.items()]
    unknown = next((token for token, (number, _) in zip(given, biases, strict=True) if number is None), None)
    if unknown is not None:
        problem = f"logit_bias: {str(unknown)[:80]!r} is not a token id"
        if warnings is None:
            raise InvalidRequest(problem, "logit_bias")
        warnings.add_unless_strict(problem, "logit_bias", instead="what is not a token id is ignored")
    return tuple((number, bias) for number, bias in biases if number is not None)


def _without_empty(texts: tuple[str, ...], name: str, warnings: Warnings) -> tuple[str, ...]:
    if "" in texts:
        warnings.add_unless_strict(f"{name} has an empty text", name, instead="it is ignored")
    return tuple(text for text in texts if text)


def _token_id(given: int | str) -> int | None:
    """The token's id, which is a text in JSON; `None` if it is not one."""
    if not isinstance(given, str):
        return given
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else None


def _bias(token: int | str, bias: float, warnings: Warnings | None) -> float:
    possible = min(max(bias, -MAX_BIAS), MAX_BIAS)
    if warnings is None or possible == bias:
        return bias
    problem = f"logit_bias has {bias} for the token {token}, out of range"
    warnings.add_unless_strict(problem, "logit_bias", instead=f"{possible} is used")
    return possible


class _WireField:
    """Where a dialect's request holds an option, and the field of `Sampling` or `Request` that takes it."""

    __slots__ = ("is_number", "option", "parts", "path", "target")

    def __init__(self, option: OptionSpec, path: str) -> None:
        self.option, self.path, self.parts, self.target = option, path, path.split("."), option.field_name
        self.is_number = option.bounds is not None


def _fields(options: Iterable[OptionSpec], dialect: Dialect) -> list[_WireField]:
    return [_WireField(option, path) for option, path in wire_fields(options, dialect)]


_SAMPLING_FIELDS = {dialect: _fields(SAMPLING, dialect) for dialect in get_args(Dialect)}
_REQUEST_FIELDS = {
    dialect: _fields((option for option in REQUEST if option.kind != "object"), dialect)
    for dialect in get_args(Dialect)
}


class RequestLimits:
    """The size limits of one request, read from the table of limits when this is created."""

    def __init__(self) -> None:
        self._characters = limit("prompt_characters")
        self._parts = limit("parts")
        self._bytes = limit("held_bytes")

    def check(self, request: Request) -> None:
        """Raises `RequestTooLarge` for too many characters, parts or bytes of media."""
        characters = parts = size_bytes = 0
        for message in request.messages:
            characters += len(message.reasoning or "") + sum(len(call.arguments) for call in message.tool_calls)
            for part in message.parts:
                if isinstance(part, Text):
                    characters += len(part.text)
                else:
                    parts += 1
                    size_bytes += part.size_bytes
        prompt = None if request.completion is None else request.completion.prompt
        self.check_characters(characters + (len(prompt) if isinstance(prompt, str) else 0), "messages")
        if parts > self._parts:
            raise limit_error("parts", f"the request has {parts} images, audio clips, videos and files", "messages")
        if size_bytes > self._bytes:
            raise limit_error("held_bytes", f"the media of the request have {size_bytes:,} bytes", "messages")

    def check_characters(self, characters: int, field: str) -> None:
        if characters > self._characters:
            raise limit_error("prompt_characters", f"the texts of the request have {characters:,} characters", field)
