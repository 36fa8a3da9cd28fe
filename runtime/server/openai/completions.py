"""`POST /v1/completions`: prompts without a chat template, streamed and not. Shapes stand in `wire_completions.py`."""

from __future__ import annotations

import codecs
import contextlib
import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from ....models.errors import DeadlineExceeded, EngineError, GalagoError, InvalidRequest, NotFound, NotReady
from ...service import Service
from ...types import request as values
from ...types.events import Delta, Failed, Finished, Started, TokenLogprob
from ...types.options import MAX_INTEGER, bounds
from ...types.request import CompletionPrompt
from ...types.tasks import Detokenize
from ..http import field_policy, request_io
from ..http.openapi import RouteDescription, Streamed
from . import completions_schema as shapes
from . import convert, schema
from .choices import MOST, Choices, side_by_side

ABOUT = RouteDescription(
    "Complete prompts",
    {200: shapes.Completion},
    body=shapes.CompletionRequest,
    stream=Streamed(shapes.Completion, end="[DONE]"),
    errors=(InvalidRequest, NotFound, NotReady, EngineError, DeadlineExceeded),
    method="POST",
    bounds=bounds("completions") | {"n": convert.BOUNDS["n"], "max_tokens": (0, MAX_INTEGER)},
    examples={
        "text": {"prompt": "Once upon a time", "max_tokens": 64},
        "score": {"prompt": "Once upon a time", "max_tokens": 0, "echo": True, "logprobs": 1},
    },
)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request whose prompts are ready, and what stands before the answers to each (with `echo`)."""

    asked: shapes.CompletionRequest
    warnings: list[str]
    choices: list[Choices]
    echoes: list[str]

    def close(self) -> None:
        for choices in self.choices:
            choices.close()


class CompletionEndpoint:
    """Completes prompts with one service."""

    def __init__(self, service: Service, strict: bool, background: bool = False) -> None:
        self._service = service
        self._background = background
        self._strict = strict

    async def complete(self, request: Request) -> Response:
        body = await request_io.read_body(request)
        begun = await request_io.on_thread(request, lambda gone: self._begin(body, gone), _Begun.close)
        headers = convert.warning_headers(begun.warnings)
        answer = _Answer(self._service.model_id, begun)
        if begun.asked.stream:
            return request_io.streamed(answer.chunks(), begun.close, headers)
        return request_io.whole(await request_io.unless_gone(request, answer.whole()), headers)

    def _begin(self, body: bytes, gone: Callable[[], bool]) -> _Begun:
        raw = convert.decode_object(body)
        asked = convert.typed(raw, shapes.CompletionRequest)
        warnings = field_policy.check(raw, self._strict, shapes.CompletionRequest)
        prompts = convert.inputs(asked.prompt, "prompt")
        begun = _Begun(asked, warnings, [], [])
        try:
            count = _count(asked, len(prompts))
            requests = [_to_request(asked, prompt) for prompt in prompts]
            if self._background:
                requests = [convert.in_background(one) for one in requests]
            for prompt in prompts if asked.echo else ():
                begun.echoes.append(self._text(asked.model, prompt, gone))
            for i, one in enumerate(requests):
                with _numbered(i, len(requests)):
                    generate = partial(self._service.generate, asked.model)
                    begun.choices.append(Choices(generate, one, count, gone))
        except BaseException as error:
            begun.close()
            if isinstance(error, GalagoError):
                raise convert.renamed(error) from None
            raise
        return begun

    def _text(self, model: str | None, prompt: str | tuple[int, ...], gone: Callable[[], bool]) -> str:
        return prompt if isinstance(prompt, str) else self._service.answer(model, Detokenize(prompt), gone).text


def _to_request(asked: shapes.CompletionRequest, prompt: str | tuple[int, ...]) -> values.Request:
    if asked.echo and asked.suffix is not None:
        raise InvalidRequest("echo and suffix exclude each other", "echo")
    raw = CompletionPrompt(prompt, asked.suffix, recited=bool(asked.echo and asked.logprobs is not None))
    return values.Request((), raw=raw, **convert.generation(asked, "completions"))


def _count(asked: shapes.CompletionRequest, prompts: int) -> int:
    """Answers to each prompt."""
    count = convert.choices(asked)
    if asked.best_of not in (None, count):
        raise InvalidRequest("best_of other than n is not offered", "best_of")
    if not 1 <= prompts * count <= MOST:
        raise InvalidRequest(f"{prompts} prompts of {count} answers each; 1 to {MOST} answers are possible", "prompt")
    return count


@contextlib.contextmanager
def _numbered(index: int, prompts: int) -> Iterator[None]:
    """An error about the prompt says which one."""
    try:
        yield
    except GalagoError as error:
        if error.param == "prompt" and prompts > 1:
            error.param = f"prompt[{index}]"
        raise


class _Logprobs:
    """Tells of tokens, piece by piece, and where each begins in the text that they make from the place `offset` on."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @classmethod
    def of_prompt(cls, text: str, first: bytes) -> _Logprobs:
        """For the tokens of a text, some of which begin it with a space of their own."""
        return cls(-1 if first.startswith(b" ") and not text.startswith(" ") else 0)

    def of(self, tokens: Sequence[TokenLogprob]) -> shapes.TextLogprobs:
        told = shapes.TextLogprobs([], [], [], [])
        for token in tokens:
            unknown = math.isnan(token.logprob)
            likeliest = {_named(name): max(logprob, -9999.0) for name, logprob in token.likeliest}
            told.tokens.append(_named(token.token))
            told.token_logprobs.append(None if unknown else max(token.logprob, -9999.0))
            told.top_logprobs.append(None if unknown else likeliest)
            told.text_offset.append(max(self._offset, 0))
            self._offset += len(self._decoder.decode(token.token))
        return told


def _named(token: bytes) -> str:
    """As OpenAI names a token that is no whole character: `bytes:\\xe2\\x82`."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


class _Answer:
    """One completion on its way out: the fields that all of its shapes share."""

    def __init__(self, model: str, begun: _Begun) -> None:
        self._begun = begun
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._warnings = begun.warnings
        self._each = begun.choices[0].count
        self._total = self._each * len(begun.choices)
        self._echoes = [begun.echoes[i // self._each] if begun.echoes else "" for i in range(self._total)]
        self._logprobs = [_Logprobs(len(echo)) for echo in self._echoes]

    async def whole(self) -> shapes.Completion:
        texts = [[echo] for echo in self._echoes]
        recited: list[list[TokenLogprob]] = [[] for _ in texts]
        tokens: list[list[TokenLogprob]] = [[] for _ in texts]
        ends: dict[int, Finished] = {}
        async with contextlib.aclosing(side_by_side(self._begun.choices)) as events:
            async for index, event in events:
                match event:
                    case Started(warnings=warnings):
                        self._warn(index, warnings)
                        recited[index] += event.recited
                    case Failed(error=error):
                        raise convert.renamed(error)
                    case Finished():
                        ends[index] = event
                    case Delta(text=text, logprobs=logprobs):
                        texts[index].append(text)
                        tokens[index] += logprobs
        if len(ends) < self._total:
            raise EngineError("the answer ended without a reason")
        choices = [
            shapes.TextChoice("".join(text), i, self._of_both(i, recited[i], tokens[i]), ends[i].reason)
            for i, text in enumerate(texts)
        ]
        answer = self._envelope(choices, self._usage(ends))
        answer.timings = convert.timings([ends[i] for i in range(self._total)])
        answer.warnings = self._warnings or UNSET
        return answer

    async def chunks(self) -> AsyncGenerator[shapes.Completion, None]:
        options = self._begun.asked.stream_options
        wants_usage = bool(options and options.include_usage)
        ends: dict[int, Finished] = {}
        async with contextlib.aclosing(side_by_side(self._begun.choices)) as events:
            async for index, event in events:
                choice = shapes.TextChoice("", index)
                match event:
                    case Started(warnings=warnings):
                        self._warn(index, warnings)
                        choice.text = self._echoes[index]
                        choice.logprobs = self._of_prompt(index, event.recited)
                    case Failed(error=error):
                        raise convert.renamed(error)
                    case Finished(reason=reason):
                        ends[index] = event
                        choice.finish_reason = reason
                    case Delta(text=text, logprobs=logprobs):
                        choice.text, choice.logprobs = text, self._told(index, logprobs)
                chunk = self._envelope([choice], None if wants_usage else UNSET)
                if isinstance(event, Started) and index % self._each == 0:
                    chunk.warnings, self._warnings = self._warnings or UNSET, []
                if len(ends) == self._total:
                    chunk.timings = convert.timings([ends[i] for i in range(self._total)])
                yield chunk
        if wants_usage and len(ends) == self._total:
            yield self._envelope([], self._usage(ends))

    def _warn(self, index: int, warnings: Sequence[str]) -> None:
        """Takes the first answer's warnings to each prompt, without those already told."""
        if index % self._each == 0:
            self._warnings += [warning for warning in warnings if warning not in self._warnings]

    def _told(self, index: int, tokens: Sequence[TokenLogprob]) -> shapes.TextLogprobs | None:
        return None if self._begun.asked.logprobs is None else self._logprobs[index].of(tokens)

    def _of_prompt(self, index: int, tokens: Sequence[TokenLogprob]) -> shapes.TextLogprobs | None:
        return _Logprobs.of_prompt(self._echoes[index], tokens[0].token).of(tokens) if tokens else None

    def _of_both(
        self, index: int, recited: Sequence[TokenLogprob], tokens: Sequence[TokenLogprob]
    ) -> shapes.TextLogprobs | None:
        before, told = self._of_prompt(index, recited), self._told(index, tokens)
        if before is None or told is None:
            return told
        return shapes.TextLogprobs(
            before.tokens + told.tokens,
            before.token_logprobs + told.token_logprobs,
            before.top_logprobs + told.top_logprobs,
            before.text_offset + told.text_offset,
        )

    def _usage(self, ends: dict[int, Finished]) -> schema.Usage:
        """Of all answers together; each prompt counts once."""
        return convert.usage([ends[i] for i in range(self._total)], self._each)

    def _envelope(self, choices: list[shapes.TextChoice], usage: schema.Usage | None | UnsetType) -> shapes.Completion:
        return shapes.Completion(self._id, self._created, self._model, choices, usage)
