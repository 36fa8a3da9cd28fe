"""`POST /v1/completions`, streamed or whole: prompts without a chat template."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from .....models.errors import DeadlineExceeded, EngineError, GalagoError, InvalidRequest, NotFound, NotReady
from ....types.options import MAX_INTEGER, bounds
from ....types.tasks import Detokenize
from ....types.warnings import Warnings
from ...http import events, request_io, whole_answers
from ...http.keep_alive import generate_function
from ...http.openapi import Endpoint, RouteDescription, Streamed
from ...http.request_context import keep
from ...resource import RequestFunction, Resource
from ..chat.convert import BOUNDS, api_field_names, in_background
from . import convert, schema

PATH = "/completions"

COMPLETE = RouteDescription(
    "Complete prompts",
    {200: schema.Completion},
    body=schema.CompletionRequest,
    stream=Streamed(schema.Completion, end="[DONE]"),
    errors=(InvalidRequest, NotFound, NotReady, EngineError, DeadlineExceeded),
    method="POST",
    bounds=bounds("completions") | {"n": BOUNDS["n"], "max_tokens": (0, MAX_INTEGER)},
    examples={
        "text": {"prompt": "Once upon a time", "max_tokens": 64},
        "score": {"prompt": "Once upon a time", "max_tokens": 0, "echo": True, "logprobs": 1},
    },
)


class Completions(Resource):
    def routes(self, prefix: str) -> list[Endpoint]:
        return [Endpoint(f"{prefix}{PATH}", self.complete, COMPLETE)]

    def batch_endpoints(self) -> Mapping[str, RequestFunction]:
        return {f"/v1{PATH}": partial(self._complete, background=True)}

    async def complete(self, request: Request) -> Response:
        return await self._complete(request, background=False)

    async def _complete(self, request: Request, background: bool) -> Response:
        body = await request_io.read_body(request)
        prepared = await request_io.run_on_thread(request, partial(self._prepare, body, background), _Prepared.close)
        encoder = convert.CompletionEncoder(
            f"cmpl-{uuid.uuid4().hex}",
            int(time.time()),
            prepared.model,
            prepared.request,
            len(prepared.choices),
            prepared.echoes,
            prepared.warnings,
        )
        if prepared.request.stream:
            headers = request_io.warning_headers(prepared.warnings)
            return events.stream_response(prepared.choices, encoder, events.SSE, headers)
        with api_field_names():
            answers = await request_io.unless_disconnected(request, whole_answers.collect(prepared.choices))
        return request_io.answer_response(encoder.completion(answers))

    def _prepare(self, body: bytearray, background: bool, disconnected: request_io.Cancellation) -> _Prepared:
        keep()
        request, warnings = request_io.parse_body(body, schema.CompletionRequest, self.strict)
        request.model = self.service.model_for(request.model, warnings)
        prompts = convert.prompts(request.prompt, "prompt")
        prepared = _Prepared(request, request.model, warnings, [], [])
        try:
            with api_field_names(warnings):
                count = convert.choices_per_prompt(request, len(prompts))
                requests = [convert.to_request(request, prompt, warnings) for prompt in prompts]
                if background:
                    requests = [in_background(one) for one in requests]
                for prompt in prompts if request.echo else ():
                    prepared.echoes.append(self._text(request.model, prompt, disconnected))
                generate: events.GenerateFunction = partial(self.service.generate, request.model)
                if request.keep_alive is not None:
                    generate = generate_function(self.service, request.model, request.keep_alive, warnings)
                progress = partial(self.service.progress, request.model) if request.stream else events.no_progress
                for i, one in enumerate(requests):
                    with _prompt_number(i, len(requests)):
                        prepared.choices.append(events.Choices(generate, one, count, disconnected, progress))
        except BaseException:
            prepared.close()
            raise
        return prepared

    def _text(self, model: str | None, prompt: str | tuple[int, ...], disconnected: request_io.Cancellation) -> str:
        return (
            prompt if isinstance(prompt, str) else self.service.run_task(model, Detokenize(prompt), disconnected).text
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request whose first answers have been started. `echoes` are the prompts to repeat before the answers."""

    request: schema.CompletionRequest
    model: str
    warnings: Warnings
    choices: list[events.Choices]
    echoes: list[str]

    def close(self) -> None:
        for choices in self.choices:
            choices.close()


@contextlib.contextmanager
def _prompt_number(index: int, prompt_count: int) -> Iterator[None]:
    """Context manager: errors about the prompt name its number, if there are several."""
    try:
        yield
    except GalagoError as error:
        if error.param == "prompt" and prompt_count > 1:
            error.param = f"prompt[{index}]"
        raise
