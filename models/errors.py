"""The exceptions that Galago raises on purpose, as one tree.

Every message says what happened, why, and what to do. The server maps each class to an HTTP status, type and code in
one table (`runtime/server/http/errors.py`); the command line prints the message and exits with 1.

    GalagoError
    ├── InvalidRequest            a field is missing, malformed or out of range
    │   ├── UnsupportedField      the field is valid in the API, but not offered here
    │   ├── MediaError            an image, video or audio file that cannot be read or exceeds a limit
    │   ├── UnsupportedModality   the model takes no images or no audio
    │   ├── PromptTooLong         the prompt does not fit into the context
    │   └── TemplateError         the model's chat template cannot be rendered within its limits
    │       └── TemplateRefusal   the model's chat template rejects the messages
    ├── Forbidden                 the Host or Origin header, or the model for this API key, is not allowed
    ├── Unauthorized              the API key is missing or wrong
    ├── RateLimited               the API key has used its requests or tokens of this minute
    ├── NotFound                  no such model, file, route or stored object
    ├── MethodNotAllowed          the route exists, but not with this method
    ├── RequestTooLarge           the request, its body or the files that it names exceed a limit
    ├── RequestTimeout            the rest of the request did not arrive in time
    ├── NotReady                  the model is still loading, or the server is busy
    │   ├── QueueFull             too many requests wait for the model
    │   └── Unloaded              the model has just been unloaded
    ├── Cancelled                 the caller disconnected before the answer was complete
    ├── ModelError                a model file that cannot be used
    │   └── GGUFError             the header of a GGUF file is malformed
    ├── HubError                  the Hub is unreachable, refuses, or sends something invalid
    ├── ConfigError               a setting contradicts another one or the machine
    ├── EngineError               llama.cpp failed while computing
    │   └── EngineCrashed         the process of the model ended before the answer was complete
    └── DeadlineExceeded          the answer took longer than the request allows
"""

from __future__ import annotations

from collections.abc import Sequence


class GalagoError(Exception):
    """Base class of all errors.

    `param` names the field, file or option that caused it, if there is one. `items` are what the `summary` is about:
    the message has both, and the command line prints one item per line.
    """

    def __init__(self, message: str, param: str | None = None, items: Sequence[str] = ()) -> None:
        self.summary = message
        self.items = tuple(items)
        self.message = f"{message}: {'; '.join(items)}" if items else message
        self.param = param
        super().__init__(self.message)


class InvalidRequest(GalagoError):
    """A field of the request is missing, malformed or out of range. Correct the field that `param` names."""


class UnsupportedField(InvalidRequest):
    """The request uses a field or value of the API that Galago does not offer. Leave it out or change it."""


class MediaError(InvalidRequest):
    """An image, video or audio file cannot be read, or exceeds a limit. Send another format or a smaller file."""


class UnsupportedModality(InvalidRequest):
    """The request contains images or audio, and the model takes none. Load a projector or another model."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit into the context. Shorten it, or load the model with a larger context."""


class TemplateError(InvalidRequest):
    """The model's chat template cannot be rendered within its limits. Use another with `--chat-template`."""


class TemplateRefusal(TemplateError):
    """The model's chat template rejects the messages, such as two user turns in a row. Rearrange the messages."""


class Forbidden(GalagoError):
    """The server does not answer this Host or Origin, or not with this model. Allow it in the server's settings."""


class Unauthorized(GalagoError):
    """The API key is missing or wrong. Send a key that `galago serve` was started with."""


class RateLimited(GalagoError):
    """The API key has used its requests or tokens of this minute. Try again after `retry_after_seconds`."""

    def __init__(self, message: str, param: str | None = None, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message, param)
        self.retry_after_seconds = retry_after_seconds


class NotFound(GalagoError):
    """The model, file, route or stored object does not exist. The message names near matches or how to get it."""


class MethodNotAllowed(GalagoError):
    """The route exists, but not with this HTTP method."""


class RequestTooLarge(GalagoError):
    """The request, its body or the files that it names exceed a limit. Send less, or raise the limit."""


class RequestTimeout(GalagoError):
    """The rest of the request did not arrive in time. Send it again."""


class NotReady(GalagoError):
    """The model is still loading, or the server is busy. Try again later."""


class QueueFull(NotReady):
    """Too many requests wait for the model. Try again later, or raise `--queue`."""


class Unloaded(NotReady):
    """The model was unloaded before it took the request. A server that may load it again does so."""


class Cancelled(GalagoError):
    """The caller disconnected or cancelled before the answer was complete."""


class ModelError(GalagoError):
    """A model file is damaged, incomplete, unsupported or does not match the others. Pull it again or use another."""


class GGUFError(ModelError):
    """The header of a GGUF file is malformed, or the file is not a GGUF file. Download or convert it again."""


class HubError(GalagoError):
    """The Hub is unreachable, refuses access, or sends something invalid. Check the network and token, then retry."""


class ConfigError(GalagoError):
    """A setting contradicts another one or what the machine can do. Change the setting that `param` names."""


class EngineError(GalagoError):
    """llama.cpp failed while computing. `galago doctor` checks the machine and the build."""


class EngineCrashed(EngineError):
    """The process of the model ended before the answer was complete. It is restarted; send the request again."""


class DeadlineExceeded(GalagoError):
    """The answer took longer than the request allows. Allow more time, or ask for fewer tokens."""
