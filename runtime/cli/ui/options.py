"""Command-line options: those of the options table as flags, and the types that several commands share.

Imports no model code by itself, so that `--help` stays fast.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import typer

from ....models.errors import ConfigError
from ...config import KVType
from ...types import options as table
from ...types.load_options import LOADING
from ...types.options import OptionSpec
from . import progress

if TYPE_CHECKING:
    from ...python_api import LocalModel

T = TypeVar("T")

OptionValues: TypeAlias = dict[str, Any]
"""The options of one group that have a value, by their names in the table."""

_TYPES: dict[str, Any] = {
    "number": float,
    "integer": int,
    "text": str,
    "texts": list[str],
    "path": Path,
    "paths": list[Path],
    "size": str,
}


_LITERAL: Any = Literal
_ANNOTATED: Any = Annotated


def flag(option: OptionSpec, with_default: bool = False) -> Any:
    """The flag of an option in the table, for use in `Annotated`.

    `with_default` names the default, for a parameter that is `None` unless the flag is given.
    """
    text = f"{option.help} (a file)" if option.file else option.help
    if option.unset and option.default is None:
        text += f"  [default: {option.unset}]"
    elif with_default and option.default is not None and option.default != ():
        text += f"  [default: {option.default}]"
    return typer.Option(*option.flags, help=text, metavar=option.metavar or None)


def _named(name: str) -> OptionSpec:
    return next(option for option in LOADING if option.name == name)


ModelArgument = Annotated[
    str, typer.Argument(help="builtin, the name of an installed model or a preset, or a GGUF file")
]
ProjectorOption = Annotated[Path | None, flag(_named("mmproj"))]
ContextLength = Annotated[int | None, flag(_named("context_length"))]
Parallel = Annotated[int | None, flag(_named("slots"))]
Threads = Annotated[int | None, flag(_named("threads"))]
GpuLayers = Annotated[int, flag(_named("gpu_layers"))]
KVTypeOption = Annotated[KVType, flag(_named("kv_type"))]


def with_options(**groups: Sequence[OptionSpec]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Replaces each named parameter of a command by the flags of its options.

    Options without a flag are left out. The command receives a dictionary of the given values by the options' names.
    """
    shown = {group: [option for option in options if option.flags] for group, options in groups.items()}

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(command)
        def run(**given: Any) -> T:
            for group, options in shown.items():
                values = {option.name: _read(option, given.pop(option.name)) for option in options}
                given[group] = {name: value for name, value in values.items() if value is not None}
            return command(**given)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            replaced = [_parameter(option) for option in shown.get(parameter.name, ())]
            parameters += replaced or [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(option: OptionSpec) -> inspect.Parameter:
    kind: Any = Path if option.file else _LITERAL[option.choices] if option.choices else _TYPES[option.kind]
    annotation = _ANNOTATED[kind | None, flag(option, with_default=True)]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _read(option: OptionSpec, value: Any) -> Any:
    """The value of an option, read from the file that was given where the option takes one."""
    if value is None or not option.file:
        return value
    text = _text(option, value)
    if option.kind != "object":
        return text
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{value} is not JSON: {error}", option.label) from error
    if not isinstance(parsed, dict | bool):
        raise ConfigError(f"{value} is not a JSON schema: it must hold a JSON object", option.label)
    return parsed


def _text(option: OptionSpec, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", option.label) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not text in UTF-8", option.label) from error


def by_keyword(values: Mapping[str, Any]) -> dict[str, Any]:
    """Option values by their Python keywords instead of their names."""
    keywords = {
        option.name: option.python_name for option in (*table.PROMPT, *table.SAMPLING, *table.REQUEST, *LOADING)
    }
    return {keywords[name]: value for name, value in values.items()}


def load(model: str, loading: Mapping[str, Any]) -> LocalModel:
    """Loads a model for a command that sends one request at a time, and prints the model's warnings."""
    from ...python_api import load as load_model

    loaded = load_model(model, slots=1, progress=progress.percent("loading"), **by_keyword(loading))
    for warning in loaded.info.warnings:
        print(f"galago: {warning}", file=sys.stderr)
    return loaded
