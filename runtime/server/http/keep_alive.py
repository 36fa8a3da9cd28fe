"""The field `keep_alive`: how long a model stays loaded after a request."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from ....models.errors import ConfigError
from ...inference.stream import Stream
from ...service import Service
from ...types.keep_alive import keep_alive_seconds
from ...types.request import Request
from ...types.warnings import Warnings
from .events import GenerateFunction


def keep_function(
    service: Service, model: str, keep_alive: float | str | None, warnings: Warnings
) -> Callable[[], None]:
    """Returns a function to call once a request has begun, which keeps the model as the request asks for.

    Warns about a value that is no duration, and about any other than "for ever" if the model always stays loaded.
    """
    try:
        seconds = None if keep_alive is None else keep_alive_seconds(keep_alive)
    except ConfigError as error:
        warnings.add_unless_strict(error.message, "keep_alive", instead="the field is ignored")
        seconds = None
    if seconds is None:
        return lambda: None
    if service.loads_on_demand:
        if seconds:  # before the work, or a model that is kept for no time would be unloaded right after it
            service.keep(model, seconds)
        return partial(service.keep, model, seconds)
    if seconds != math.inf:
        warnings.append("the field keep_alive has no effect here: the model stays loaded as long as the server runs")
    return lambda: None


def is_zero(keep_alive: float | str | None) -> bool:
    """Whether a request asks for a model to be unloaded at once."""
    try:
        return keep_alive is not None and keep_alive_seconds(keep_alive) == 0
    except ConfigError:
        return False


def generate_function(service: Service, model: str, keep_alive: float | str, warnings: Warnings) -> GenerateFunction:
    """Returns `service.generate` for a model that is kept as the request asks for."""
    keep = keep_function(service, model, keep_alive, warnings)

    def generate(request: Request, cancelled: Callable[[], bool]) -> Stream:
        stream = service.generate(model, request, cancelled)
        keep()
        return stream

    return generate
