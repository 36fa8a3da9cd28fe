"""Renders a model's own chat template, which is untrusted code, in child processes with limits. Knows no tokens.

`template_renderer` is the program of the children. A rendering that exceeds a limit ends its child and no other
rendering, since each has a child of its own while it lasts.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from ...models.errors import ModelError, TemplateError, TemplateRefusal
from ..process.spawn import EXIT_GRACE_SECONDS, WorkerProcess, python_command
from ..types.limits import limit, limit_error

RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
"""Variables that a request cannot set."""

MAX_RENDERERS = 8

_MAX_IDLE = 2
"""Idle children to keep, unless a rendering was stopped in the last `_ALERT_SECONDS`: then all may be needed soon."""

_ALERT_SECONDS = 60.0

_TURN_SECONDS = 0.02
"""How long a rendering waits for a child before it starts another. Most renderings take less than a tenth of this."""

_START_SECONDS = 60.0
"""Time for a child to start; after that, the rendering fails."""

_QUICK_SECONDS = 0.1
"""A rendering that uses more CPU time gets a lower priority, so that it does not slow others down."""

_POLL_SECONDS = 0.05

_WAITING_SECONDS = 6.0
"""A rendering may take this much longer than its CPU time, because other processes use the CPU too."""

_MIN_SECONDS = 0.25
"""CPU time that a template always gets, however often it was stopped: hundreds of times what a real one needs."""

_COMPILING_FACTOR = 4
"""A template may take this many times longer to compile than to render: about 20 ms per 1000 characters."""

TemplateMessage = dict[str, Any]


class Renderer:
    """A child process that renders one template at a time, for any model."""

    def __init__(self) -> None:
        self._max_memory = limit("template_memory")
        self._max_polls = int((limit("template_seconds") + _WAITING_SECONDS) / _POLL_SECONDS)
        self._process = WorkerProcess(python_command("galago.runtime.prompt.template_renderer", self._max_memory))
        self._started = False
        self._code = b""
        self.usable = True
        """Whether it can answer a request as quickly as a new one would."""

    def has_started(self) -> bool:
        """Whether a request would be read at once."""
        connection = self._process.connection
        if not self._started and connection.poll(0):
            self._started = True
            with contextlib.suppress(EOFError, OSError):  # it has died, which the request will show
                connection.recv_bytes()
        return self._started

    def ask(self, request: bytes, code: bytes) -> tuple[str, Any, float]:
        """Returns the kind of the reply, the result and the seconds used. Raises `TemplateError` at a limit.

        `code` is what to render, empty if the request is to compile a template. Raises another error if the process
        has died for another reason, or answers nonsense.
        """
        self.usable = False
        connection = self._process.connection
        try:
            if code != self._code:
                connection.send_bytes(code)
                self._code = code
            connection.send_bytes(request)
            quick = connection.poll(_POLL_SECONDS) or self._watch(may_slow_down=bool(code))
            kind, result, seconds = json.loads(connection.recv_bytes(self._max_memory))
        except (EOFError, OSError, ValueError, TypeError):
            if self._process.wait(EXIT_GRACE_SECONDS) == -getattr(signal, "SIGPROF", 0) != 0:
                raise _out_of_time() from None
            raise
        if kind == "memory":
            raise _out_of_memory()
        self.usable = quick
        return kind, result, seconds

    def _watch(self, may_slow_down: bool) -> bool:
        """Waits for a reply that takes longer than usual. Returns whether the process still has its priority."""
        import psutil

        lowered = False
        with contextlib.suppress(psutil.Error):  # the process has ended
            process = psutil.Process(self._process.pid)
            seconds_before = sum(process.cpu_times()[:2])
            for _ in range(self._max_polls):  # not the clock: time in which this process is stopped should hardly count
                if self._process.connection.poll(_POLL_SECONDS):
                    return not lowered
                if process.memory_info().rss > self._max_memory:
                    raise _out_of_memory()
                is_slow = sum(process.cpu_times()[:2]) - seconds_before > _QUICK_SECONDS
                if may_slow_down and is_slow and not lowered:
                    process.nice(getattr(psutil, "IDLE_PRIORITY_CLASS", 19))
                    lowered = True
            raise _out_of_time()
        return False

    def close(self) -> None:
        self._process.kill()
        self._process.reap()
        self._process.connection.close()


class RendererPool:
    """The renderers of this process. They are started when needed; a few that have nothing to do are kept."""

    def __init__(self) -> None:
        self._reset()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):  # two processes must not share a child
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._idle: list[Renderer] = []
        self._busy = self._waiting = 0
        self._alert_end = 0.0
        self._changed = threading.Condition()

    def start(self) -> None:
        """Starts a renderer unless one is idle, so that the first rendering need not wait for it."""
        if not self._idle:
            self._idle.append(Renderer())

    def close(self) -> None:
        """Ends the renderers that are idle."""
        with self._changed:
            idle, self._idle, self._alert_end = self._idle, [], 0.0
        for renderer in idle:
            renderer.close()

    @contextlib.contextmanager
    def renderer(self) -> Iterator[Renderer]:
        """Lends a renderer for exclusive use."""
        renderer = self._take()
        try:
            yield renderer
        except BaseException:
            self._alert_end = time.monotonic() + _ALERT_SECONDS
            raise
        finally:
            self._take_back(renderer)

    def _take(self) -> Renderer:
        """Waits for a renderer that has started and is idle. If none becomes idle soon, starts one after another."""
        begin = time.monotonic()
        with self._changed:
            self._waiting += 1
            try:
                while (seconds := time.monotonic() - begin) < _START_SECONDS:
                    ready = next((one for one in self._idle if one.has_started()), None)
                    if ready is not None:
                        self._idle.remove(ready)
                        self._busy += 1
                        return ready
                    is_starting, has_room = bool(self._idle), self._busy < MAX_RENDERERS
                    if has_room and not is_starting and (seconds > _TURN_SECONDS or not self._busy):
                        self._idle.append(Renderer())
                    self._changed.wait(_TURN_SECONDS)
            finally:
                self._waiting -= 1
        raise TemplateError("no process to render the model's chat template has started within a minute; try again")

    def _take_back(self, renderer: Renderer) -> None:
        """Returns a renderer to the pool. One that cannot be used again is replaced in advance."""
        if not renderer.usable:
            renderer.close()
            with contextlib.suppress(OSError):
                renderer = Renderer()
        with self._changed:
            self._busy -= 1
            has_use = self._waiting or time.monotonic() < self._alert_end
            is_kept = renderer.usable and len(self._idle) < (MAX_RENDERERS if has_use else _MAX_IDLE)
            if is_kept:
                self._idle.append(renderer)
            self._changed.notify()
        if not is_kept:
            renderer.close()


RENDERERS = RendererPool()


class ChatTemplate:
    """A compiled chat template. `bos` and `eos` are the texts of the model's begin and end tokens."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        if len(source) > limit("template_characters"):
            raise limit_error("template_characters", f"the model's chat template has {len(source)} characters")
        self.source = source
        self._seconds_per_request = max(float(limit("template_seconds")), _MIN_SECONDS)
        self._request = threading.local()
        self._code = b""
        variables, code = self._ask("compile", self._seconds_per_request * _COMPILING_FACTOR, source)
        self.variables = frozenset(variables)
        self._code = base64.b64decode(code)
        self._constants = {"bos_token": bos, "eos_token": eos}
        self._no_tools: list[dict[str, Any]] | None = None
        self._refusal: TemplateRefusal | None = None
        self._wants_parts = False
        with self.one_request():
            self._wants_parts = self._needs_typed_content()

    def render(
        self, messages: list[TemplateMessage], *, tools: list[dict[str, Any]] | None = None, **switches: Any
    ) -> str:
        """Renders the prompt for messages with a `role` and a string `content`, ready for an answer.

        `switches` set variables of the template; `variables` names those that it reads. Raises `TemplateRefusal` if
        the template cannot render these messages, and another `TemplateError` if it exceeds a limit.
        """
        if self._wants_parts:
            messages = [
                m if m["content"] is None else {**m, "content": [{"type": "text", "text": m["content"]}]}
                for m in messages
            ]
        return self._run(messages, tools or self._no_tools, switches)

    @contextlib.contextmanager
    def one_request(self) -> Iterator[None]:
        """All renderings of this thread in the `with` block share the time that is otherwise allowed for each."""
        self._request.seconds_left = self._seconds_per_request
        try:
            yield
        finally:
            del self._request.seconds_left

    def _needs_typed_content(self) -> bool:
        """Whether the template ignores string content and requires a list of typed parts.

        A template that fails without a list of tools gets an empty one from then on.
        """
        probe = "galago-probe"
        choices: tuple[list[dict[str, Any]] | None, ...] = (None, [])
        for no_tools in choices:
            try:
                rendered = self._run([{"role": "user", "content": probe}], no_tools, {})
            except TemplateRefusal as error:
                self._refusal = self._refusal or error
                continue
            self._refusal = None
            self._no_tools = no_tools
            return probe not in rendered
        return False

    def check(self) -> None:
        """Raises `TemplateError` if the template refuses a user message both with and without a system message."""
        if self._refusal is not None:
            try:
                self.render([{"role": "system", "content": "Hi"}, {"role": "user", "content": "Hi"}])
            except TemplateRefusal:
                raise self._refusal from None

    def _older_variables(self, tools: list[dict[str, Any]] | None) -> dict[str, str]:
        """Variables without which FireFunction's template fails: the tools as JSON text, and the time."""
        functions = json.dumps([tool["function"] for tool in tools or ()], ensure_ascii=False)
        values = {"functions": functions, "datetime": datetime.now().strftime("%Y-%m-%d %H:%M")}
        return {name: value for name, value in values.items() if name in self.variables}

    def _run(
        self, messages: list[TemplateMessage], tools: list[dict[str, Any]] | None, switches: dict[str, Any]
    ) -> str:
        values = {**self._older_variables(tools), **switches, **self._constants}
        values |= {"messages": messages, "tools": tools, "add_generation_prompt": True}
        seconds_left = getattr(self._request, "seconds_left", self._seconds_per_request)
        rendered: str = self._ask("render", seconds_left, values)
        return rendered

    def _ask(self, task: Literal["compile", "render"], seconds: float, given: Any) -> Any:
        """Runs a task in a renderer. A template that was stopped gets less time afterwards."""
        request = json.dumps([task, seconds, given], ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            if seconds <= 0:
                raise _out_of_time()
            kind, result, seconds_used = _reply(request, self._code)
        except TemplateError:
            self._seconds_per_request = max(self._seconds_per_request / 2, _MIN_SECONDS)
            raise
        if hasattr(self._request, "seconds_left"):
            self._request.seconds_left -= seconds_used
        if kind == "invalid":
            raise ModelError(f"the model's chat template cannot be compiled: {result}")
        if kind != "ok":
            raise TemplateRefusal(f"the model's chat template {kind} these messages: {result}")
        return result


def _reply(request: bytes, code: bytes) -> tuple[str, Any, float]:
    for _ in range(2):  # a child may also be ended from outside, for example when memory runs out
        with contextlib.suppress(EOFError, OSError, ValueError, TypeError), RENDERERS.renderer() as renderer:
            return renderer.ask(request, code)
    raise TemplateError("the process that renders the model's chat template has ended unexpectedly; try again")


def _out_of_time() -> Exception:
    problem = "the model's chat template runs too long, perhaps forever; give another with --chat-template"
    return limit_error("template_seconds", problem)


def _out_of_memory() -> Exception:
    problem = "the model's chat template needs too much memory; give another with --chat-template"
    return limit_error("template_memory", problem)
