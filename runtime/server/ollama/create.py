"""`/api/create`: makes a preset, from the fields of a request or from the text of a Modelfile."""

from __future__ import annotations

from ....models.errors import ConfigError, InvalidRequest
from ....models.modelfile import parse_modelfile
from ....models.presets import write_table
from ...pool.modelfile_presets import PresetValues
from ...pool.presets import check_preset, resolve_preset
from ...types.warnings import Warnings
from . import schema

_FILES = "this server takes no files of models: use galago import, or galago preset create --lora, on its machine"


def create_preset(name: str, request: schema.CreateRequest, warnings: Warnings) -> list[schema.Status]:
    """Writes a preset, in place of one of the same name. Returns the lines of the answer.

    Raises `InvalidRequest`, and `NotFound` if the base model is not on this machine.
    """
    for field in ("adapters", "files"):
        if getattr(request, field):
            raise InvalidRequest(f"{field}: {_FILES}", field)
    if request.quantize:
        problem = "quantize has no effect: galago quantize makes smaller variants"
        warnings.add_unless_strict(problem, "quantize", instead="the preset has the base model's weights")
    try:
        collected = _collect(request)
        for warning in collected.warnings:
            warnings.add_unless_strict(warning)
        resolve_preset(check_preset(name, collected.values))
        write_table(name, collected.values, replace=True)
    except ConfigError as error:
        raise InvalidRequest(error.message, error.param) from error
    base = collected.values["model"]
    texts = (f"using the model {base}", *warnings, "writing preset", "success")
    return [schema.Status(text) for text in texts]


def _collect(request: schema.CreateRequest) -> PresetValues:
    collected = PresetValues(None)
    instructions = parse_modelfile(request.modelfile) if request.modelfile else []
    if request.base:
        collected.add_base(request.base)
        instructions = [one for one in instructions if one.keyword != "FROM"]
    collected.add_instructions(instructions)
    if "model" not in collected.values:
        raise InvalidRequest("from is missing; give the name of the base model", "from")
    if request.system is not None:
        collected.values["system"] = request.system
    for name, value in (request.parameters or {}).items():
        collected.add_parameter(name, value)
    for message in request.messages or ():
        collected.add_message(message.role, message.content or "")
    for text in [request.license] if isinstance(request.license, str) else request.license or ():
        collected.add_license(text)
    if request.template:
        collected.add_template(request.template)
    return collected
