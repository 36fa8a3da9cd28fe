"""The configuration file of a command: its options with the names of their flags, in TOML.

The options come from the command itself. What the file says becomes arguments before those of the command line, which
win over it, as the environment does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ....models.errors import ConfigError, GalagoError
from ....models.paths import config_folder
from ....models.toml_lines import line_of, read_toml
from ...environment import api_key_from_environment, limit_from_environment

CONFIG_FLAG, SHOW_FLAG = "--config", "--show-config"
_KEY_OPTIONS = ("api-key", "api-key-file")
_NOT_IN_FILES = ("config", "show-config", "help", "version")


def config_path() -> Path:
    """Returns the path of the file that is read without `--config`, which may not exist."""
    return config_folder() / "config.toml"


class ConfigFile:
    """A file's values for a command's options. Raises `ConfigError`, which names the file, the line and the key.

    `command` is the command as typer made it. Without a `path`, the user's own file is read if there is one.
    """

    def __init__(self, command: Any, path: Path | None) -> None:
        self.path = path or config_path()
        self.exists = path is not None or self.path.exists()
        self._command = command
        self._options = {name: option for option in command.params for name in _names(option)}
        self._content, self._text = read_toml(self.path, "config") if self.exists else ({}, "")
        for key, value in self._content.items():
            self._check(key, value)

    def arguments(self, given: Sequence[str]) -> list[str]:
        """Returns the arguments with those of the file first, without what `given` or the environment sets."""
        return [*(argument for values in self._used(given).values() for argument in values), *given]

    def located(self, error: GalagoError, given: Sequence[str]) -> GalagoError:
        """Returns the error with the file and the line in front, if an option that the file sets is at fault."""
        used = self._used(given)
        key = next((key for key in used if error.param in _names(self._options[key])), None)
        return error if key is None else type(error)(f"{self._place(key)}: {error.message}", error.param)

    def shown(self, given: Sequence[str]) -> Iterator[str]:
        """Yields the lines of a file that sets every option as it applies, each with where that comes from."""
        state = "" if self.exists else " (there is none)"
        yield f"# the configuration file: {self.path}{state}"
        values = self._parsed(self.arguments(given))
        typed, used = self._given_names(given), self._used(given)
        for option in self._command.params:
            name = _names(option)[0]
            if name in _NOT_IN_FILES:
                continue
            file_key = next((key for key in used if self._options[key] is option), None)
            source = "the default"
            if option.name in typed:
                source = "the command line"
            elif name == "api-key" and api_key_from_environment() is not None:
                yield f"# {name} is set  # the environment"
                continue
            elif file_key is not None:
                source = f"line {self._line(file_key)} of the file"
            yield _shown(name, values.get(option.name), source)

    def value(self, name: str) -> Any:
        """Returns what the file sets an option to; `None` if it does not."""
        return self._content.get(name)

    def _used(self, given: Sequence[str]) -> dict[str, list[str]]:
        """The arguments by keys of the file, of those that neither the command line nor the environment sets."""
        typed = self._given_names(given)
        has_key = api_key_from_environment() is not None or not typed.isdisjoint(("api_key", "api_key_file"))
        used = {}
        for key, value in self._content.items():
            if self._options[key].name in typed or (has_key and key in _KEY_OPTIONS):
                continue
            if key == "limit":
                value = [one for one in _as_list(value) if limit_from_environment(one.partition("=")[0]) is None]
            used[key] = _arguments(key, value)
        return used

    def _given_names(self, given: Sequence[str]) -> set[str]:
        """The names of the options on the command line."""
        context = self._context(given)
        sources = {option.name: context.get_parameter_source(option.name) for option in self._command.params}
        return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}

    def _parsed(self, arguments: Sequence[str]) -> Mapping[str, Any]:
        values: Mapping[str, Any] = self._context(arguments).params
        return values

    def _context(self, arguments: Sequence[str]) -> Any:
        return self._command.make_context("galago", list(arguments))

    def _check(self, key: str, value: Any) -> None:
        option = self._options.get(key)
        if option is None or key in _NOT_IN_FILES:
            import difflib

            known = [name for name in self._options if name not in _NOT_IN_FILES]
            similar = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {similar[0]}?" if similar else f"known are {', '.join(known)}"
            self._fail(key, f"there is no such option; {hint}")
        if option.is_flag:
            if not isinstance(value, bool):
                self._fail(key, "must be true or false")
            return
        for one in _as_list(value):
            if (
                isinstance(one, bool)
                or not isinstance(one, str | int | float)
                or (one is not value and not option.multiple)
            ):
                several = ", or a list of them" if option.multiple else ""
                self._fail(key, f"must be one text or number{several}; it means: {option.help}")
        try:
            self._parsed(_arguments(key, value))
        except Exception as error:
            if not hasattr(error, "message"):
                raise
            self._fail(key, str(error.message))

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise ConfigError(f"{self._place(key)}: {problem}", "config")

    def _place(self, key: str) -> str:
        return f"{self.path}, line {self._line(key)}: {key}"

    def _line(self, key: str) -> int:
        return line_of(self._text, (key,))


def config_file(command: Any, arguments: Sequence[str]) -> ConfigFile:
    """Returns the file that a command line names, or the user's own. Raises the error of a wrong command line."""
    given = command.make_context("galago", list(arguments)).params["config"]
    return ConfigFile(command, given)


def _names(option: Any) -> list[str]:
    """The names of an option in a file: its flags without dashes."""
    return [flag.removeprefix("--") for flag in option.opts if flag.startswith("--")]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _arguments(key: str, value: Any) -> list[str]:
    """The arguments that set an option. A text that begins with `~/` is a path in the home folder."""
    if isinstance(value, bool):
        return [f"--{key}"] if value else []
    return [f"--{key}={_expanded(one)}" for one in _as_list(value)]


def _expanded(value: Any) -> str:
    text = str(value)
    return str(Path(text).expanduser()) if text.startswith("~/") else text


def _shown(name: str, value: Any, source: str) -> str:
    if value is None or value in ([], ()):
        return f"# {name} is not set"
    if name == "api-key":
        return f"# {name} is set  # {source}"
    if isinstance(value, list | tuple):
        value = [str(one) for one in value]
    text = json.dumps(value if isinstance(value, bool | int | float | list) else str(value), ensure_ascii=False)
    return f"{name} = {text}  # {source}"
