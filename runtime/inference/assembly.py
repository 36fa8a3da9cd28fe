"""Assembles a model that answers: weights, projector, adapters, draft model, engine, template, prompts, constraints."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ...models.device import IdleCores
from ...models.errors import InvalidRequest, ModelError
from ...models.files import ModelFiles
from ...models.fingerprint import fingerprint
from ..cache.disk_cache import DiskCache
from ..cache.prefix_cache import PrefixCache
from ..config import DEFAULT_CONTEXT, DEFAULT_SLOTS, ModelConfig, default_threads
from ..engine.engine import Engine
from ..engine.tuning import ThreadTuner
from ..llamacpp.context import BATCH, Context, LlamaRunner
from ..llamacpp.library import build_info
from ..llamacpp.lora import LoraAdapter
from ..llamacpp.projector import Projector, embedded_by
from ..llamacpp.thread_pool import ThreadPool
from ..llamacpp.weights import Weights
from ..log import log
from ..speculative.draft_model import DraftModel
from ..speculative.drafting import MAX_DRAFT_TOKENS
from ..types.placement import Placement
from ..types.request import Sampling, filled, recommended_sampling

if TYPE_CHECKING:
    from ...models.gguf.header import GGUFHeader
    from ..media.limits import MediaLimits
    from ..prompt.builder import PromptBuilder
    from ..prompt.completion import CompletionPrompts
    from ..prompt.media_parts import MediaParts
    from .chat_format import ChatFormat

_TEXT_SIDE = ("galago.runtime.prompt.builder", "galago.runtime.output.constraints")
_MEDIA = "galago.runtime.prompt.media_parts"
"""Modules that are imported while the weights are loaded."""


class Assembly:
    """The parts of one loaded model. `close` frees them in reverse order."""

    weights: Weights
    projector: Projector | None
    engine: Engine
    chat_format: ChatFormat
    tool_chat_format: ChatFormat | None
    """The format of the template for chats with tools, if the file has a separate one."""
    call_tokens: frozenset[int]
    """Control tokens that start a tool call, in either format."""
    completion_prompts: CompletionPrompts
    adapter_scales: tuple[float, ...]
    context_length: int
    slots: int
    default_sampling: Sampling

    def __init__(
        self,
        files: ModelFiles,
        config: ModelConfig,
        placement: Placement,
        limits: MediaLimits | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.warnings = list(placement.warnings)
        self._closers: list[Callable[[], None]] = []
        try:
            self._load(files, config, placement, limits, progress)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends running requests with an error on their streams, and frees everything."""
        while self._closers:
            self._closers.pop()()

    def _load(
        self,
        files: ModelFiles,
        config: ModelConfig,
        placement: Placement,
        limits: MediaLimits | None,
        progress: Callable[[float], None] | None,
    ) -> None:
        slots = self.slots = config.slots or DEFAULT_SLOTS
        threads = config.threads or default_threads()
        with ThreadPoolExecutor(1) as background:  # llama.cpp loads without holding Python's lock
            background.submit(_start_renderer)
            self._closers.append(_close_renderers)
            for module in _TEXT_SIDE if files.projector is None else (*_TEXT_SIDE, _MEDIA):
                background.submit(importlib.import_module, module)
            weights = self.weights = Weights(files.weights, placement.gpu_layers, progress, placement.split)
            self._closers.append(weights.close)
            self.context_length = context_length(config, weights)
            self.default_sampling = filled(config.request_defaults.sampling, self._recommended_sampling())
            store = self._open_state_store(files, config)
            self.projector = self._load_projector(files, threads, config, placement)
            adapters = self._load_adapters(files)
            pool = ThreadPool(threads)
            self._closers.append(pool.close)
            draft_model = self._load_draft_model(files.draft, slots, threads, pool) if files.draft else None
            text_side = background.submit(self._assemble_text_side, files.header, config.chat_template, limits)
            self.engine = self._start_engine(config, slots, threads, pool, adapters, draft_model, store)
            self._closers.append(self.engine.close)
            text_side.result()

    def _assemble_text_side(self, header: GGUFHeader, chosen_source: str | None, limits: MediaLimits | None) -> None:
        """Creates the parts that render prompts and constrain answers."""
        from ..prompt.completion import CompletionPrompts
        from ..prompt.named_templates import chosen_template, tool_template, usable_template
        from .chat_format import chat_format

        for_tools = None
        if chosen_source is not None:
            template = chosen_template(chosen_source, self.weights)
        else:
            template, warning = usable_template(header.chat_template, self.weights)
            for_tools, other_warning = tool_template(header.tool_use_template, self.weights)
            self.warnings += [text for text in (warning, other_warning) if text is not None]
        media, length = media_parts(self.projector, limits), self.context_length
        self.chat_format = chat_format(self.weights, media, template, length)
        self._closers.append(self.chat_format.constraints.close)
        self.tool_chat_format = None
        if for_tools is not None:
            self.tool_chat_format = chat_format(self.weights, media, for_tools, length)
            self._closers.append(self.tool_chat_format.constraints.close)
        formats = (self.chat_format, self.tool_chat_format)
        self.call_tokens = frozenset[int]().union(*(one.constraints.call_tokens for one in formats if one))
        if self.chat_format.turn_end is not None:
            name = self.weights.text_of(self.chat_format.turn_end)
            self.warnings.append(
                f"the model's file does not name {name} as an end token, but its chat template ends turns with it, so "
                "answers end there too"
            )
        control_texts = self.chat_format.prompts.control_texts
        self.completion_prompts = CompletionPrompts(self.weights, control_texts, length)

    def _start_engine(
        self,
        config: ModelConfig,
        slots: int,
        threads: int,
        pool: ThreadPool,
        adapters: list[LoraAdapter],
        draft_model: DraftModel | None,
        store: DiskCache | None,
    ) -> Engine:
        recurrent = self.weights.recurrent
        spin = pool.spins and not self.weights.gpu_layers
        context = Context(
            self.weights,
            self.context_length,
            slots,
            threads,
            config.kv_type,
            config.flash_attention,
            adapters,
            draft_rows=0 if recurrent else MAX_DRAFT_TOKENS,
            pool=pool,
        )
        return Engine(
            LlamaRunner(self.weights, context),
            slots,
            context.cells,
            context.batch,
            config.queue,
            PrefixCache(config.state_bytes, store, recurrent),
            threads,
            ThreadTuner(threads, spin, IdleCores()) if config.threads is None else None,
            draft_model,
            context.outputs,
        )

    def _load_adapters(self, files: ModelFiles) -> list[LoraAdapter]:
        adapters = []
        for file in files.adapters:
            adapters.append(LoraAdapter(file.path, self.weights))
            self._closers.append(adapters[-1].close)
        self.adapter_scales = tuple(file.scale for file in files.adapters)
        return adapters

    def _load_draft_model(self, files: ModelFiles, slots: int, threads: int, pool: ThreadPool) -> DraftModel:
        """Loads a second, smaller model on the CPU that proposes tokens."""
        weights = Weights(files.weights, gpu_layers=0)
        self._closers.append(weights.close)
        if weights.recurrent or self.weights.recurrent:
            raise ModelError(
                "a draft model cannot be used with a recurrent model, whose state cannot be rolled back", "draft"
            )
        if not weights.matches_vocab(self.weights):
            raise ModelError(
                f"{files.weights.name} cannot draft for {self.weights.path.name}: their vocabularies differ", "draft"
            )
        context = Context(weights, self.context_length, slots, threads, pool=pool)
        return DraftModel(LlamaRunner(weights, context), slots, context.cells)

    def _load_projector(
        self, files: ModelFiles, threads: int, config: ModelConfig, placement: Placement
    ) -> Projector | None:
        if files.projector is None:
            return None
        projector = Projector(
            files.projector,
            self.weights,
            threads,
            min(BATCH, self.context_length),
            use_gpu=placement.projector,
            cache_bytes=config.media_bytes,
            disk_cache=self._open_store(config, *embedded_by(files.projector, placement.projector)),
        )
        self._closers.append(projector.close)
        return projector

    def _open_state_store(self, files: ModelFiles, config: ModelConfig) -> DiskCache | None:
        """The disk cache of the engine's states, which depend on the files and on how the KV cache is stored."""
        paths = (*files.parts, files.projector, *(adapter.path for adapter in files.adapters))
        fingerprints = [fingerprint(path) if path else "" for path in paths]
        return self._open_store(config, *fingerprints, config.kv_type, config.flash_attention)

    def _open_store(self, config: ModelConfig, *origin: str) -> DiskCache | None:
        """The cache folder, restricted to entries of the same origin and of this build of llama.cpp."""
        if config.cache_folder is None:
            return None
        store = DiskCache(config.cache_folder, (*origin, build_info()), config.cache_disk_mib * 2**20, log)
        self._closers.append(store.close)
        return store

    def _recommended_sampling(self) -> Sampling:
        """The settings that the file recommends (`general.sampling.*`), or greedy sampling."""
        try:
            return recommended_sampling(self.weights.metadata_number)
        except InvalidRequest as error:
            self.warnings.append(f"the model's file recommends invalid sampling settings, which are ignored: {error}")
            return Sampling(0.0)


def _start_renderer() -> None:
    """Starts the process that renders chat templates, so that it is ready when the weights are loaded."""
    from ..prompt.template import RENDERERS

    RENDERERS.start()


def _close_renderers() -> None:
    from ..prompt.template import RENDERERS

    RENDERERS.close()


def prompt_builder(
    weights: Weights,
    projector: Projector | None,
    source: str | None,
    context_length: int,
) -> PromptBuilder:
    """Makes the prompt builder of a model. `source` is the template of its file, which may be missing or unusable."""
    from ..output.reasoning import tags_of
    from ..output.tool_formats.detect import tool_format_of
    from ..prompt.builder import PromptBuilder
    from ..prompt.named_templates import usable_template
    from ..prompt.template_traits import TemplateTraits

    template, _ = usable_template(source, weights)
    traits = TemplateTraits(template, tool_format_of(template.source))
    return PromptBuilder(weights, traits, media_parts(projector), context_length, tags_of(template.source))


def media_parts(projector: Projector | None, limits: MediaLimits | None = None) -> MediaParts | None:
    """Returns the decoder of the media in messages; `None` for a model without a projector."""
    if projector is None:
        return None
    from ..prompt.media_parts import MediaParts

    return MediaParts(projector, limits)


def context_length(config: ModelConfig, weights: Weights) -> int:
    """The context length in tokens. Raises `ModelError` if the model was trained for less than requested."""
    trained = weights.context_length
    if config.context_length is None:
        return min(trained, DEFAULT_CONTEXT)
    if config.context_length > trained:
        raise ModelError(
            f"{weights.path.name} was trained for a context of {trained} tokens, not {config.context_length}; "
            f"choose at most {trained}",
            "ctx",
        )
    return config.context_length


def description(files: ModelFiles, weights: Weights) -> str:
    """A short description of a model: its name, its size and its quantization type."""
    return f"{_printable(files.header.name)}, {_parameter_count(weights.parameters)}, {weights.type}"


def _printable(text: str) -> str:
    """A name from an untrusted file, made safe for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


def _parameter_count(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit} parameters"
    return f"{parameters} parameters"
