"""Completion requests as the runtime's values, and the runtime's events as completions. Pure: no I/O, no clock."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence

from msgspec import UNSET, UnsetType

from .....models.errors import GalagoError, InvalidRequest
from ....types import request as values
from ....types.events import Delta, Finished, OutputDelta, Started, TokenLogprob
from ....types.request import CompletionPrompt
from ....types.warnings import Warnings
from ...http.events import MAX_CHOICES
from ...http.whole_answers import CollectedAnswer
from ..chat import convert as chat_convert
from ..errors import error_response
from ..schema import ErrorResponse, Usage
from . import schema


def prompts(field: str | list[str | int | list[int]], name: str) -> list[str | tuple[int, ...]]:
    """The prompts in a field: one text, the token ids of one, or a list of either."""
    if isinstance(field, str):
        return [field]
    tokens = [one for one in field if isinstance(one, int)]
    if tokens and len(tokens) == len(field):
        return [tuple(tokens)]
    if tokens:
        raise InvalidRequest(f"{name} mixes token ids with texts; put the tokens of each text in a list", name)
    return [one if isinstance(one, str) else tuple(one) for one in field if not isinstance(one, int)]


def to_request(request: schema.CompletionRequest, prompt: str | tuple[int, ...], warnings: Warnings) -> values.Request:
    """The request to the runtime. Warns about anything done differently than asked."""
    if request.echo and request.suffix is not None:
        raise InvalidRequest("echo and suffix exclude each other; give only one of them", "echo")
    raw = CompletionPrompt(prompt, request.suffix, prompt_logprobs=bool(request.echo and request.logprobs is not None))
    return values.Request(
        (),
        completion=raw,
        strict=warnings.strict,
        **chat_convert.generation_arguments(request, "completions", warnings),
    )


def choices_per_prompt(request: schema.CompletionRequest, prompt_count: int) -> int:
    count = chat_convert.choice_count(request)
    if request.best_of not in (None, count):
        raise InvalidRequest("best_of must equal n or be left out; other values are not supported", "best_of")
    if not 1 <= prompt_count * count <= MAX_CHOICES:
        raise InvalidRequest(
            f"{prompt_count} prompts with {count} answers each are not possible; ask for 1 to {MAX_CHOICES} answers",
            "prompt",
        )
    return count


class CompletionEncoder:
    """Encodes the choices of one completion request as chunks, or as a whole completion.

    `echoes` are the prompts to repeat before the answers, if the request asks for it.
    """

    def __init__(
        self,
        completion_id: str,
        created: int,
        model: str,
        request: schema.CompletionRequest,
        prompt_count: int,
        echoes: Sequence[str],
        warnings: Sequence[str],
    ) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._request = request
        self._warnings = list(warnings)
        self._per_prompt = chat_convert.choice_count(request)
        self._count = self._per_prompt * prompt_count
        self._echoes = [echoes[i // self._per_prompt] if echoes else "" for i in range(self._count)]
        self._logprobs = [_LogprobEncoder(len(echo)) for echo in self._echoes]
        self._include_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._ends: dict[int, Finished] = {}

    def start(self, index: int, event: Started) -> Iterable[schema.Completion]:
        text, logprobs = self._echoes[index], self._prompt_logprobs(index, event.prompt_logprobs)
        chunk = self._chunk(schema.TextChoice(text, index, logprobs))
        self._warn(index, event.warnings)
        if index % self._per_prompt == 0:
            chunk.warnings, self._warnings = self._warnings or UNSET, []
        return (chunk,)

    def delta(self, index: int, event: OutputDelta) -> Iterable[schema.Completion]:
        if not isinstance(event, Delta):
            return (self._chunk(schema.TextChoice("", index)),)
        return (self._chunk(schema.TextChoice(event.text, index, self._answer_logprobs(index, event.logprobs))),)

    def finish(self, index: int, event: Finished) -> Iterable[schema.Completion]:
        self._ends[index] = event
        last = self._chunk(schema.TextChoice("", index, finish_reason=event.reason))
        if len(self._ends) < self._count:
            return (last,)
        ends = [self._ends[i] for i in range(self._count)]
        last.timings = chat_convert.timings(ends)
        return (last, self._envelope([], self._usage(ends))) if self._include_usage else (last,)

    def cancel(self) -> Iterable[schema.Completion]:
        return ()

    def fail(self, error: GalagoError) -> Iterable[ErrorResponse]:
        return (error_response(chat_convert.with_api_field_name(error)),)

    def completion(self, answers: Sequence[CollectedAnswer]) -> schema.Completion:
        """The whole completion."""
        ends = [answer.end for answer in answers]
        for index, answer in enumerate(answers):
            self._warn(index, answer.warnings)
        choices = [self._choice(i, answer) for i, answer in enumerate(answers)]
        completion = self._envelope(choices, self._usage(ends))
        completion.timings = chat_convert.timings(ends)
        completion.warnings = self._warnings or UNSET
        return completion

    def _choice(self, index: int, answer: CollectedAnswer) -> schema.TextChoice:
        texts = [delta for delta in answer.deltas if isinstance(delta, Delta)]
        text = self._echoes[index] + "".join(delta.text for delta in texts)
        prompt_logprobs = self._prompt_logprobs(index, answer.prompt_logprobs)
        answer_logprobs = self._answer_logprobs(index, [token for delta in texts for token in delta.logprobs])
        return schema.TextChoice(text, index, _joined(prompt_logprobs, answer_logprobs), answer.end.reason)

    def _warn(self, index: int, warnings: Sequence[str]) -> None:
        """Adds the warnings of the first answer to each prompt, each text once."""
        if index % self._per_prompt == 0:
            self._warnings += [warning for warning in warnings if warning not in self._warnings]

    def _answer_logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> schema.TextLogprobs | None:
        return None if self._request.logprobs is None else self._logprobs[index].encode(tokens)

    def _prompt_logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> schema.TextLogprobs | None:
        if not tokens:
            return None
        return _LogprobEncoder.for_prompt(self._echoes[index], tokens[0].token).encode(tokens)

    def _usage(self, ends: Sequence[Finished]) -> Usage:
        return chat_convert.usage(ends, self._per_prompt)

    def _chunk(self, choice: schema.TextChoice) -> schema.Completion:
        return self._envelope([choice], None if self._include_usage else UNSET)

    def _envelope(self, choices: list[schema.TextChoice], usage: Usage | None | UnsetType) -> schema.Completion:
        return schema.Completion(self._id, self._created, self._model, choices, usage)


class _LogprobEncoder:
    """Encodes log-probabilities piece by piece, and counts where each token begins in the text, from `offset`."""

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @classmethod
    def for_prompt(cls, text: str, first_token: bytes) -> _LogprobEncoder:
        """For the tokens of a prompt. Some tokenizers add a space before it."""
        return cls(-1 if first_token.startswith(b" ") and not text.startswith(" ") else 0)

    def encode(self, tokens: Sequence[TokenLogprob]) -> schema.TextLogprobs:
        lists = schema.TextLogprobs([], [], [], [])
        for token in tokens:
            unknown = math.isnan(token.logprob)
            alternatives = {_token_name(name): _finite(logprob) for name, logprob in token.top_logprobs}
            lists.tokens.append(_token_name(token.token))
            lists.token_logprobs.append(None if unknown else _finite(token.logprob))
            lists.top_logprobs.append(None if unknown else alternatives)
            lists.text_offset.append(max(self._offset, 0))
            self._offset += len(self._decoder.decode(token.token))
        return lists


def _finite(logprob: float) -> float:
    return max(logprob, chat_convert.MIN_LOGPROB)


def _token_name(token: bytes) -> str:
    """The token's text, or `bytes:\\xe2\\x82` if it is not valid UTF-8 alone, as in OpenAI's API."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _joined(prompt: schema.TextLogprobs | None, answer: schema.TextLogprobs | None) -> schema.TextLogprobs | None:
    if prompt is None or answer is None:
        return answer
    return schema.TextLogprobs(
        prompt.tokens + answer.tokens,
        prompt.token_logprobs + answer.token_logprobs,
        prompt.top_logprobs + answer.top_logprobs,
        prompt.text_offset + answer.text_offset,
    )
