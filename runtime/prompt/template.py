"""Renders a model's own chat template, which is untrusted code, in a sandbox with limits. Knows no tokens.

A Jinja sandbox keeps a template away from Python's internals (CVE-2024-34359 was caused by the lack of one). It does
not stop endless loops or unlimited output; the limits here do.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...models.errors import ModelError, TemplateError

MAX_SOURCE_CHARS = 512 * 1024
MAX_OUTPUT_CHARS = 64 * 1024 * 1024
MAX_FIELD_WIDTH = 9999
MAX_LINES_RUN = 2_000_000
"""Lines of compiled template code that one rendering may run, about a second. Real templates run a few per message."""

RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
"""Variables that a request cannot set."""

TemplateMessage = dict[str, Any]
_FAILURES = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError)


class _CodeGenerator(CodeGenerator):
    """Jinja's compiler, except that `~` calls the environment like the other operators, so that it can be limited."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Generation(Extension):
    """Ignores `{% generation %}`, with which templates mark the model's own text for training."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with limits on every operation that can multiply the size of its input."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])
    code_generator_class = _CodeGenerator

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise TemplateError(f"the model's chat template uses the operator {operator}, which is not allowed")
        if operator == "+":
            _check_size(_size(left) + _size(right))
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _check_size(MAX_OUTPUT_CHARS if left.bit_length() + right.bit_length() > 128 else 0)
        elif operator == "*":
            _check_size(_size(left) * max(0, right) if isinstance(right, int) else left * _size(right))
        return super().call_binop(context, operator, left, right)

    def join(self, parts: Sequence[Any]) -> str:
        texts = [str(part) for part in parts]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        bound = getattr(function, "__wrapped__", function)
        owner = getattr(bound, "__self__", None)
        if isinstance(owner, str):
            _check_text_call(bound.__name__, owner, *args, *kwargs.values())
        return super().call(context, function, *args, **kwargs)


def _size(value: object) -> int:
    """The size in characters. An item of a list counts as 64 characters, for the memory that it takes."""
    return len(value) if isinstance(value, str) else 64 * len(value) if isinstance(value, list | tuple) else 0


def _check_size(size: int) -> None:
    if size >= MAX_OUTPUT_CHARS:
        raise TemplateError(f"the model's chat template builds a value of more than {MAX_OUTPUT_CHARS} characters")


def _check_text_call(name: str, text: str, *arguments: Any) -> None:
    """Refuses calls that would make a text far larger than real templates need: widths, replacing and joining."""
    pattern = (text,) if name == "format" else ()
    for argument in (*pattern, *arguments):
        if isinstance(argument, int) and argument > MAX_FIELD_WIDTH:
            raise TemplateError("the model's chat template uses an unreasonable field width")
        if name in ("format", "format_map") and isinstance(argument, str) and re.search(r"\d{5,}", argument):
            raise TemplateError("the model's chat template uses an unreasonable field width")
    if name == "replace" and len(arguments) >= 2:
        _check_size(len(text) + (text.count(str(arguments[0]))) * len(str(arguments[1])))
    if name == "join" and arguments and isinstance(arguments[0], list | tuple):
        _check_size(sum(len(str(item)) + len(text) for item in arguments[0]))


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with the same checks as the string method of that name."""

    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_text_call(name, str(value) if isinstance(value, str) else "", *args, *kwargs.values())
        return function(value, *args, **kwargs)

    return checked


class ChatTemplate:
    """A compiled chat template. `bos` and `eos` are the texts of the model's begin and end tokens."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelError(f"the chat template has {len(source)} characters; at most {MAX_SOURCE_CHARS} are accepted")
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        for name in ("batch", "center", "indent", "slice", "truncate", "wordwrap"):
            environment.filters[name] = _limited(name, environment.filters[name])
        environment.globals.pop("lipsum")
        environment.filters["format"] = _format
        environment.filters["join"] = _join
        environment.filters["replace"] = _replace
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            parsed = environment.parse(source)
            self.variables = meta.find_undeclared_variables(parsed) - set(environment.globals)
            self._template = environment.from_string(parsed)
        except (jinja2.TemplateError, RecursionError, MemoryError) as error:
            raise ModelError(f"the model's chat template cannot be compiled: {error}") from error
        self.source = source
        self._constants = {"bos_token": bos, "eos_token": eos}
        self._no_tools: list[dict[str, Any]] | None = None
        self._refusal: TemplateError | None = None
        self._wants_parts = False
        self._wants_parts = self._needs_typed_content()

    def render(
        self, messages: list[TemplateMessage], *, tools: list[dict[str, Any]] | None = None, **switches: Any
    ) -> str:
        """Renders the prompt for messages with a `role` and a string `content`, ready for an answer.

        `switches` set variables of the template; `variables` names those that it reads.
        """
        if self._wants_parts:
            messages = [
                m if m["content"] is None else {**m, "content": [{"type": "text", "text": m["content"]}]}
                for m in messages
            ]
        return self._run(messages, tools or self._no_tools, switches)

    def _needs_typed_content(self) -> bool:
        """Whether the template ignores string content and requires a list of typed parts.

        A template that fails without a list of tools gets an empty one from then on.
        """
        probe = "galago-probe"
        choices: tuple[list[dict[str, Any]] | None, ...] = (None, [])
        for no_tools in choices:
            try:
                rendered = self._run([{"role": "user", "content": probe}], no_tools, {})
            except TemplateError as error:
                self._refusal = self._refusal or error
                continue
            self._refusal = None
            self._no_tools = no_tools
            return probe not in rendered
        return False

    def check(self) -> None:
        """Raises `TemplateError` if the template refuses a single message of the user, with a system message or not."""
        if self._refusal is not None:
            try:
                self.render([{"role": "system", "content": "Hi"}, {"role": "user", "content": "Hi"}])
            except TemplateError:
                raise self._refusal from None

    def _older_variables(self, tools: list[dict[str, Any]] | None) -> dict[str, str]:
        """Variables without which FireFunction's template fails: the tools as JSON text, and the time."""
        functions = _tojson([tool["function"] for tool in tools or ()])
        values = {"functions": functions, "datetime": datetime.now().strftime("%Y-%m-%d %H:%M")}
        return {name: value for name, value in values.items() if name in self.variables}

    def _run(
        self, messages: list[TemplateMessage], tools: list[dict[str, Any]] | None, switches: dict[str, Any]
    ) -> str:
        values = {**self._older_variables(tools), **switches, **self._constants}
        values |= {"messages": messages, "tools": tools, "add_generation_prompt": True}
        previous = sys.gettrace()
        sys.settrace(_line_budget())
        try:
            pieces, length = [], 0
            for piece in self._template.generate(**values):
                length += len(piece)
                if length > MAX_OUTPUT_CHARS:
                    raise TemplateError(f"the model's chat template wrote more than {MAX_OUTPUT_CHARS} characters")
                pieces.append(piece)
            return "".join(pieces)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template refuses these messages: {error}") from error
        except _FAILURES as error:
            raise TemplateError(f"the model's chat template fails on these messages: {error}") from error
        finally:
            sys.settrace(previous)


def _line_budget() -> Any:
    """A trace function that stops a long rendering. It counts lines, so that the limit is the same on every machine."""
    lines_left = MAX_LINES_RUN

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines_left
        if event == "line":
            lines_left -= 1
            if lines_left < 0:
                raise TemplateError("the model's chat template runs too long; it may loop endlessly")
        return trace

    return trace


def _format(pattern: str, *args: Any, **kwargs: Any) -> str:
    _check_text_call("format", str(pattern), *args, *kwargs.values())
    return str(pattern) % (kwargs or args)


def _join(values: Any, d: str = "", attribute: str | None = None) -> str:
    """Jinja's filter, with the same parameter names."""
    items = [str(value if attribute is None else value[attribute]) for value in values]
    _check_size(sum(map(len, items)) + len(d) * len(items))
    return d.join(items)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    _check_text_call("replace", str(text), old, new)
    return str(text).replace(old, new, -1 if count is None else count)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers defines it for chat templates: non-ASCII text stays readable and HTML is not escaped."""
    _check_text_call("tojson", "", indent)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
