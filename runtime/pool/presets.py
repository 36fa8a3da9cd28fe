"""Presets: models under names of their own, with other settings. Finds them, checks them, and resolves any model name.

Every way to load a model goes through `resolve_model`. The keys of a preset are the options' names on the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...models.errors import ConfigError, GalagoError
from ...models.files import ModelFiles
from ...models.log import log_once
from ...models.paths import presets_path
from ...models.presets import PresetTable, plain_name, read_tables
from ...models.registry.installed import InstalledModel
from ...models.registry.name import ModelRef, is_builtin
from ...models.registry.resolve import resolve
from ..config import ModelConfig, RequestDefaults
from ..types.keep_alive import keep_alive_seconds
from ..types.load_options import LOADING, SETTINGS
from ..types.messages import Message, Role
from ..types.options import REQUEST, SAMPLING, OptionSpec
from ..types.request import Request, Sampling, check_option, option_value

_SERVER_ONLY = ("cache_folder", "cache_disk_mib", "queue", "hang_limit")
LOADING_KEYS = {o.label.replace("-", "_"): o for o in LOADING if o.name not in _SERVER_ONLY}
REQUEST_KEYS = {o.name: o for o in (*SAMPLING, *REQUEST) if o in SAMPLING or o.name in ("max_tokens", "stop")}
OWN_KEYS = ("model", "system", "messages", "keep_alive", "aliases", "license")
KEYS = (*OWN_KEYS, *LOADING_KEYS, *REQUEST_KEYS)

_KIND_NAMES = {
    "number": "a number", "integer": "a whole number", "text": "a text", "texts": "a list of texts", "path": "a path",
    "size": 'a text such as "4GB" or "50%"', "token_biases": "a table of token ids and numbers",
}  # fmt: skip
_MAX_MESSAGES = 64


@dataclass(frozen=True, slots=True)
class Preset:
    """A checked preset.

    `model` is the base model's name or path. `loading` has the given loading options by their names in the table.
    `keep_alive` is in seconds, `math.inf` to keep the model loaded; `None` if the preset does not say.
    """

    name: str
    model: str
    loading: Mapping[str, Any]
    defaults: RequestDefaults
    keep_alive: float | None
    aliases: tuple[str, ...]
    values: Mapping[str, Any]
    """As they stand in the file."""


class Presets(NamedTuple):
    """The user's presets, and what is wrong with their file, one text each."""

    presets: tuple[Preset, ...]
    problems: tuple[str, ...]
    broken: Mapping[str, str]
    """The reason why a preset was left out, by its name in the form of `plain_name`."""

    def find(self, name: str) -> Preset | None:
        """Returns the preset with a name or alias, in any spelling. Raises `ConfigError` if it is broken."""
        plain = plain_name(name)
        preset = next((p for p in self.presets if plain in map(plain_name, (p.name, *p.aliases))), None)
        if preset is None and plain in self.broken:
            raise ConfigError(f"the preset {name!r} has an error: {presets_path()}, {self.broken[plain]}", "model")
        return preset


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What a model's name means. `keep_alive` and `aliases` are those of the preset, if it is one."""

    files: ModelFiles
    config: ModelConfig
    keep_alive: float | None = None
    aliases: tuple[str, ...] = ()


def read_presets() -> Presets:
    """Reads the user's presets. What is wrong costs the preset that it is in, and is named with its line and key."""
    tables = read_tables()
    presets, problems, broken = [], list(tables.problems), dict(tables.broken)
    for table in tables.tables:
        try:
            presets.append(_preset(table))
        except _WrongValue as wrong:
            text = f"line {table.line_of(*wrong.keys)}: {wrong}"
            broken[plain_name(table.name)] = text
            problems.append(f"{presets_path()}, {text}; the preset {table.name!r} is left out")
    return Presets(tuple(presets), tuple(problems), broken)


def find_preset(name: str) -> Preset | None:
    """Returns the preset with a name or alias; `None` if there is none. Logs each problem of the file once."""
    if is_builtin(name):
        return None
    presets = read_presets()
    for problem in presets.problems:
        log_once(problem)
    return presets.find(name)


def check_preset(name: str, values: Mapping[str, Any]) -> Preset:
    """Returns the preset that the values of a table make. Raises `ConfigError`."""
    try:
        return _preset(PresetTable(name, values, tuple(values.get("aliases", ())), ""))
    except _WrongValue as wrong:
        raise ConfigError(str(wrong), wrong.keys[0] if wrong.keys else "name") from wrong


def resolve_model(model: str | Path, given: Mapping[str, Any], name: str | None = None) -> ResolvedModel:
    """Finds a model's files and makes its settings: those of its preset if it is one, under those `given`.

    `given` are loading options by their names in the table. `name` is the model's name in the API, by default that of
    the preset or of the model. Raises `GalagoError`.
    """
    preset = find_preset(model) if isinstance(model, str) else None
    if preset is not None:
        return resolve_preset(preset, given, name)
    return ResolvedModel(_files(model, given, name), ModelConfig(**model_settings(given)))


def resolve_preset(preset: Preset, given: Mapping[str, Any] | None = None, name: str | None = None) -> ResolvedModel:
    """Does the same for a preset."""
    options = {**preset.loading, **(given or {})}
    try:
        files = _files(preset.model, options, name or preset.name)
        config = ModelConfig(**model_settings(options), request_defaults=preset.defaults)
    except GalagoError as error:
        raise type(error)(f"the preset {preset.name!r}: {error.message}", error.param) from error
    return ResolvedModel(files, config, preset.keep_alive, preset.aliases)


def _files(model: str | Path, options: Mapping[str, Any], name: str | None) -> ModelFiles:
    return resolve(model, options.get("mmproj"), name, options.get("lora") or (), options.get("draft"))


def table_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of the command line, by their names in the tables, as the values of a preset.

    Files get absolute paths.
    """
    keys = {o.name: key for key, o in (*LOADING_KEYS.items(), *REQUEST_KEYS.items())}
    values = {}
    for name, value in options.items():
        if name in ("mmproj", "draft", "chat_template"):
            value = located(str(value), Path.cwd())
        elif name == "lora":
            value = [located_adapter(adapter, Path.cwd()) for adapter in value]
        values[keys.get(name, name)] = value
    return values


def preset_files(preset: Preset) -> InstalledModel:
    """Returns the files of a preset's model under the preset's name. Raises `GalagoError` if there are none."""
    files = resolve(preset.model, preset.loading.get("mmproj"))
    return InstalledModel(ModelRef("name", preset.name), files.parts, files.projector, f"preset of {preset.model}")


def model_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `ModelConfig` among loading options."""
    settings = {o.name: options[o.name] for o in SETTINGS if options.get(o.name) is not None}
    if "memory" in settings:
        from ...models.device import parse_memory_size, this_machine

        settings["memory"] = parse_memory_size(settings["memory"], this_machine().total_memory_bytes)
    if "chat_template" in settings:
        from ..prompt.named_templates import template_source

        settings["chat_template"] = template_source(settings["chat_template"])
    return settings


class _WrongValue(ValueError):
    """What is wrong with a value; `keys` leads to it."""

    def __init__(self, text: str, *keys: str) -> None:
        super().__init__(text)
        self.keys = keys


def _preset(table: PresetTable) -> Preset:
    values = table.values
    for key in values:
        if key not in KEYS:
            similar = difflib.get_close_matches(key, KEYS, 1)
            hint = f"did you mean {similar[0]}?" if similar else "galago preset create --help lists what there is"
            raise _WrongValue(f"{key} is not known here; {hint}", key)
    loading = {o.name: _checked(key, o, values[key]) for key, o in LOADING_KEYS.items() if key in values}
    folder = presets_path().parent
    for name in ("mmproj", "draft", "chat_template"):
        if name in loading:
            loading[name] = located(loading[name], folder)
    if "lora" in loading:
        loading["lora"] = [located_adapter(adapter, folder) for adapter in loading["lora"]]
    keep_alive = None
    if "keep_alive" in values:
        keep_alive = _try(("keep_alive",), lambda: keep_alive_seconds(values["keep_alive"]))
    return Preset(
        table.name, located(values["model"], folder), loading, _defaults(values), keep_alive, table.aliases, values
    )


def _defaults(values: Mapping[str, Any]) -> RequestDefaults:
    given = {o.name: _checked(key, o, values[key]) for key, o in REQUEST_KEYS.items() if key in values}
    system = values.get("system")
    if system is not None and not isinstance(system, str):
        raise _WrongValue(f"system is {system!r:.60}; it must be a text", "system")
    sampling = Sampling(**{o.name: given[o.name] for o in SAMPLING if o.name in given})
    if not isinstance(values.get("license", ""), str):
        raise _WrongValue("license must be a text", "license")
    return RequestDefaults(
        system or None, _messages(values), sampling, given.get("max_tokens"), tuple(given.get("stop", ()))
    )


def _messages(values: Mapping[str, Any]) -> tuple[tuple[Role, str], ...]:
    messages = values.get("messages", [])
    if not isinstance(messages, list) or len(messages) > _MAX_MESSAGES:
        raise _WrongValue(f"messages must be a list of at most {_MAX_MESSAGES} tables", "messages")
    pairs: list[tuple[Role, str]] = []
    for message in messages:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise _WrongValue(
                'messages: each is a table with a role ("system", "user" or "assistant") and a text as content',
                "messages",
            )
        pairs.append((role, content))
    return tuple(pairs)


def _checked(key: str, option: OptionSpec, value: Any) -> Any:
    """The value of an option in the form that the command line gives. Raises `_WrongValue`."""
    if not _has_kind(option, value):
        raise _WrongValue(f"{key} is {value!r:.60}; it must be {_KIND_NAMES[option.kind]}", key)
    if option.choices and value not in option.choices:
        raise _WrongValue(f"{key} is {value!r:.60}; use {', '.join(option.choices)}", key)
    if option.bounds is not None:
        _try((key,), lambda: check_option(option, value, key, ConfigError))
    if option.kind == "token_biases":
        biases = _try((key,), lambda: option_value(option, value))
        _try((key,), lambda: Sampling(logit_bias=biases))
        return biases
    if option.name == "stop":
        texts = [value] if isinstance(value, str) else value
        _try((key,), lambda: Request((Message("user", ()),), stop=tuple(texts)))
        return texts
    if option.name == "memory":
        _try((key,), lambda: model_settings({"memory": value}))
    return [value] if option.kind == "texts" and isinstance(value, str) else value


def _has_kind(option: OptionSpec, value: Any) -> bool:
    match option.kind:
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "texts":
            return isinstance(value, str) or (isinstance(value, list) and all(isinstance(t, str) for t in value))
        case "token_biases":
            return isinstance(value, dict)
    return isinstance(value, str) and value != ""


def _try(keys: tuple[str, ...], check: Any) -> Any:
    try:
        return check()
    except GalagoError as error:
        raise _WrongValue(error.message, *keys) from error


def located(name_or_path: str, folder: Path) -> str:
    """Returns the path of a file in `folder` if there is one; any other text is a name, and returned as it is."""
    path = folder / Path(name_or_path).expanduser()
    return str(path) if path.is_file() else name_or_path


def located_adapter(adapter: str, folder: Path) -> str:
    """Returns an adapter (FILE[:SCALE]) with the path of the file in `folder`, if there is one."""
    path, colon, scale = adapter.rpartition(":")
    if not colon or (folder / Path(adapter).expanduser()).is_file():
        return located(adapter, folder)
    return f"{located(path, folder)}:{scale}"
