"""The server that is attacked, and ways to send it requests and half-requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import uuid
from typing import Any

TIMEOUT_SECONDS = 15

CHAT = "/v1/chat/completions"


class Target:
    """A server on this machine, which is attacked for some seconds."""

    def __init__(self, port: int, seconds: float = 0) -> None:
        self.port = port
        self._end = time.monotonic() + seconds
        self._files: dict[str, str] = {}
        self._lock = threading.Lock()

    def ended(self) -> bool:
        return time.monotonic() > self._end

    def hold(self) -> None:
        """Waits until the time is up."""
        time.sleep(max(0.0, self._end - time.monotonic()))

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """The status and the body of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"content-type": "application/json"} | given)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> int:
        """The status of a response to a JSON body."""
        return self.send("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())[0]

    def chat(self, *parts: dict[str, Any], **fields: Any) -> int:
        """The status of a chat whose only message has these parts."""
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "Hello"}]}]
        return self.post(CHAT, {"messages": messages, "max_tokens": 4, **fields})

    def file(self, name: str, content: bytes) -> str:
        """The id of a file with this content, which is uploaded once for each name."""
        with self._lock:
            if name not in self._files:
                edge = uuid.uuid4().hex
                parts = [f'--{edge}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'.encode()]
                named = f'content-disposition: form-data; name="file"; filename="{name}"'
                parts += [f"--{edge}\r\n{named}\r\n\r\n".encode(), content, f"\r\n--{edge}--\r\n".encode()]
                kind = f"multipart/form-data; boundary={edge}"
                status, answer = self.send("POST", "/v1/files", b"".join(parts), content_type=kind)
                if status != 200:
                    raise ConnectionError(f"the upload failed with {status}: {answer!r:.200}")
                self._files[name] = json.loads(answer)["id"]
            return self._files[name]

    def open(self, sent: bytes = b"") -> socket.socket:
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_SECONDS)
        connection.sendall(sent)
        return connection

    def wait_for_answer(self) -> None:
        """Returns when the server has answered a chat, which takes long on a busy machine."""
        for _ in range(10):
            with contextlib.suppress(TimeoutError):
                if self.chat() == 200:
                    return
            time.sleep(0.05)
        raise SystemExit("the server answers no chat")


def head(path: str = CHAT, *headers: str, method: str = "POST") -> bytes:
    """The head of a request without the empty line that ends it."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "content-type: application/json", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode()


def status_of(connection: socket.socket) -> int | str:
    """The status in the response on a connection, or "closed"."""
    try:
        first = connection.recv(1000)
    except OSError:
        return "closed"
    return int(first.split()[1]) if first.startswith(b"HTTP/1.") else "closed"
