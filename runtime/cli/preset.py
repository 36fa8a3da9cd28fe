"""`galago preset`: creates, shows and deletes presets."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...models.errors import ConfigError, NotFound
from ..pool.presets import LOADING_KEYS, REQUEST_KEYS
from ..types.options import PROMPT
from .ui import options, report

if TYPE_CHECKING:
    from ...models.modelfile import Instruction
    from ..pool.presets import Preset

_SYSTEM = tuple(option for option in PROMPT if option.name == "system")


class PresetAction(enum.StrEnum):
    create = "create"
    show = "show"
    rm = "rm"


@options.with_options(request=(*_SYSTEM, *REQUEST_KEYS.values()), loading=tuple(LOADING_KEYS.values()))
def preset(
    action: Annotated[PresetAction, typer.Argument(help="create a preset, show one or all, or delete one")],
    name: Annotated[str | None, typer.Argument(help="the name of the preset", metavar="NAME")] = None,
    *,
    model: Annotated[str | None, typer.Option(help="the base model: as in galago run", metavar="MODEL")] = None,
    modelfile: Annotated[
        Path | None, typer.Option("--from", help="take what an Ollama Modelfile says", metavar="MODELFILE")
    ] = None,
    request: options.OptionValues,
    loading: options.OptionValues,
    keep_alive: Annotated[
        str | None,
        typer.Option(help="how long the idle model stays loaded: 5m, 1h, 0, or -1 for always", metavar="TIME"),
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="another name of the preset; may be repeated", metavar="NAME")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace a preset of this name")] = False,
    as_json: report.Json = False,
) -> None:
    """Give a model a name with its own system prompt and settings, in models.toml in the settings folder."""
    values = {"model": model, "keep_alive": keep_alive, "aliases": alias or None}
    given: dict[str, Any] = {key: value for key, value in values.items() if value is not None} | request | loading
    if action is not PresetAction.create and (given or modelfile or replace):
        raise ConfigError(f"galago preset {action.value} takes no settings; galago preset create does", "preset")
    if action is PresetAction.show:
        _show(name, as_json)
    elif not name:
        raise ConfigError(f"give the name of the preset: galago preset {action.value} NAME", "name")
    elif action is PresetAction.rm:
        from ...models.presets import remove_table

        print(f"deleted the preset {remove_table(name)}")
    else:
        _create(name, modelfile, given, replace)


def _create(name: str, modelfile: Path | None, given: dict[str, Any], replace: bool) -> None:
    from ...models.presets import write_table
    from ..pool.modelfile_presets import PresetValues
    from ..pool.presets import check_preset, located, resolve_preset, table_values

    base = given.pop("model", None)
    if base is None and modelfile is None:
        raise ConfigError("name the base model with --model, or a Modelfile with --from", "model")
    collected = PresetValues(modelfile.parent if modelfile else Path.cwd())
    instructions = _read(modelfile) if modelfile else []
    if base is not None:
        collected.add_base(located(base, Path.cwd()))
        first = next((one for one in instructions if one.keyword == "FROM"), None)
        instructions = [one for one in instructions if one is not first]
    collected.add_instructions(instructions)
    collected.values |= table_values(given)
    resolve_preset(check_preset(name, collected.values))
    path = write_table(name, collected.values, replace)
    for warning in collected.warnings:
        print(f"galago: {report.printable_line(warning)}", file=sys.stderr)
    print(f"created the preset {name} in {path}; galago run {name} PROMPT uses it")
    if replace:
        print(f"a server that has loaded {name} uses it after galago stop {name}")


def _read(path: Path) -> list[Instruction]:
    from ...models.kept_file import read_file
    from ...models.modelfile import parse_modelfile
    from ...models.presets import MAX_FILE_BYTES

    try:
        return parse_modelfile(read_file(path.expanduser(), MAX_FILE_BYTES).decode())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ConfigError(f"{path} cannot be read: {reason}", "from") from error
    except ConfigError as error:
        raise ConfigError(f"{path}, {error.message}", "from") from error


def _show(name: str | None, as_json: bool) -> None:
    from ...models.presets import table_text
    from ..pool.presets import read_presets

    presets = read_presets()
    chosen = list(presets.presets)
    for problem in presets.problems if name is None else ():
        print(f"galago: {report.printable_line(problem)}", file=sys.stderr)
    if name is not None:
        preset = presets.find(name)
        if preset is None:
            raise NotFound(f"there is no preset {name!r:.100}; galago preset show lists them", "name")
        chosen = [preset]
    if as_json:
        report.emit_json([{"name": preset.name, **preset.values} for preset in chosen])
    elif name is not None:
        print(table_text(chosen[0].name, chosen[0].values), end="")
    elif chosen:
        print(report.wide_table(("preset", "model", "also called", "system"), [_cells(preset) for preset in chosen]))
    else:
        print("there are no presets; galago preset create NAME --model MODEL makes one")


def _cells(preset: Preset) -> tuple[str, ...]:
    system = report.printable(" ".join((preset.defaults.system or "").split()), 60)
    return preset.name, preset.model, ", ".join(preset.aliases), system
