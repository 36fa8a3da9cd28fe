"""One loaded model: weights, projector, chat template and engine, closed in reverse order. Knows no HTTP."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, cast

import psutil

from ...models.errors import InvalidRequest, ModelError
from ...models.files import ModelFiles
from ...models.fingerprint import fingerprint
from ..cache.disk_cache import DiskCache
from ..cache.prefix_cache import PrefixCache
from ..config import DEFAULT_CONTEXT, DEFAULT_SLOTS, ModelConfig, default_threads
from ..engine.engine import Engine
from ..engine.thread_tuner import ThreadTuner
from ..llamacpp.context import BATCH, Context
from ..llamacpp.library import build_info
from ..llamacpp.lora import LoraAdapter
from ..llamacpp.projector import Projector, embedded_by
from ..llamacpp.runner import LlamaRunner
from ..llamacpp.weights import Weights
from ..sampling.penalties import WINDOW
from ..sampling.sampler import Constraint, Sampler
from ..speculative.acceptance import MAX_DRAFT_TOKENS
from ..speculative.draft_model import DraftModel
from ..types.events import Failed
from ..types.messages import Message, Text
from ..types.model_info import ModelInfo, Stats
from ..types.placement import ON_CPU, Placement
from ..types.prompt import Prompt
from ..types.request import Request, Sampling, recommended_sampling
from ..types.tasks import Detokenize, Embed, Estimate, R, RequestEstimate, Rerank, Task, Tokenize, TokenPieces
from .lease import Lease
from .load_check import try_out
from .stream import Stream

if TYPE_CHECKING:
    from ..media.decode import MediaLimits
    from ..output.answer_format import AnswerFormat
    from ..prompt.builder import PromptBuilder

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For a file without a template: what llama.cpp falls back to as well."""
_NO_TEMPLATE = "the model's file holds no chat template, so ChatML was used; it may not be made for chats"


class Generator:
    """A model that has made a first token. `progress`, if given, is called with the fraction of the weights loaded."""

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
        slots = config.slots or DEFAULT_SLOTS
        threads = config.threads or default_threads()
        self._closers: list[Callable[[], None]] = []
        self._users = Lease()
        try_out(files)
        try:
            with ThreadPoolExecutor(1) as beside:  # llama.cpp computes without Python
                beside.submit(importlib.import_module, "galago.runtime.prompt.builder")
                weights = self._weights = Weights(files.weights, placement.gpu_layers, progress, placement.split)
                self._closers.append(weights.close)
                self.context_length = context_length(config, weights)
                paths = (files.weights, files.projector, *(adapter.path for adapter in files.adapters))
                made_by = [fingerprint(path) if path else "" for path in paths]
                self._store = self._open_store(config, *made_by, config.kv_type, config.flash_attention)
                self._projector = self._load_projector(files, threads, config, placement)
                adapters = self._load_adapters(files)
                drafter = self._load_drafter(files.draft, slots, threads) if files.draft else None
                reading = beside.submit(self._read_vocabulary, files, limits)
                self._engine = self._start_engine(config, slots, threads, adapters, drafter)
                self._closers.append(self._engine.close)
                self._answers, self._prompts = reading.result()
            from .estimate import RequestEstimator

            pace = self._projector.pace if self._projector else {}
            self._planner = RequestEstimator(files, config, placement, self.context_length, slots, pace)
            self._warnings = [*placement.warnings, *([] if files.header.chat_template else [_NO_TEMPLATE])]
            self._defaults = self._recommended_sampling(weights)
            self._make_a_token()
        except BaseException:
            self.close()
            raise
        self.info = self._describe(files)

    def close(self) -> None:
        """Ends what is still running, with an error on its streams, and frees everything."""
        self._users.close()
        while self._closers:
            self._closers.pop()()

    def stats(self) -> Stats:
        """What it is doing and has done, and the memory of this process."""
        return replace(self._engine.stats(), memory_bytes=psutil.Process().memory_info().rss)

    def generate(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> Stream:
        """Prepares a request's prompt, its media decoded, and starts answering it.

        `cancelled` is asked between two steps of the preparation; raises `Cancelled` when it says so.
        """
        with self._users.one():
            return self._generate(request, lambda: self._users.closed or cancelled())

    def run_task(self, task: Task[R], cancelled: Callable[[], bool] = lambda: False) -> R:
        """A task's answer. Raises `InvalidRequest` for those of other kinds of models."""
        with self._users.one():
            result: Any = self._run_task(task, lambda: self._users.closed or cancelled())
            return cast(R, result)

    def _run_task(self, task: Task[Any], cancelled: Callable[[], bool]) -> object:
        match task:
            case Tokenize(Request() as request):
                return self._tokenize(request, cancelled)
            case Estimate(request):
                return self._plan(request, cancelled)
            case Tokenize() | Detokenize():
                from ..prompt.completion import translate

                return translate(task, self._weights)
            case Embed() | Rerank():
                other = "an embedding" if isinstance(task, Embed) else "a reranking"
                raise InvalidRequest(f"{self.info.id} only answers; load {other} model for that", "model")
        raise InvalidRequest(f"{self.info.id} answers chats; it cannot do this", "model")

    def _tokenize(self, request: Request, cancelled: Callable[[], bool]) -> TokenPieces:
        from ..prompt.completion import spelled

        items = self._prompt(request, cancelled).items
        ids = tuple(item for item in items if isinstance(item, int))
        if len(ids) < len(items):
            raise InvalidRequest("pictures and sounds have no token ids; /v1/plan counts what they take", "messages")
        return TokenPieces(ids, spelled(ids, self._weights))

    def _plan(self, request: Request, cancelled: Callable[[], bool]) -> RequestEstimate:
        from .estimate import counted

        begin = time.perf_counter()
        adapters = self._adapters_for(request)
        tools = self._answers.tools(request)
        prompts = self._prompts.unbounded()
        prompt = prompts.build(request.messages, cancelled, tools, request.effort, request.continued, request.variables)
        prepared = time.perf_counter() - begin
        parts = counted(request.messages, prompt, prompts.count)
        outlook = self._engine.outlook(prompt, adapters)
        outlook = outlook if request.cache else outlook._replace(cached=0)
        prompt = replace(prompt, warnings=(*self._warnings, *prompt.warnings))
        return self._planner.plan(request, prompt, parts, outlook, prepared)

    def _prompt(self, request: Request, cancelled: Callable[[], bool]) -> Prompt:
        if request.raw is not None:
            return self._prompts.plain.build(request.raw)
        tools = self._answers.tools(request)
        return self._prompts.build(
            request.messages, cancelled, tools, request.effort, request.continued, request.variables
        )

    def _generate(self, request: Request, cancelled: Callable[[], bool]) -> Stream:
        arrived = time.perf_counter()
        adapters = self._adapters_for(request)
        grammar = self._answers.constraint(request)
        self._check_bias(request.sampling)
        prompt = self._prompt(request, cancelled)
        constraint = None if grammar is None else self._answers.after_thinking(grammar, request, prompt.thinking)
        warnings = [*self._warnings, *(grammar.warnings if grammar else ()), *prompt.warnings]
        room = self.context_length - prompt.cells
        max_tokens = room if request.max_tokens is None else min(request.max_tokens, room)
        if request.max_tokens is not None and request.max_tokens > room:
            warnings.append(f"max_tokens {request.max_tokens} was lowered to {room}, what the context still holds")
        if request.ignore_eos and constraint is not None:
            warnings.append("ignore_eos has no effect beside a form or tools, which say where the answer ends")
        parsing = self._answers.parser_spec(request, prompt.thinking)
        prompt = replace(prompt, warnings=(*warnings,), parsing=parsing)
        return self._submit(request, prompt, constraint, max_tokens, arrived, adapters)

    def _read_vocabulary(self, files: ModelFiles, limits: MediaLimits | None) -> tuple[AnswerFormat, PromptBuilder]:
        """What reads the model's answers, and what writes its prompts."""
        from ..media.decode import MediaLimits
        from ..output.answer_format import AnswerFormat
        from ..prompt.builder import PromptBuilder
        from ..prompt.template import ChatTemplate

        weights, source = self._weights, files.header.chat_template or CHATML
        answers = AnswerFormat(weights, source)
        template = ChatTemplate(source, weights.text_of(weights.bos), weights.text_of(weights.eos))
        made = (template, source, limits or MediaLimits(), self.context_length, answers.dialect, answers.tags)
        return answers, PromptBuilder(weights, self._projector, *made)

    def _adapters_for(self, request: Request) -> tuple[float, ...]:
        if request.lora is None:
            return self._scales
        missing = len(self._scales) - len(request.lora)
        if missing < 0:
            loaded = f"this model was loaded with {len(self._scales)} adapters, counted from 0"
            raise InvalidRequest(f"lora names adapter {len(request.lora) - 1}, and {loaded}", "lora")
        return request.lora + (0.0,) * missing

    def _check_bias(self, sampling: Sampling) -> None:
        size = self._weights.vocab_size
        for token, _ in sampling.logit_bias:
            if token >= size:
                raise InvalidRequest(f"logit_bias names token {token}; the last one here is {size - 1}", "logit_bias")

    def _submit(
        self,
        request: Request,
        prompt: Prompt,
        constraint: Constraint | None,
        max_tokens: int,
        arrived: float,
        adapters: tuple[float, ...],
    ) -> Stream:
        endless = request.ignore_eos and constraint is None
        ends_at = frozenset() if endless else self._weights.end_tokens
        banned = self._answers.banned(request) | (self._weights.end_tokens if endless else frozenset())
        sampling = _filled(request.sampling, self._defaults)
        recent = [item for item in prompt.items[-WINDOW:] if isinstance(item, int)]
        sampler = Sampler(sampling, banned, constraint, recent, request.logprobs)
        stream = Stream()
        cancel = self._engine.submit(
            prompt,
            sampler=sampler,
            max_tokens=max_tokens,
            ends_at=ends_at,
            stop=request.stop,
            sink=stream.put,
            arrived=arrived,
            reuse=request.cache and not request.recited,
            background=request.background,
            adapters=adapters,
            timeout=request.timeout,
        )
        stream.on_close(cancel)
        return stream

    def _make_a_token(self) -> None:
        """Proves that the model computes; what it says does not matter."""
        for event in self.generate(Request((Message("user", (Text("Hi"),)),), max_tokens=1, cache=False)):
            if isinstance(event, Failed):
                raise event.error
        self._engine.count_anew()

    def _start_engine(
        self, config: ModelConfig, slots: int, threads: int, adapters: list[LoraAdapter], drafter: DraftModel | None
    ) -> Engine:
        recurrent = self._weights.recurrent
        context = Context(
            self._weights,
            self.context_length,
            slots,
            threads,
            config.kv_type,
            config.flash_attention,
            adapters,
            guesses=0 if recurrent else MAX_DRAFT_TOKENS,
        )
        return Engine(
            LlamaRunner(self._weights, context),
            slots,
            context.cells,
            context.batch,
            config.queue,
            PrefixCache(config.state_bytes, self._store, recurrent),
            threads,
            ThreadTuner(threads) if config.threads is None else None,
            drafter,
            context.outputs,
        )

    def _load_adapters(self, files: ModelFiles) -> list[LoraAdapter]:
        adapters = []
        for file in files.adapters:
            adapters.append(LoraAdapter(file.path, self._weights))
            self._closers.append(adapters[-1].close)
        self._scales = tuple(file.scale for file in files.adapters)
        return adapters

    def _load_drafter(self, files: ModelFiles, slots: int, threads: int) -> DraftModel:
        try_out(files)
        weights = Weights(files.weights, gpu_layers=0)
        self._closers.append(weights.close)
        if weights.recurrent or self._weights.recurrent:
            raise ModelError("no draft model is possible with a recurrent memory, which cannot be cut back", "draft")
        if not weights.speaks_like(self._weights):
            raise ModelError(
                f"{files.weights.name} cannot draft for {self._weights.path.name}: it has another vocabulary", "draft"
            )
        context = Context(weights, self.context_length, slots, threads)
        return DraftModel(LlamaRunner(weights, context), slots, context.cells)

    def _load_projector(
        self, files: ModelFiles, threads: int, config: ModelConfig, placement: Placement
    ) -> Projector | None:
        if files.projector is None:
            return None
        largest = min(BATCH, self.context_length)
        store = self._open_store(config, *embedded_by(files.projector, placement.projector))
        projector = Projector(
            files.projector,
            self._weights,
            threads,
            largest,
            use_gpu=placement.projector,
            cache_bytes=config.media_bytes,
            store=store,
        )
        self._closers.append(projector.close)
        return projector

    def _open_store(self, config: ModelConfig, *made_by: str) -> DiskCache | None:
        """The cache folder, as far as its files were made by these, and by this very build."""
        if config.cache_folder is None:
            return None
        store = DiskCache(config.cache_folder, (*made_by, build_info()), config.cache_disk_mib * 2**20, tell)
        self._closers.append(store.close)
        return store

    def _recommended_sampling(self, weights: Weights) -> Sampling:
        """The model maker's settings (`general.sampling.*` in the file); greedy where there are none."""
        try:
            return recommended_sampling(weights.metadata_number)
        except InvalidRequest as error:
            self._warnings.append(f"the model's file recommends impossible settings, which were ignored: {error}")
            return Sampling(0.0)

    def _describe(self, files: ModelFiles) -> ModelInfo:
        return ModelInfo(
            id=files.id,
            description=description(files, self._weights),
            context_length=self.context_length,
            parameters=self._weights.parameters,
            size_bytes=self._weights.size_bytes,
            vision=self._projector is not None and self._projector.vision,
            audio=self._projector is not None and self._projector.audio,
            created=int(files.weights.stat().st_mtime),
            warnings=tuple(self._warnings),
        )


def context_length(config: ModelConfig, weights: Weights) -> int:
    trained = weights.context_length
    if config.context_length is None:
        return min(trained, DEFAULT_CONTEXT)
    if config.context_length > trained:
        raise ModelError(
            f"{weights.path.name} was trained for a context of {trained} tokens, not {config.context_length}", "ctx"
        )
    return config.context_length


def description(files: ModelFiles, weights: Weights) -> str:
    """A model in a few words: its own name, its size, how its weights are stored."""
    return f"{_printable(files.header.name)}, {_rounded(weights.parameters)}, {weights.type}"


def tell(line: str) -> None:
    """Says on standard error what nobody in particular has asked for."""
    print(f"galago: {line}", file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """A name from an untrusted file, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


def _rounded(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit} parameters"
    return f"{parameters} parameters"


def _filled(asked: Sampling, defaults: Sampling) -> Sampling:
    missing = {f.name: getattr(defaults, f.name) for f in fields(asked) if getattr(asked, f.name) is None}
    return replace(asked, **missing)
