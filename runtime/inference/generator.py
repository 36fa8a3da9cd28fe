"""Answers requests with one loaded model: prepares the prompt, then submits it to the engine."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import psutil

from ...models.errors import EngineError, InvalidRequest
from ...models.files import ModelFiles
from ..config import NO_DEFAULTS, ModelConfig, RequestDefaults
from ..llamacpp.weights import Weights
from ..sampling.sampler import REPEAT_WINDOW_TOKENS, Constraint, Sampler
from ..types.events import Delta, Failed
from ..types.messages import Message, Text
from ..types.model_info import ModelInfo, Stats
from ..types.placement import ON_CPU, Placement
from ..types.prompt import Prompt
from ..types.request import Request, Sampling, filled
from ..types.tasks import Detokenize, Embed, Estimate, R, RequestEstimate, Rerank, Task, Tokenize, TokenPieces
from ..types.warnings import Warnings
from . import weight_faults
from .assembly import Assembly, description
from .load_check import check_loading
from .stream import Stream

if TYPE_CHECKING:
    from ...models.gguf.header import GGUFHeader
    from ..media.limits import MediaLimits
    from ..output.structured.grammar import Grammar
    from ..prompt.builder import PromptBuilder
    from .chat_format import ChatFormat


class Lease:
    """Keeps a model open while requests are prepared, until it is closed."""

    def __init__(self) -> None:
        self._returned = threading.Condition()
        self._holders = 0
        self.closed = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps the model open within the block. Raises `EngineError` if it is closed."""
        with self._returned:
            if self.closed:
                raise EngineError("the model is closed")
            self._holders += 1
        try:
            yield
        finally:
            with self._returned:
                self._holders -= 1
                self._returned.notify_all()

    def close(self) -> None:
        """Refuses further holders and waits for the current ones."""
        with self._returned:
            self.closed = True
            self._returned.wait_for(lambda: self._holders == 0)


class Generator:
    """A loaded model that has generated its first token. `progress` is called with the fraction of weights loaded."""

    ready = True

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig | None = None,
        placement: Placement = ON_CPU,
        limits: MediaLimits | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        config = config or ModelConfig()
        self._defaults = config.request_defaults
        check_loading(files)
        self._lease = Lease()
        self._assembly = parts = Assembly(files, config, placement, limits, progress)
        self._weights: Weights = parts.weights
        self._engine = parts.engine
        try:
            from .estimate import RequestEstimator

            encode_seconds = parts.projector.row_seconds if parts.projector else {}
            self._estimator = RequestEstimator(
                files, config, placement, parts.context_length, parts.slots, encode_seconds
            )
            self._generate_first_token(files.header)
        except BaseException:
            self.close()
            raise
        self.info = self._describe(files)

    def close(self) -> None:
        """Ends running requests with an error on their streams, and frees everything."""
        self._lease.close()
        self._assembly.close()

    def stats(self) -> Stats:
        """The engine's state and counters, and the memory of this process."""
        return replace(self._engine.stats(), memory_bytes=psutil.Process().memory_info().rss)

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """Prepares a request's prompt, with its media decoded, and submits it to the engine.

        `cancelled` is called between two steps of the preparation; if it returns `True`, `Cancelled` is raised.
        """
        with self._lease.hold():
            return self._generate(request, lambda: self._lease.closed or cancelled())

    def run_task(self, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """Runs a task. Raises `InvalidRequest` for tasks of other kinds of models."""
        with self._lease.hold():
            result: Any = self._run_task(task, lambda: self._lease.closed or cancelled())
            return cast(R, result)

    def _generate(self, request: Request, cancelled: Callable[[], bool]) -> Stream:
        arrived = time.perf_counter()
        request = self._filled(request)
        parts, chat_format = self._assembly, self._format_of(request)
        adapters = self._adapter_scales(request)
        grammar: Grammar | None = None
        warnings = Warnings(parts.warnings)
        warnings.strict = request.strict
        if request.sampling.logit_bias:
            request = replace(request, sampling=_known_biases(request.sampling, self._weights.vocab_size, warnings))
        if request.is_constrained:
            grammar = chat_format.constraints.grammar(request, warnings, cancelled)
        prompt = self._prompt(request, cancelled)
        constraint = None if grammar is None else chat_format.constraints.gated(grammar, request, prompt.in_reasoning)
        warnings += prompt.warnings
        available = parts.context_length - prompt.cells
        max_tokens = available if request.max_tokens is None else min(request.max_tokens, available)
        if request.max_tokens is not None and request.max_tokens > available:
            warnings.append(f"max_tokens {request.max_tokens} was lowered to {available}, the rest of the context")
        for name in ("ignore_eos", "min_tokens") if constraint is not None else ():
            if getattr(request, name):
                problem = f"{name} has no effect: the schema, grammar or tools determine where the answer ends"
                warnings.add_unless_strict(problem, name)
        tool_format, tags = chat_format.tool_format, chat_format.reasoning_tags
        may_need_parsing = request.tools or tags is not None or tool_format.parser is not None
        if request.completion is None and may_need_parsing:
            from ..output.parser import parser_spec

            tools = grammar.tools if grammar else ()
            spec = parser_spec(request, tools, tool_format, tags, prompt.in_reasoning)
            prompt = replace(prompt, parsing=spec)
        prompt = replace(prompt, warnings=tuple(warnings))
        return self._submit(request, prompt, constraint, max_tokens, arrived, adapters)

    def _filled(self, request: Request) -> Request:
        return request if self._defaults == NO_DEFAULTS else _with_defaults(request, self._defaults)

    def _format_of(self, request: Request) -> ChatFormat:
        """The chat format for a request: that for tools if the model is shown some, as transformers chooses."""
        parts = self._assembly
        return (parts.tool_chat_format if request.shown_tools else None) or parts.chat_format

    def _prompt(self, request: Request, cancelled: Callable[[], bool]) -> Prompt:
        if request.completion is not None:
            return self._assembly.completion_prompts.build(request.completion)
        return _chat_prompt(self._format_of(request).prompts, request, cancelled)

    def _submit(
        self,
        request: Request,
        prompt: Prompt,
        constraint: Constraint | None,
        max_tokens: int,
        arrived: float,
        adapters: tuple[float, ...],
    ) -> Stream:
        own_ends = self._weights.end_tokens if constraint is None else self._weights.constrained_end_tokens
        turn_end = self._format_of(request).turn_end
        own_ends |= frozenset() if request.completion or turn_end is None else {turn_end}
        ignore_end = request.ignore_eos and constraint is None
        banned = own_ends if ignore_end else frozenset[int]()
        end_tokens = (frozenset() if ignore_end else own_ends) | self._stop_tokens(request)
        min_tokens = request.min_tokens if request.min_tokens and constraint is None else 0
        if not request.shown_tools and request.completion is None:
            banned |= self._assembly.call_tokens
        sampling = filled(request.sampling, self._assembly.default_sampling)
        recent = [item for item in prompt.items[-REPEAT_WINDOW_TOKENS:] if isinstance(item, int)]
        stream = Stream()
        cancel = self._engine.submit(
            prompt,
            sampler=Sampler(sampling, banned, constraint, recent, request.logprobs, end_tokens, min_tokens),
            max_tokens=max_tokens,
            end_tokens=end_tokens,
            stop=request.stop,
            sink=stream.put,
            arrived_at=arrived,
            reuse=request.cache and not request.wants_prompt_logprobs,
            background=request.background,
            client=request.client,
            adapters=adapters,
            timeout=request.timeout,
        )
        stream.on_close(cancel)
        return stream

    def _stop_tokens(self, request: Request) -> frozenset[int]:
        return frozenset(token for token in request.stop_token_ids if token < self._weights.vocab_size)

    def _adapter_scales(self, request: Request) -> tuple[float, ...]:
        loaded = self._assembly.adapter_scales
        if request.lora is None:
            return loaded
        missing = len(loaded) - len(request.lora)
        if missing < 0:
            last = f"the last one is adapter {len(loaded) - 1}" if loaded else "no adapter is loaded"
            named = f"lora names adapter {len(request.lora) - 1}"
            raise InvalidRequest(f"{named}, but {last}; load adapters with --lora", "lora")
        return request.lora + (0.0,) * missing

    def _run_task(self, task: Task[Any], cancelled: Callable[[], bool]) -> object:
        match task:
            case Tokenize(Request() as request):
                return self._tokenize(request, cancelled)
            case Estimate(request, predict_seconds):
                return self._estimate(request, predict_seconds, cancelled)
            case Tokenize() | Detokenize():
                from ..prompt.completion import translate

                return translate(task, self._weights)
            case Embed() | Rerank():
                kind = "an embedding" if isinstance(task, Embed) else "a reranking"
                raise InvalidRequest(f"{self.info.id} generates text; load {kind} model for this", "model")
        raise InvalidRequest(f"{self.info.id} generates text and cannot do this", "model")

    def _tokenize(self, request: Request, cancelled: Callable[[], bool]) -> TokenPieces:
        from ..prompt.completion import token_pieces

        prompt = self._prompt(self._filled(request), cancelled)
        ids = tuple(item for item in prompt.items if isinstance(item, int))
        if len(ids) < len(prompt.items):
            raise InvalidRequest("images and audio have no token ids; use /v1/plan to count them", "messages")
        return TokenPieces(ids, token_pieces(ids, self._weights), (*self._assembly.warnings, *prompt.warnings))

    def _estimate(self, request: Request, predict_seconds: bool, cancelled: Callable[[], bool]) -> RequestEstimate:
        from .estimate import count_part_tokens

        begin = time.perf_counter()
        request = self._filled(request)
        adapters = self._adapter_scales(request)
        prompts = self._format_of(request).prompts.unbounded()
        prompt = _chat_prompt(prompts, request, cancelled)
        preparation_seconds = time.perf_counter() - begin
        part_tokens = count_part_tokens(request.messages, prompt, prompts.count)
        forecast = self._engine.forecast(prompt, adapters)
        forecast = forecast if request.cache else forecast._replace(cached_cells=0)
        prompt = replace(prompt, warnings=(*self._assembly.warnings, *prompt.warnings))
        seconds = preparation_seconds if predict_seconds else None
        return self._estimator.estimate(request, prompt, part_tokens, forecast, seconds)

    def _generate_first_token(self, header: GGUFHeader) -> None:
        """Checks that the model computes. Adds the faults that its first token reveals to the warnings."""
        messages, greedy = (Message("user", (Text("Hi"),)),), Sampling(temperature=0.0)
        request = Request(messages, greedy, max_tokens=1, cache=False, ignore_eos=True, logprobs=1)
        prompt, scales = self._prompt(request, lambda: False), self._adapter_scales(request)
        has_turn_end = self._assembly.chat_format.turn_end is not None
        for event in self._submit(request, prompt, None, 1, time.perf_counter(), scales):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Delta) and event.logprobs:
                best = event.logprobs[0].top_logprobs[0][1]
                self._assembly.warnings += weight_faults.of_generator(header, self._weights, has_turn_end, best)
        self._engine.reset_stats()

    def _describe(self, files: ModelFiles) -> ModelInfo:
        projector = self._assembly.projector
        return ModelInfo(
            id=files.id,
            description=description(files, self._weights),
            context_length=self._assembly.context_length,
            parameters=self._weights.parameters,
            size_bytes=self._weights.size_bytes,
            vision=projector is not None and projector.vision,
            audio=projector is not None and projector.audio,
            created=int(files.weights.stat().st_mtime),
            warnings=tuple(self._assembly.warnings),
            sampling=self._assembly.default_sampling,
        )


def _chat_prompt(prompts: PromptBuilder, request: Request, cancelled: Callable[[], bool]) -> Prompt:
    return prompts.build(
        request.messages,
        cancelled,
        request.shown_tools,
        request.reasoning_effort,
        request.continued_message is not None,
        request.template_variables,
        request.strict,
        request.effort_field,
    )


def _known_biases(sampling: Sampling, vocab_size: int, warnings: Warnings) -> Sampling:
    """The settings without biases on tokens that the model does not have."""
    unknown = [token for token, _ in sampling.logit_bias if token >= vocab_size]
    if not unknown:
        return sampling
    problem = f"logit_bias names token {unknown[0]}, but this model's last token is {vocab_size - 1}"
    warnings.add_unless_strict(problem, "logit_bias", instead="it is ignored")
    return replace(sampling, logit_bias=tuple(pair for pair in sampling.logit_bias if pair[0] < vocab_size))


def _with_defaults(request: Request, defaults: RequestDefaults) -> Request:
    """The request with what the model's preset gives to chats that do not say it themselves."""
    messages = request.messages
    if request.completion is None and (defaults.system or defaults.messages):
        given = {"system", "developer"} & {message.role for message in messages}
        own = tuple(Message(role, (Text(text),)) for role, text in defaults.messages)
        first = (Message("system", (Text(defaults.system),)),) if defaults.system and not given else ()
        system = tuple(itertools.takewhile(lambda message: message.role in ("system", "developer"), messages))
        messages = (*first, *system, *own, *messages[len(system) :])
    max_tokens = defaults.max_tokens if request.max_tokens is None else request.max_tokens
    return replace(request, messages=messages, max_tokens=max_tokens, stop=request.stop or defaults.stop)
