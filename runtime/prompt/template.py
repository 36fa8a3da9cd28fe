"""Renders a model's own chat template, which is untrusted code, in a sandbox with bounds. Knows no tokens.

A Jinja sandbox keeps a template away from Python's internals (CVE-2024-34359 was the lack of one), but it does not
keep it from looping or growing without end; the bounds here do.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...models.errors import ModelError, TemplateError

MAX_SOURCE = 512 * 1024
MAX_OUTPUT = 64 * 1024 * 1024
MAX_LINES_RUN = 2_000_000
"""Lines of compiled template code one rendering may run: about a second; real templates run a few per message."""

Message = dict[str, Any]


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a bound on everything that makes a long text from a short one."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise TemplateError(f"the model's chat template uses the operator {operator}, which is not allowed")
        if operator == "*" and isinstance(left, str | list | tuple):
            _check_bounded(right)
        if operator == "*" and isinstance(right, str | list | tuple):
            _check_bounded(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(owner, str):
            _check_bounded(owner if function.__name__ == "format" else None, *args, *kwargs.values())
        return super().call(context, function, *args, **kwargs)


def _check_bounded(*arguments: object) -> None:
    """Refuses a width or count beyond any honest use, as a number or inside a format string."""
    for argument in arguments:
        too_wide = isinstance(argument, str) and re.search(r"\d{5,}", argument)
        if too_wide or (isinstance(argument, int) and argument > 9999):
            raise TemplateError("the model's chat template asks for a text of unreasonable width")


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_bounded(*args, *kwargs.values())
        return function(value, *args, **kwargs)

    return checked


class ChatTemplate:
    """A compiled template. `bos` and `eos` are the texts of the model's begin and end tokens."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        if len(source) > MAX_SOURCE:
            raise ModelError(f"the chat template has {len(source)} characters; at most {MAX_SOURCE} are read")
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        for name in ("batch", "center", "indent", "slice"):
            environment.filters[name] = _bounded(environment.filters[name])
        environment.globals.pop("lipsum")
        environment.filters["format"] = _format
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"the model's chat template cannot be compiled: {error}") from error
        self._constants = {"bos_token": bos, "eos_token": eos}
        self._wants_parts = self._needs_typed_content()

    def render(self, messages: list[Message], *, tools: list[dict[str, Any]] | None = None) -> str:
        """The prompt for messages of `role` and string `content`, ready for an answer."""
        if self._wants_parts:
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        return self._run(messages, tools)

    def _needs_typed_content(self) -> bool:
        """Whether the template drops content that is a string, and wants a list of typed parts."""
        probe = "galago-probe"
        try:
            return probe not in self._run([{"role": "user", "content": probe}], None)
        except TemplateError:
            return False

    def _run(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
        values = {**self._constants, "messages": messages, "tools": tools, "add_generation_prompt": True}
        previous = sys.gettrace()
        sys.settrace(_line_budget())
        try:
            pieces, length = [], 0
            for piece in self._template.generate(**values):
                length += len(piece)
                if length > MAX_OUTPUT:
                    raise TemplateError(f"the model's chat template wrote more than {MAX_OUTPUT} characters")
                pieces.append(piece)
            return "".join(pieces)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template refuses these messages: {error}") from error
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise TemplateError(f"the model's chat template fails on these messages: {error}") from error
        finally:
            sys.settrace(previous)


def _line_budget() -> Any:
    """A trace function that ends a rendering which runs too long; counts lines, so that every machine agrees."""
    left = MAX_LINES_RUN

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left < 0:
                raise TemplateError("the model's chat template runs without end")
        return trace

    return trace


def _format(pattern: str, *args: Any, **kwargs: Any) -> str:
    _check_bounded(str(pattern), *args, *kwargs.values())
    return str(pattern) % (kwargs or args)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
