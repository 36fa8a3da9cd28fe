"""The one tree of exceptions that Galago raises on purpose.

Knows what can go wrong, in words a user can act on. Does not know how an error travels: the HTTP status of each
class stands in `runtime/server/http/errors.py`, the exit code in `runtime/cli`.

    GalagoError
    ├── InvalidRequest          a field is missing, malformed or out of range
    │   ├── UnsupportedField    understood, and not offered here
    │   ├── MediaError          a picture or sound that cannot be read, or is larger than the limits
    │   ├── SenseMissing        the model has no eyes or no ears
    │   ├── PromptTooLong       the prompt does not fit the context
    │   └── TemplateError       the model's chat template refuses these messages
    ├── Forbidden               a Host or Origin this server does not answer
    ├── Unauthorized            the API key is missing or wrong
    ├── NotFound                no such route or model
    ├── MethodNotAllowed        the route exists, the method does not
    ├── TooLarge                the request body is larger than the limit
    ├── NotReady                the model is still loading, or the queue is full
    ├── Cancelled               the caller went away before there was an answer
    ├── ModelError              a weight file that cannot be used
    │   └── GGUFError           its header is malformed
    ├── HubError                the Hub does not answer, refuses, or sends what it should not
    ├── ConfigError             a setting that contradicts another or the machine
    ├── EngineError             llama.cpp failed while computing
    │   └── EngineCrashed       its process ended before the answer did
    └── DeadlineExceeded        the answer took longer than its request allows
"""

from __future__ import annotations


class GalagoError(Exception):
    """Base of all. `param` names the field, file or option at fault, where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(GalagoError):
    pass


class UnsupportedField(InvalidRequest):
    pass


class MediaError(InvalidRequest):
    pass


class SenseMissing(InvalidRequest):
    pass


class PromptTooLong(InvalidRequest):
    pass


class TemplateError(InvalidRequest):
    pass


class Forbidden(GalagoError):
    pass


class Unauthorized(GalagoError):
    pass


class NotFound(GalagoError):
    pass


class MethodNotAllowed(GalagoError):
    pass


class TooLarge(GalagoError):
    pass


class NotReady(GalagoError):
    pass


class Cancelled(GalagoError):
    pass


class ModelError(GalagoError):
    pass


class GGUFError(ModelError):
    pass


class HubError(GalagoError):
    pass


class ConfigError(GalagoError):
    pass


class EngineError(GalagoError):
    pass


class EngineCrashed(EngineError):
    pass


class DeadlineExceeded(GalagoError):
    pass
