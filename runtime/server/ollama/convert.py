"""Pure functions between Ollama's wire shapes and the runtime's values. No I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from ....models.errors import InvalidRequest
from ...types import request
from ...types.events import Delta, Finished, OutputDelta, ReasoningDelta, TokenLogprob, ToolCallArguments, ToolCallStart
from ...types.messages import Effort, Image, Message, Part, Text, Tool, ToolCall
from ...types.options import MAX_INTEGER, MAX_TOP_LOGPROBS
from ..http.field_policy import ANY, Known
from ..openai import convert
from ..openai import message_parts as parts
from . import schema

ACCEPTED: dict[str, str] = {}

_SETTLED = ": it is settled when the model is loaded"
_WITH_MODEL = ("embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_gpu", "num_keep",
               "num_thread", "numa", "use_mlock", "use_mmap", "vocab_only")  # fmt: skip
_STAYS = {"keep_alive": ": the model stays loaded as long as the server runs"}
_FOREVER = {"keep_alive": -1}
KNOWN = Known(
    inert={
        schema.ChatRequest: _FOREVER,
        schema.GenerateRequest: _FOREVER,
        schema.Options: {"mirostat_eta": ANY, "mirostat_tau": ANY},
        schema.EmbedRequest: _FOREVER | {"options": {}, "truncate": False},
        schema.OldEmbedRequest: _FOREVER | {"options": {}},
        schema.ModelRequest: {"insecure": False, "verbose": ANY},
    },
    hints={
        schema.ChatRequest: _STAYS,
        schema.GenerateRequest: _STAYS,
        schema.Options: {name: _SETTLED for name in _WITH_MODEL},
        schema.EmbedRequest: _STAYS | {"options": _SETTLED, "truncate": ": a text that is too long is refused"},
        schema.OldEmbedRequest: _STAYS | {"options": _SETTLED},
        schema.ModelRequest: {"insecure": ": files are checked whatever the connection"},
    },
    unsupported={
        schema.Options: {
            "mirostat": (0,),
            "penalize_newline": (False, True),
            "repeat_last_n": (64,),
            "tfs_z": (1,),
            "typical_p": (1,),
        },
        schema.GenerateRequest: {
            "context": ([],),
            "height": (0,),
            "steps": (0,),
            "template": ("",),
            "width": (0,),
        },
    },
)


def model_name(name: str) -> str:
    """Ollama's clients say `:latest` where a model's name has no tag."""
    return name.removesuffix(":latest")


def messages(asked: schema.ChatRequest | schema.GenerateRequest) -> tuple[Message, ...]:
    """Empty where a client only asks for the model to be loaded."""
    if isinstance(asked, schema.ChatRequest):
        return _chat(asked.messages or [])
    if not asked.prompt and not asked.images or _is_plain(asked):
        return ()
    system = (Message("system", (Text(asked.system),)),) if asked.system else ()
    return (*system, Message("user", _parts(asked.prompt, asked.images, "images")))


def is_empty(asked: schema.ChatRequest | schema.GenerateRequest) -> bool:
    """Whether a request says nothing, as those do that only ask for the model to be loaded."""
    return not messages(asked) and _plain(asked) is None


def _is_plain(asked: schema.GenerateRequest) -> bool:
    return bool(asked.raw or asked.suffix)


def _plain(asked: schema.ChatRequest | schema.GenerateRequest) -> request.CompletionPrompt | None:
    """The prompt of a request that wants no chat template; a suffix is what stands behind the text to be filled in."""
    if isinstance(asked, schema.ChatRequest) or not _is_plain(asked) or not (asked.prompt or asked.suffix):
        return None
    for name in ("system", "images"):
        if getattr(asked, name):
            raise InvalidRequest(f"{name} needs a chat template, without which raw and suffix do", name)
    return request.CompletionPrompt(asked.prompt or "", asked.suffix or None)


def _chat(said: Sequence[schema.Message]) -> tuple[Message, ...]:
    """Calls without an id get one; a result without one belongs to the first call, of that name, without a result."""
    told: list[Message] = []
    open_calls: list[ToolCall] = []
    for i, message in enumerate(said):
        calls = tuple(_call(call, f"call_{i}_{j}") for j, call in enumerate(message.tool_calls or ()))
        answers = message.tool_call_id
        if message.role == "tool":
            found = [call for call in open_calls if _answered(call, message)]
            answers = found[0].id if found else answers
            open_calls = [call for call in open_calls if call.id != answers]
        open_calls += calls
        parts = _parts(message.content, message.images, f"messages[{i}].images")
        name = message.tool_name if message.role == "tool" else None
        told.append(Message(message.role, parts, name, calls, message.thinking or None, answers))
    return tuple(told)


def _answered(call: ToolCall, message: schema.Message) -> bool:
    if message.tool_call_id is not None:
        return call.id == message.tool_call_id
    return message.tool_name in (None, "", call.name)


def _call(call: schema.ToolCall, name: str) -> ToolCall:
    return ToolCall(call.id or name, call.function.name, json.dumps(call.function.arguments))


def _parts(text: str | None, images: Sequence[str] | None, path: str) -> tuple[Part, ...]:
    """Pictures stand before the text, as in Ollama."""
    pictures = [Image(parts.base64_bytes(data, f"{path}[{i}]"), f"{path}[{i}]") for i, data in enumerate(images or ())]
    return (*pictures, *([Text(text)] if text else ()))


def to_request(asked: schema.ChatRequest | schema.GenerateRequest) -> request.Request:
    """What the runtime is asked to do."""
    tools = asked.tools or () if isinstance(asked, schema.ChatRequest) else ()
    return request.Request(
        messages=messages(asked),
        raw=_plain(asked),
        sampling=request.sampling_from(asked, "ollama"),
        **request.request_fields_from(asked, "ollama", skip=("max_tokens", "logprobs")),
        max_tokens=_max_tokens(asked.options.num_predict if asked.options else None),
        json_schema=_schema(asked.format),
        tools=tuple(Tool(t.function.name, t.function.description, t.function.parameters) for t in tools),
        effort=_effort(asked.think),
        logprobs=_likeliest(asked),
    )


def _max_tokens(num_predict: int | None) -> int | None:
    """-1 and -2 mean as many as the context still holds."""
    if num_predict is None or num_predict in (-1, -2):
        return None
    request.check_number("options.num_predict", num_predict, 1, MAX_INTEGER, whole=True)
    return num_predict


def _schema(form: dict[str, Any] | str | None) -> dict[str, Any] | None:
    if isinstance(form, dict):
        return form
    return {"type": "object"} if form == "json" else None


def _effort(think: bool | str | None) -> Effort | None:
    if isinstance(think, bool):
        return "medium" if think else "none"
    return think  # type: ignore[return-value]


def _likeliest(asked: schema.AnswerRequest) -> int | None:
    count = asked.top_logprobs or 0
    request.check_number("top_logprobs", count, 0, MAX_TOP_LOGPROBS, whole=True)
    if count and not asked.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", "top_logprobs")
    return count if asked.logprobs else None


def context_warning(asked: schema.AnswerRequest, context: int) -> list[str]:
    """What a client hears who wants a larger context than the one the model was loaded with."""
    wanted = asked.options.num_ctx if asked.options else None
    if wanted is None or wanted <= context:
        return []
    return [
        f"options.num_ctx is {wanted}, and the context is {context} tokens as long as this model is loaded "
        "(galago serve --context N sets it)"
    ]


@dataclass
class Piece:
    """A piece of an answer as Ollama tells it, where a call is told when it is whole."""

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    def __add__(self, other: Piece) -> Piece:
        return Piece(
            self.text + other.text,
            self.thinking + other.thinking,
            self.calls + other.calls,
            self.logprobs + other.logprobs,
        )


class Pieces:
    """Turns what an answer says into pieces, one by one."""

    def __init__(self) -> None:
        self._call: ToolCall | None = None
        self._arguments: list[str] = []
        self.cut_off = ""
        """The name of the tool whose call the answer broke off."""

    def feed(self, said: OutputDelta) -> Piece:
        """What is whole by now; it may be nothing."""
        match said:
            case ToolCallArguments(_, text):
                self._arguments.append(text)
                return Piece()
            case ToolCallStart(_, call_id, name):
                finished = self.finish()
                self._call = ToolCall(call_id, name, "")
                return finished
            case Delta(text=text, logprobs=logprobs):
                return self.finish() + Piece(text, logprobs=logprobs)
            case ReasoningDelta(text):
                return self.finish() + Piece(thinking=text)

    def finish(self) -> Piece:
        """The call that has ended, if there is one."""
        if self._call is None:
            return Piece()
        call = ToolCall(self._call.id, self._call.name, "".join(self._arguments))
        self._call, self._arguments = None, []
        try:
            call.parsed()
        except InvalidRequest:
            self.cut_off = call.name
            return Piece()
        return Piece(calls=(call,))


def collected(said: Iterable[OutputDelta]) -> tuple[Piece, list[str]]:
    """A whole answer in one piece, and what a client should know of it."""
    pieces, all_of_it = Pieces(), Piece()
    for piece in said:
        all_of_it += pieces.feed(piece)
    all_of_it += pieces.finish()
    return all_of_it, cut_off_warning(pieces)


def cut_off_warning(pieces: Pieces) -> list[str]:
    return [f"the call of {pieces.cut_off} was cut off, and is left out"] if pieces.cut_off else []


def show(line: schema.Line, piece: Piece, chat: bool) -> schema.Line:
    """Writes a piece into a line."""
    if chat:
        calls = [
            schema.ToolCall(schema.CalledFunction(call.name, call.parsed(), i), call.id)
            for i, call in enumerate(piece.calls)
        ]
        line.message = schema.Said(piece.text, thinking=piece.thinking or UNSET, tool_calls=calls or UNSET)
    else:
        line.response, line.thinking = piece.text, piece.thinking or UNSET
    if piece.logprobs:
        told = convert.logprobs(piece.logprobs).content
        line.logprobs = [
            schema.Logprob(t.token, t.logprob, t.bytes, [schema.TokenLogprob(*_told(o)) for o in t.top_logprobs])
            for t in told
        ]
    return line


def _told(token: Any) -> tuple[str, float, list[int]]:
    return token.token, token.logprob, token.bytes


def finish(line: schema.Line, end: Finished) -> schema.Line:
    """Writes into the last line how an answer ended, and what it took."""
    times, used = end.timings, end.usage
    line.done, line.done_reason = True, "length" if end.reason == "length" else "stop"
    line.total_duration, line.load_duration = _nanoseconds(times.total), 0
    line.prompt_eval_count, line.prompt_eval_duration = used.prompt_tokens, _nanoseconds(times.first_token)
    line.eval_count, line.eval_duration = used.completion_tokens, _nanoseconds(times.total - times.first_token)
    return line


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
