"""Turns Ollama's Modelfiles into presets, and presets into Modelfiles. What does not map is named in a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...models.errors import ConfigError, GalagoError
from ...models.gguf.reader import read_header
from ...models.modelfile import Instruction
from ...models.registry import installed
from ...models.registry.name import parse_ref
from ...models.registry.resolve import resolve
from ..prompt.named_templates import template_name
from ..types.options import REQUEST, SAMPLING, OptionSpec
from ..types.request import check_option
from .presets import LOADING_KEYS, Preset, find_preset, located

_PREFIX = "options."
_LOADING = {"num_ctx": "context", "num_thread": "threads", "num_gpu": "gpu_layers"}
_REQUEST = {
    path.removeprefix(_PREFIX): option
    for option in (*SAMPLING, *REQUEST)
    for path in option.wire.get("ollama", ())
    if path.startswith(_PREFIX)
}
PARAMETERS: Mapping[str, OptionSpec] = _REQUEST | {name: LOADING_KEYS[key] for name, key in _LOADING.items()}
"""The options that Ollama's parameters are."""

_KEYS = {name: _LOADING.get(name, option.name) for name, option in PARAMETERS.items()}
_AUTOMATIC = {"num_thread": (0,), "num_gpu": (-1,), "num_ctx": (0, -1)}
"""Values that leave the choice to Ollama."""
_OWN_TEMPLATE = "the model's own chat template is used"


class PresetValues:
    """The table of a preset while it is made from a Modelfile or a request. `warnings` name what does not map.

    `folder` is that of the Modelfile, to which paths are relative. Without one, paths are refused: a client of a server
    may not name its files.
    """

    def __init__(self, folder: Path | None) -> None:
        self.values: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._folder = folder
        self._listed: set[str] = set()

    def add_instructions(self, instructions: Sequence[Instruction]) -> None:
        """Adds what a Modelfile says. Raises `ConfigError` for a value that no parameter can have."""
        order = {"FROM": 0, "TEMPLATE": 2}  # the base first, and the template, which is compared with the base's, last
        for one in sorted(instructions, key=lambda one: order.get(one.keyword, 1)):
            match one.keyword:
                case "FROM":
                    self.add_base(one.value)
                case "SYSTEM":
                    self.values["system"] = one.value
                case "PARAMETER":
                    self.add_parameter(one.argument, one.value)
                case "MESSAGE":
                    self.add_message(one.argument, one.value)
                case "ADAPTER":
                    self._add_adapter(one.value)
                case "LICENSE":
                    self.add_license(one.value)
                case "TEMPLATE":
                    self.add_template(one.value)
                case keyword:
                    self.warnings.append(f"{keyword} {one.value:.60} is left out: it is for Ollama's own formats")

    def add_base(self, base: str) -> None:
        """Adds the base model, or all that the preset says which it is. A second one may only be a projector's file."""
        if "model" in self.values:
            self._add_projector(base)
        elif preset := find_preset(base):
            self.values |= {key: value for key, value in preset.values.items() if key != "aliases"}
        else:
            self.values["model"] = self._path("FROM", base)

    def add_parameter(self, name: str, value: Any) -> None:
        """Adds a parameter under its name in Ollama's API; `value` is a text in a Modelfile."""
        name = name.lower()
        option = PARAMETERS.get(name)
        if option is None:
            self.warnings.append(f"the parameter {name!r:.60} is left out: there is no such setting here")
            return
        key = _KEYS[name]
        if option.kind == "texts":
            self._append(key, *(value if isinstance(value, list) else [value]))
            return
        number: Any = _number(name, value, whole=option.kind == "integer")
        number = option.other_values.get(number, number)
        if number is None or number in _AUTOMATIC.get(name, ()):
            self.values.pop(key, None)
            return
        check_option(option, number, name, ConfigError)
        self.values[key] = number

    def add_message(self, role: str, content: str) -> None:
        self._append("messages", {"role": role, "content": content})

    def add_license(self, text: str) -> None:
        earlier = self.values.get("license") if "license" in self._listed else None
        self._listed.add("license")
        self.values["license"] = "\n\n".join(filter(None, (earlier, text)))

    def add_template(self, template: str) -> None:
        """Adds the built-in template of the same format, unless the model's own template has that format too."""
        if "{%" in template:
            self.values["chat_template"] = template
            return
        name = template_name(template)
        if name is None:
            self.warnings.append(f"TEMPLATE is left out: its format is not one of those built in; {_OWN_TEMPLATE}")
        elif template_name(self._own_template()) == name:
            self.values.pop("chat_template", None)
        else:
            self.values["chat_template"] = name
            if ".Tools" in template:
                self.warnings.append(f"TEMPLATE is replaced by the built-in {name}, which does not describe tools")

    def _own_template(self) -> str:
        try:
            return resolve(self.values.get("model", "")).header.chat_template or ""
        except GalagoError:
            return ""

    def _append(self, key: str, *values: Any) -> None:
        """Adds to a list. The first addition replaces the list of a preset that is the base."""
        earlier = self.values.get(key, []) if key in self._listed else []
        self._listed.add(key)
        self.values[key] = [*earlier, *values]

    def _add_projector(self, base: str) -> None:
        path = self._path("FROM", base)
        try:
            is_projector = Path(path).is_file() and read_header(Path(path)).is_projector
        except GalagoError:
            is_projector = False
        if is_projector:
            self.values["mmproj"] = path
        else:
            self.warnings.append(f"a second FROM {base:.60} is left out: it is not the file of a projector")

    def _add_adapter(self, adapter: str) -> None:
        path = self._path("ADAPTER", adapter)
        if Path(path).is_dir() or path.endswith(".safetensors"):
            self.warnings.append(
                f"ADAPTER {adapter:.60} is left out: make a GGUF file of it with galago convert, and add it with --lora"
            )
        else:
            self._append("lora", path)

    def _path(self, keyword: str, text: str) -> str:
        if self._folder is not None:
            path = self._folder / Path(text).expanduser()
            return str(path.resolve()) if path.is_dir() else located(text, self._folder.resolve())
        ref = None if keyword == "ADAPTER" else parse_ref(text)
        if ref is None or ref.kind == "path":
            raise ConfigError(
                f"{keyword} {text:.60} is a file: only galago preset create on the server's machine takes files",
                keyword.lower(),
            )
        if ref.kind != "builtin":
            installed.find(ref)  # raises an error for the name of any other file
        return str(ref)


def preset_instructions(preset: Preset) -> list[Instruction]:
    """Returns the Modelfile of a preset, as far as one can say it."""
    values = preset.values
    instructions = [Instruction("FROM", preset.model)]
    instructions += [Instruction("ADAPTER", adapter) for adapter in preset.loading.get("lora", ())]
    instructions += [Instruction("PARAMETER", value, name) for name, value in preset_parameters(preset)]
    if preset.defaults.system:
        instructions.append(Instruction("SYSTEM", preset.defaults.system))
    instructions += [Instruction("MESSAGE", text, role) for role, text in preset.defaults.messages]
    if values.get("license"):
        instructions.append(Instruction("LICENSE", values["license"]))
    return instructions


def preset_parameters(preset: Preset) -> list[tuple[str, str]]:
    """Returns the names and values of a preset's parameters in Ollama's API."""
    pairs = []
    for name, key in _KEYS.items():
        if key in preset.values:
            value = preset.values[key]
            pairs += [(name, str(one)) for one in (value if isinstance(value, list) else [value])]
    return pairs


def _number(name: str, value: Any, whole: bool) -> int | float:
    """The number that a text or number of a Modelfile means. Raises `ConfigError`."""
    try:
        number = float(value)
        return int(value if isinstance(value, int) else value if _is_digits(value) else number) if whole else number
    except (TypeError, ValueError, OverflowError):
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"the parameter {name} is {value!r:.60}; it must be {kind}", name) from None


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lstrip("+-").isdigit()
