"""A local HTTP server that behaves like the Hugging Face Hub, with faults that tests inject.

Serves model info, file trees in pages, search, and files by HEAD and GET, with redirects to another host name, ranges,
gated repositories and tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit


@dataclass
class Fault:
    """A fault in the next `times` requests for a file's content.

    `status`: answer with this status and `headers` instead of the content.
    `cut`: close the connection after this many bytes.
    `short`: claim that the file has only this many bytes.
    `extra`: append these bytes.
    `damage`: change one byte.
    `whole`: ignore range requests.
    `pace`: called before each chunk with the number of bytes sent.
    """

    times: int = 1_000_000
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    short: int | None = None
    extra: bytes = b""
    damage: bool = False
    whole: bool = False
    pace: Callable[[int], None] | None = None


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    licence: str = "apache-2.0"
    names: dict[str, str] = field(default_factory=dict)
    """Names that the tree lists instead of the real ones."""
    digests: dict[str, str] = field(default_factory=dict)


class LocalHub:
    """The server and its repositories.

    `page_files` is the number of files on a page of a tree: few, so that every listing has several pages.
    `refusals` has the status and headers of the answer to requests with an Authorization header, or without (None).
    `redirects` has the addresses that paths lead to, `bodies` headers and content to send for them instead of the right
    ones. `log` has (method, path, first byte requested) of every request. `sent` counts the bytes sent by digest,
    without requests for the start of a file only. `leaked` has the requests that sent a token to another host.
    """

    token = "hf_right"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.page_files = 2
        self.next_page_host = ""
        self.faults: dict[str, Fault] = {}
        self.api_faults: list[Fault] = []
        self.refusals: dict[str | None, tuple[int, dict[str, str]]] = {}
        self.redirects: dict[str, str] = {}
        self.bodies: dict[str, tuple[dict[str, str], Iterator[bytes]]] = {}
        self.log: list[tuple[str, str, int]] = []
        self.sent: dict[str, int] = {}
        self.leaked: list[str] = []
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.other = self.url.replace("127.0.0.1", "localhost")

    def put(self, name: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Commits files to a repository and returns the commit."""
        repo = self.repos.setdefault(name, Repo())
        content = json.dumps([(path, digest(data)) for path, data in sorted(files.items())])
        commit = hashlib.sha1(content.encode()).hexdigest()
        repo.commits[commit] = files
        repo.revisions[revision] = commit
        return commit

    def spelling(self, name: str) -> str:
        """Returns the name of a repository as it was created; upper and lower case are not distinguished."""
        return next((own for own in self.repos if own.lower() == name.lower()), name)

    def fault(self, data: bytes, **what: Any) -> Fault:
        self.faults[digest(data)] = Fault(**what)
        return self.faults[digest(data)]

    def bytes_of(self, sha: str) -> bytes | None:
        for repo in self.repos.values():
            for files in repo.commits.values():
                for data in files.values():
                    if digest(data) == sha:
                        return data
        return None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def running() -> Iterator[LocalHub]:
    hub = LocalHub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect, which is part of the tests."""


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_CONNECT(self) -> None:
            self._answer(hub.refusals[None][0], None)

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            first = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
            with hub.lock:
                hub.log.append((self.command, path, first))
            try:
                self._route(path, first)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _route(self, path: str, first: int) -> None:
            if (refusal := hub.refusals.get(self.headers.get("Authorization"))) is not None:
                self._answer(refusal[0], {}, refusal[1])
            elif path in hub.redirects:
                self._answer(302, None, {"Location": hub.redirects[path]})
            elif path in hub.bodies:
                self._stream(*hub.bodies[path])
            elif path.startswith("/cdn/"):
                self._bytes(path.rpartition("/")[2], first)
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
                self._api(found[1], found[2] or "revision", unquote(found[3] or "main"))
            elif path == "/api/models":
                self._search()
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(found[1], unquote(found[2]), unquote(found[3]))
            else:
                self._answer(404, {})

        def _repo(self, name: str, revision: str, contents: bool) -> tuple[Repo, str] | None:
            """Returns the repository and commit, or answers with an error and returns `None`."""
            repo = hub.repos.get(hub.spelling(name))
            known = self.headers.get("Authorization") == f"Bearer {hub.token}"
            if repo is None or (repo.private and not known):
                self._answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            elif repo.gated and contents and not known:
                self._answer(401, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
            elif (commit := repo.revisions.get(revision, revision)) not in repo.commits:
                self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            else:
                return repo, commit
            return None

        def _api(self, name: str, kind: str, revision: str) -> None:
            if hub.api_faults:
                fault = hub.api_faults.pop(0)
                self._answer(fault.status, {}, fault.headers)
                return
            if (found := self._repo(name, revision, contents=False)) is None:
                return
            repo, commit = found
            if kind == "revision":
                info = {
                    "id": hub.spelling(name),
                    "sha": commit,
                    "private": repo.private,
                    "gated": "auto" if repo.gated else False,
                }
                self._answer(200, info | {"tags": ["gguf", f"license:{repo.licence}"], "siblings": [], "downloads": 3})
                return
            start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
            files = sorted(repo.commits[commit].items())
            rows = [self._row(repo, *item) for item in files[start : start + hub.page_files]]
            more = {}
            if start + hub.page_files < len(files):
                next_page = (
                    f"{hub.url}/api/models/{name}/tree/{revision}?recursive=true&cursor={start + hub.page_files}"
                )
                more["Link"] = f'<{next_page}>; rel="next"'
            self._answer(200, rows, more)

        def _row(self, repo: Repo, path: str, data: bytes) -> dict[str, Any]:
            row = {"type": "file", "path": repo.names.get(path, path), "size": len(data)}
            row["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if not path.endswith((".md", ".json")):
                sha = repo.digests.get(path, digest(data))
                row["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 134}
            return row

        def _search(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            text = query.get("search", [""])[0].lower()
            rows = [
                {"id": name, "sha": "0" * 40, "private": False, "gated": repo.gated, "downloads": 7, "tags": ["gguf"]}
                for name, repo in hub.repos.items()
                if text in name.lower()
            ]
            self._answer(200, rows)

        def _resolve(self, name: str, revision: str, path: str) -> None:
            if (found := self._repo(name, revision, contents=True)) is None:
                return
            repo, commit = found
            data = repo.commits[commit].get(path)
            if data is None:
                self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                return
            headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{digest(data)}"', "X-Linked-Size": str(len(data))}
            self._answer(302, None, headers | {"Location": f"{hub.other}/cdn/{quote(name)}/{digest(data)}"})

        def _bytes(self, sha: str, first: int) -> None:
            data = hub.bytes_of(sha)
            if self.headers.get("Authorization"):
                hub.leaked.append(self.path)
            if data is None:
                self._answer(404, {})
                return
            fault = hub.faults.get(sha, Fault(0))
            fault = fault if fault.times > 0 else Fault(0)
            fault.times -= 1
            if fault.status:
                self._answer(fault.status, {}, fault.headers)
                return
            self._send(sha, data, 0 if fault.whole else first, fault)

        def _send(self, sha: str, data: bytes, first: int, fault: Fault) -> None:
            asked = re.match(r"bytes=\d+-(\d+)", self.headers.get("Range", ""))
            end = len(data) if asked is None or fault.whole else min(int(asked[1]) + 1, len(data))
            if fault.damage:
                data = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
            body = data[first:end] + fault.extra
            if fault.short is not None:
                body = body[: fault.short]
            partial = asked is not None and not fault.whole
            self.send_response(206 if partial else 200)
            self.send_header("ETag", f'"{sha}"')
            self.send_header("Content-Length", str(len(body)))
            if partial:
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            stop = len(body) if fault.cut is None else min(fault.cut, len(body))
            for at in range(0, stop, 1 << 16):
                if fault.pace:
                    fault.pace(first + at)
                piece = body[at : min(at + (1 << 16), stop)]
                self.wfile.write(piece)
                with hub.lock:
                    if end < len(data):
                        continue  # a request for the start of the file
                    hub.sent[sha] = hub.sent.get(sha, 0) + len(piece)
            if stop < len(body):
                self.wfile.flush()
                self.close_connection = True

        def _stream(self, headers: dict[str, str], chunks: Iterator[bytes]) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
            for chunk in chunks:
                self.wfile.write(chunk)

        def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


def waited(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits until a condition holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)
