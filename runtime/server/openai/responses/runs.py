"""Responses in progress: prepared from a request, answered, and stored at the end. Knows no transport."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import msgspec
from msgspec import UNSET

from .....models.errors import GalagoError, InvalidRequest
from ....types.request import Request
from ....types.warnings import Warnings
from ...http import events, request_io
from ...http.keep_alive import generate_function
from ...resource import ServerContext
from ...storage.database import STORE_OPTION
from ...storage.responses import ResponseStore
from . import compaction, convert, item_schema, schema
from .events import ResponseEncoder, new_id
from .item_schema import Item
from .stream_schema import StreamEvent
from .tools import JsonObject

_NO_STORE = f"this server stores no responses; start it with `{STORE_OPTION}`"


@dataclass(frozen=True)
class Conversation:
    """The items up to and including a response; `by_id` holds those with an id, as JSON."""

    last_id: str | None = None
    items: Sequence[Item | None] = ()
    by_id: dict[str, JsonObject] = field(default_factory=dict)


class ParsedRequest:
    """A request, its rewritten JSON, and the conversation that it continues."""

    def __init__(
        self,
        raw: dict[str, Any],
        request: schema.ResponsesRequest,
        history: Conversation,
        warnings: Warnings,
        compacts: bool,
    ) -> None:
        self.raw = raw
        self.request = request
        self.warnings = warnings
        self.compacts = compacts
        """Whether the conversation is compacted instead of answered."""
        self.history = history

    @property
    def items(self) -> list[Item | None]:
        """The conversation before the response."""
        return [*self.history.items, *convert.given_items(self.request.input)]

    @property
    def tools(self) -> list[item_schema.Tool]:
        return convert.all_tools(self.request, self.items)


class Run:
    """A response in progress. `error` is set if it has failed.

    Without `choices`, the response ends at once, with the items in `output` and without a model.
    """

    def __init__(
        self,
        parsed: ParsedRequest,
        choices: events.Choices | None,
        response: schema.Response,
        store: ResponseStore | None,
    ) -> None:
        self.request = parsed.request
        self.items = parsed.items
        self._given = parsed.raw.get("input")
        self._history = parsed.history
        self.warnings = parsed.warnings
        self.response = response
        self.store = store
        self.encoder = ResponseEncoder(response, parsed.warnings, time.time, parsed.tools)
        self.error: GalagoError | None = None
        self.ended: Future[None] = Future()
        self.output: Sequence[item_schema.OutputItem] = ()
        self._choices = choices
        self.progress = None if choices is None else choices.progress

    async def chunks(self) -> AsyncGenerator[StreamEvent, None]:
        """The events of the response. Raises the error that it fails with."""
        if self._choices is None:
            for chunk in self.encoder.whole(self.output):
                yield chunk
            return
        async with contextlib.aclosing(events.encode([self._choices], self.encoder)) as chunks:
            async for chunk in chunks:
                yield chunk

    def conversation(self) -> Conversation:
        """The conversation with the items of the response."""
        output = [msgspec.to_builtins(item) for item in self.response.output]
        given = self._given if isinstance(self._given, list) else []
        return Conversation(
            self.response.id,
            [*self.items, *convert.to_items(output)],
            self._history.by_id | _by_id([*given, *output]),
        )

    def close(self) -> None:
        """Stops the model."""
        if self._choices is not None:
            self._choices.close()


class Runs:
    """Starts responses, and keeps those that have not ended, by id."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._service = context.service
        self.store = None if context.database is None else ResponseStore(context.database)
        self.running: dict[str, Run] = {}

    def decode(self, body: bytearray) -> tuple[dict[str, Any], Warnings]:
        """The JSON object in a body, and the warnings about it, which `parse` and `compact` add to."""
        warnings = request_io.no_warnings(self._context.config.strict)
        return request_io.decode_object(body, warnings), warnings

    def parse(self, raw: dict[str, Any], warnings: Warnings, last: Conversation | None = None) -> ParsedRequest:
        """Reads a request. `last` is a conversation that it may continue, or refer to, besides the stored ones."""
        compacts = convert.asks_for_compaction(raw)
        previous_id = raw.get("previous_response_id")
        history = last if last and last.last_id == previous_id else self._history(previous_id)
        raw = self._rewritten(raw, history, warnings, last)
        request = request_io.convert_object(raw, schema.ResponsesRequest, warnings)
        convert.warn_about_outputs_without_calls(history.items, convert.given_items(request.input), warnings)
        return ParsedRequest(raw, request, history, warnings, compacts)

    def runtime_request(self, parsed: ParsedRequest) -> Request:
        """The runtime's request. Errors name the API's fields."""
        try:
            return convert.to_request(
                parsed.request, parsed.history.items, parsed.tools, self._context.read_file, parsed.warnings
            )
        except InvalidRequest as error:
            convert.with_api_field_name(error)
            raise

    def prepare(self, parsed: ParsedRequest, cancelled: Callable[[], bool], answers: bool = True) -> Run:
        """Starts a response; the caller must call `end` when it has ended. Without `answers` it has no output."""
        store = self.store_for(parsed)
        request = self.runtime_request(parsed) if answers and not parsed.compacts else None
        model = self._service.model(self._service.model_for(parsed.request.model, parsed.warnings))
        choices = None
        if request is not None:
            choices = self._choices(parsed, model.id, request, cancelled)
        response_id = f"resp_{uuid.uuid4().hex}"
        response = convert.new_response(
            response_id, time.time(), model, parsed.request, parsed.tools, store is not None
        )
        run = Run(parsed, choices, response, store)
        if parsed.compacts:
            run.output = [_compaction_item(run.items)]
        if store is not None:
            items = request_io.encode_json(convert.stored_items(parsed.raw.get("input"), new_id))
            store.add(response_id, parsed.request.previous_response_id, items, request_io.encode_json(response))
        self.running[response_id] = run
        return run

    def _choices(
        self, parsed: ParsedRequest, model: str, request: Request, cancelled: Callable[[], bool]
    ) -> events.Choices:
        keep_alive = parsed.request.keep_alive
        generate: events.GenerateFunction = partial(self._service.generate, model)
        if keep_alive is not None:
            generate = generate_function(self._service, model, keep_alive, parsed.warnings)
        progress = partial(self._service.progress, model) if parsed.request.stream else events.no_progress
        try:
            return events.Choices(generate, request, cancelled=cancelled, progress=progress)
        except InvalidRequest as error:
            convert.with_api_field_name(error)
            raise

    def store_for(self, parsed: ParsedRequest) -> ResponseStore | None:
        """The store for this response. As at OpenAI, responses are stored by default, if the server has a store."""
        request = parsed.request
        if self.store is None:
            if request.background:
                raise InvalidRequest(f"background: {_NO_STORE}", "background")
            if request.store:
                parsed.warnings.add_unless_strict(f"store: {_NO_STORE}", "store")
        if request.background and request.stream:
            raise InvalidRequest("background and stream exclude each other; give only one of them", "background")
        if request.background and request.store is False:
            raise InvalidRequest(
                "a background response must be stored, or it could not be retrieved; leave store out", "store"
            )
        return None if request.store is False else self.store

    def _history(self, previous_id: Any) -> Conversation:
        """The conversation up to and including a stored response."""
        if not isinstance(previous_id, str):
            return Conversation()
        if self.store is None:
            raise InvalidRequest(f"previous_response_id: {_NO_STORE}", "previous_response_id")
        turns = [
            (msgspec.json.decode(items), msgspec.json.decode(response)["output"])
            for items, response in self.store.conversation(previous_id)
        ]
        items = list(chain.from_iterable(chain.from_iterable(turns)))
        return Conversation(previous_id, convert.to_items(items), _by_id(items))

    async def answer(self, run: Run) -> None:
        """Completes a response that is not streamed."""
        try:
            async with contextlib.aclosing(run.chunks()) as chunks:
                async for _ in chunks:
                    pass
        except GalagoError as error:
            run.error = None if run.response.status == "cancelled" else error
            for _ in run.encoder.fail(error):
                pass
        finally:
            self.end(run)

    def end(self, run: Run) -> None:
        """Stores how the response ended; if it has not, because the client left, it is cancelled."""
        run.close()
        response = run.response
        if response.status == "in_progress":
            response.status = "cancelled"
        try:
            if run.store is not None:
                run.store.update(response.id, response.status, request_io.encode_json(response))
        finally:
            self.running.pop(response.id, None)
            run.ended.set_result(None)

    def compact(self, raw: dict[str, Any], warnings: Warnings) -> tuple[schema.CompactedResponse, Warnings]:
        """The messages of system, developer and user as they are, and one compaction item for all other items."""
        history = self._history(raw.get("previous_response_id"))
        raw = self._rewritten(raw, history, warnings)
        request = request_io.convert_object(raw, schema.CompactRequest, warnings)
        self._service.model_for(request.model, warnings)
        items = [*history.items, *convert.given_items(request.input)]
        if not items:
            raise InvalidRequest("there is nothing to compact; give input or previous_response_id", "input")
        output = [*convert.kept_messages(items, new_id), _compaction_item(items, beside_kept=True)]
        compacted = schema.CompactedResponse(
            id=f"resp_{uuid.uuid4().hex}",
            created_at=int(time.time()),
            output=output,
            usage=convert.NO_USAGE,
            warnings=warnings or UNSET,
        )
        return compacted, warnings

    def _rewritten(
        self, raw: dict[str, Any], history: Conversation, warnings: Warnings, last: Conversation | None = None
    ) -> dict[str, Any]:
        def find(ids: Sequence[str]) -> dict[str, JsonObject | None]:
            stored = {} if self.store is None else self.store.items(ids)
            kept = stored | (last.by_id if last else {})
            return {i: None if i in history.by_id else kept[i] for i in ids if i in kept or i in history.by_id}

        try:
            return convert.rewritten(raw, warnings, find)
        except RecursionError:
            raise InvalidRequest("the body is nested too deeply to be read") from None


def _by_id(items: Sequence[Any]) -> dict[str, JsonObject]:
    return {item["id"]: item for item in items if item is not None and isinstance(item.get("id"), str)}


def _compaction_item(items: Sequence[Item | None], *, beside_kept: bool = False) -> item_schema.CompactionItem:
    return item_schema.CompactionItem(new_id("cmp"), compaction.encoded(items, beside_kept=beside_kept))
