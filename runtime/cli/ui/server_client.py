"""Sends requests to a running `galago serve`."""

from __future__ import annotations

import http.client
import json
from typing import Annotated, Any

import typer

from ....models.errors import ConfigError, GalagoError, NotFound, NotReady
from ...environment import api_key_from_environment

ServerHost = Annotated[str, typer.Option(help="address of the server", metavar="HOST")]
ServerPort = Annotated[int, typer.Option(help="port of the server", metavar="PORT")]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080


def send(
    host: str, port: int, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = 5
) -> bytes:
    """Returns the body of a successful response. Raises `NotReady`, `NotFound`, `ConfigError` or `GalagoError`."""
    key = api_key_from_environment()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, headers | {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException):
        raise NotReady(f"no server answers at {host}:{port}; start one with galago serve") from None
    finally:
        connection.close()
    if response.status == 200:
        return answer
    if response.status == 401:
        raise ConfigError("the server needs an API key: set GALAGO_API_KEY to it", "api-key")
    message = _error_message(answer)
    if message is None:
        raise NotReady(f"the server at {host}:{port} is not ready (HTTP status {response.status})")
    raise (NotFound if response.status == 404 else GalagoError)(message)


def _error_message(answer: bytes) -> str | None:
    """The message of an error in OpenAI's format."""
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return None
