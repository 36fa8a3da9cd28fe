"""A service that counts the tokens of each request, and keeps each key within its limits.

The records of requests come from the guard, a WebSocket or a batch, by the context variable of the request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

from ....models.errors import Forbidden, GalagoError
from ...inference.stream import Stream
from ...service import Service, never
from ...types.events import Delta, Event, Failed, Finished, Started
from ...types.model_info import ModelInfo, ModelStatus
from ...types.request import Request
from ...types.tasks import Embed, R, Rerank, Scores, Task, TokenIds, Vectors
from ...types.warnings import Warnings
from ..http.request_context import CURRENT
from .account import Account
from .record import RequestRecord

_EXTRA_TOKENS = 16
"""Tokens that a model may add to each text of an embedding or a ranking."""


class MeteredService:
    """The methods of a `Service`; those that are not here are the service's own."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def model_for(self, name: str | None, warnings: Warnings) -> str:
        model = self._service.model_for(name, warnings)
        self._admit(model)
        return model

    def models(self) -> list[ModelInfo]:
        return self._allowed(self._service.models())

    def aliases(self) -> list[ModelInfo]:
        account = _account()
        if account is None or account.limits.models is None:
            return self._service.aliases()
        return [info for info in self._service.aliases() if self._allows(account, self._service.model(info.id).id)]

    def installed(self) -> list[ModelInfo]:
        return self._allowed(self._service.installed())

    def status(self) -> list[ModelStatus]:
        account, statuses = _account(), self._service.status()
        return statuses if account is None else [one for one in statuses if self._allows(account, one.id)]

    def load_model(self, name: str, cancelled: Callable[[], bool] = never) -> ModelStatus:
        self._check(self._service.model_for(name, Warnings()))
        return self._service.load_model(name, cancelled)

    def unload_model(self, name: str, cancelled: Callable[[], bool] = never) -> ModelStatus:
        self._check(self._service.model_for(name, Warnings()))
        return self._service.unload_model(name, cancelled)

    def generate(self, model: str | None, request: Request, cancelled: Callable[[], bool] = never) -> Stream:
        record = _record()
        if record is None:
            return self._service.generate(model, request, cancelled)
        self._admit(model)
        meter = _Meter(record, request.max_tokens, self._context_length(model))
        try:
            stream = self._service.generate(model, request, cancelled)
        except BaseException:
            meter.end()
            raise
        stream.observe(meter.take)
        return stream

    def run_task(self, model: str | None, task: Task[R], cancelled: Callable[[], bool] = never) -> R:
        record = _record()
        if record is None:
            return self._service.run_task(model, task, cancelled)
        self._admit(model)
        meter = _Meter(record, 0, _most_tokens(task))
        try:
            result = self._service.run_task(model, task, cancelled)
            if isinstance(result, Vectors | Scores):
                meter.count(result.tokens, 0)
            return result
        finally:
            meter.end()

    def allows(self, name: str) -> bool:
        account = _account()
        return account is None or self._allows(account, name)

    def check_manager(self) -> None:
        account = _account()
        if account is not None and account.limits.models is not None:
            raise Forbidden(
                f"the key {account.name!r} is limited to some models, so it may not create, download or delete any"
            )

    def _admit(self, model: str | None) -> None:
        """Counts the current request as one of its key. Raises `Forbidden` and `RateLimited`."""
        record = _record()
        if record is None:
            return
        name = model or self._service.model_for(model, Warnings())
        self._check(name)
        record.admit(name, self._context_length(name))

    def _check(self, model: str) -> None:
        """Raises `Forbidden` if the current request's key may not use the model with this id."""
        account = _account()
        if account is not None and not self._allows(account, model):
            raise Forbidden(f"the key {account.name!r} may not use the model {model!r:.100}", "model")

    def _allows(self, account: Account, model: str) -> bool:
        """Whether a key may use the model with this id, by any of the model's names."""
        names = account.limits.models
        return names is None or model in names or any(self._means(name, model) for name in names)

    def _means(self, name: str, model: str) -> bool:
        strict = Warnings()
        strict.strict = True
        try:
            return self._service.model_for(name, strict) == model
        except GalagoError:
            return False

    def _allowed(self, infos: list[ModelInfo]) -> list[ModelInfo]:
        account = _account()
        return infos if account is None else [info for info in infos if self._allows(account, info.id)]

    def _context_length(self, model: str | None) -> int:
        """The most tokens of an answer and its prompt. While the model is loading, all that the key may use."""
        try:
            return self._service.model(model).context_length
        except GalagoError:
            account = _account()
            return 0 if account is None else account.limits.tokens_per_minute or 0


def metered(service: Service) -> Service:
    return cast(Service, MeteredService(service))


class _Meter:
    """Reserves the most tokens of one answer, counts those that it uses, and gives back the rest. Thread-safe."""

    def __init__(self, record: RequestRecord, max_tokens: int | None, most_tokens: int) -> None:
        self._record = record
        self._max_tokens = max_tokens
        self._reserved_tokens = most_tokens
        self._counted_tokens = 0
        self._has_ended = False
        self._lock = threading.Lock()
        record.pass_on_reservation(most_tokens)
        record.hold()

    def take(self, event: Event | None) -> None:
        """Counts the tokens of an event; `None` means that the reader has left."""
        match event:
            case Started(prompt_tokens=tokens):
                self.count(tokens, 0)
                if self._max_tokens is not None:
                    self._keep_reserved(self._max_tokens)
            case Delta(tokens=tokens):
                self.count(0, tokens)
                self._counted_tokens += tokens
            case Finished(usage=usage):
                self.count(0, max(0, usage.completion_tokens - self._counted_tokens))
                self.end()
            case Failed(error=error):
                self._record.fail(error)
                self.end()
            case None:
                self.end()

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts used tokens, which need no longer be reserved."""
        self._record.count(prompt_tokens, completion_tokens)
        with self._lock:
            left = self._reserved_tokens - prompt_tokens - completion_tokens
        self._keep_reserved(max(0, left))

    def end(self) -> None:
        with self._lock:
            has_ended, self._has_ended = self._has_ended, True
        if not has_ended:
            self._keep_reserved(0)
            self._record.end()

    def _keep_reserved(self, tokens: int) -> None:
        """Gives back all but this many of the reserved tokens."""
        with self._lock:
            excess = self._reserved_tokens - tokens
            if excess > 0:
                self._reserved_tokens = tokens
        if excess > 0 and self._record.account is not None:
            self._record.account.reserve(-excess)


def _record() -> RequestRecord | None:
    context = CURRENT.get()
    return None if context is None else context.record


def _account() -> Account | None:
    record = _record()
    return None if record is None else record.account


def _most_tokens(task: Task[Any]) -> int:
    """The most tokens that a task may use: one for each byte of its texts. Those that compute nothing use none."""
    given: tuple[str | TokenIds, ...] = ()
    if isinstance(task, Embed):
        given = task.texts
    elif isinstance(task, Rerank):
        given = tuple(task.query + document for document in task.documents)
    sizes = (len(one.encode("utf-8", "replace")) if isinstance(one, str) else len(one) for one in given)
    return sum(sizes) + _EXTRA_TOKENS * len(given)
