"""Talks to the Hugging Face Hub: metadata of repositories, and the bytes of their files. The only network client.

Metadata and authentication go through huggingface-hub, so that `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` and its
other settings apply. File contents are streamed here, from any byte on. Everything the Hub sends is untrusted: names
and digests must be checked before they become paths (`cache.checked_name`).
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from ..errors import ConfigError, HubError, NotFound

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

T = TypeVar("T")

MAX_ATTEMPTS = 6
"""For a request to a busy server, and for a transfer that makes no progress."""
_MAX_CONNECT_ATTEMPTS = 3
"""For a server that cannot be reached at all."""
_MAX_FILES = 50_000
_MAX_WAIT_SECONDS = 300.0
_TIMEOUT_SECONDS = 30.0
_OFFLINE_MESSAGE = "HF_HUB_OFFLINE is set, so nothing can be downloaded; unset it and try again"
_BUSY_STATUSES = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `etag` is the SHA-256 of its content, or the git blob id (40 digits) of small files."""

    name: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository at a revision. `commit` is what the revision pointed to when the Hub was asked."""

    name: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str
    gated: bool


@dataclass(frozen=True, slots=True)
class HubSearchResult:
    """A repository that matches a search."""

    name: str
    downloads: int
    licence: str
    gated: bool


class TransientHubError(Exception):
    """A lost connection or a busy server: another attempt may succeed.

    `wait_seconds` is how long the server asks to wait.
    """

    def __init__(self, reason: str, wait_seconds: float | None = None, busy: bool = False) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        self.busy = busy


def cache_root() -> Path:
    """Returns the folder of this user's Hub cache, by the rules of huggingface-hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def fetch_repository(name: str, revision: str = "main") -> HubRepository:
    """Fetches a repository's commit, list of files and licence. Raises `NotFound` or `HubError`."""
    from huggingface_hub.hf_api import RepoFile

    def ask() -> HubRepository:
        api = _api()
        info = api.model_info(name, revision=revision, timeout=_TIMEOUT_SECONDS)
        tree = api.list_repo_tree(name, revision=info.sha, recursive=True)
        listed = list(itertools.islice(tree, _MAX_FILES + 1))
        if len(listed) > _MAX_FILES:
            raise HubError(f"{name} has more than {_MAX_FILES} files, too many for a model repository")
        files = tuple(_remote_file(file) for file in listed if isinstance(file, RepoFile))
        return HubRepository(name, revision, str(info.sha), files, _licence(info), bool(info.gated))

    return _with_retries(ask, name, revision)


def search_models(text: str, limit: int = 20) -> list[HubSearchResult]:
    """Finds repositories with GGUF files that match a text, most downloaded first. Raises `HubError`."""

    def ask() -> list[HubSearchResult]:
        models = _api().list_models(search=text, filter="gguf", sort="downloads", limit=limit)
        return [
            HubSearchResult(m.id, m.downloads or 0, _licence(m), bool(m.gated)) for m in itertools.islice(models, limit)
        ]

    return _with_retries(ask, text, "main")


def fetch_start(repository: HubRepository, name: str, size: int) -> bytes:
    """Fetches the first bytes of a file, at most `size`."""
    data = bytearray()

    def ask() -> bytes:
        while len(data) < size:
            here = len(data)
            try:
                with stream_file(repository, name, here, size) as (first, chunks):
                    del data[first:]
                    for chunk in itertools.takewhile(lambda _: len(data) < size, chunks):
                        data.extend(chunk)
                broke = TransientHubError("it sent no data")
            except TransientHubError as error:
                broke = error
            if len(data) <= here:
                raise broke
        return bytes(data[:size])

    return _with_retries(ask, repository.name, repository.revision)


@contextlib.contextmanager
def stream_file(repository: HubRepository, name: str, start: int, end: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Streams the bytes of a file from `start` to `end`. Yields their real start, 0 if the server ignores ranges, too.

    Raises `TransientHubError` if another attempt may succeed, otherwise `NotFound` or `HubError`.
    """
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    url = f"{endpoint()}/{repository.name}/resolve/{repository.commit}/{quote(name)}"
    headers = _headers() | {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
    try:
        with get_session().stream(
            "GET", url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True
        ) as response:
            if response.status_code >= 400:
                response.read()
                raise _status_error(response, repository.name, repository.revision)
            yield _range_start(response), response.iter_raw()
    except (httpx2.TransportError, httpx2.StreamError) as error:
        raise TransientHubError(_reason(error)) from error
    except OfflineModeIsEnabled:
        raise HubError(_OFFLINE_MESSAGE, "hub") from None


def retry_delay_seconds(attempt: int, requested: float | None) -> float:
    """Returns the delay after an attempt (the first is 0): what the server requested, or exponential backoff."""
    return (
        min(requested, _MAX_WAIT_SECONDS)
        if requested is not None
        else 2.0 ** min(attempt, 5) * random.uniform(0.5, 1.0)
    )


def _api() -> HfApi:
    from huggingface_hub import HfApi

    _disable_telemetry()
    return HfApi(library_name="galago")


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    _disable_telemetry()
    return build_hf_headers(library_name="galago")


def _disable_telemetry() -> None:
    """Otherwise huggingface-hub 2.4 asks the Hub for a list of agents, and reports which one it runs under."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


def _with_retries(ask: Callable[[], T], name: str, revision: str) -> T:
    """Retries while the Hub is busy or unreachable. Raises Galago's own errors for every other failure."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            return _translate_errors(ask, name, revision)
        except TransientHubError as error:
            if attempt == (MAX_ATTEMPTS if error.busy else _MAX_CONNECT_ATTEMPTS) - 1:
                raise HubError(
                    f"{endpoint()} does not answer: {error}. Check the network, or try again later", "hub"
                ) from error
            time.sleep(retry_delay_seconds(attempt, error.wait_seconds))
    raise AssertionError("not reached")


def _translate_errors(ask: Callable[[], T], name: str, revision: str) -> T:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return ask()
    except OfflineModeIsEnabled:
        raise HubError(_OFFLINE_MESSAGE, "hub") from None
    except HfHubHTTPError as error:
        raise _status_error(error.response, name, revision) from error
    except httpx2.TransportError as error:
        raise TransientHubError(_reason(error)) from error
    except HFValidationError as error:
        raise NotFound(f"{name} is not a valid repository name: {error}", "model") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise ConfigError(f"HF_ENDPOINT is {endpoint()!r}, which is not a valid URL: {error}", "hub") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise HubError(
            f"{endpoint()} sent an answer that a Hub does not send ({_reason(error)}); check HF_ENDPOINT", "hub"
        ) from error


def _status_error(response: httpx2.Response, name: str, revision: str) -> Exception:
    """Returns the error for a status of 400 or more: `TransientHubError` if the server is only busy."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    redirected = response.url.host != urlsplit(endpoint()).hostname  # to a file store, by a link that expires
    if status in _BUSY_STATUSES or (redirected and status in (401, 403)):
        return TransientHubError(f"status {status}", _requested_wait_seconds(response), busy=True)
    page = f"{endpoint()}/{name}"
    if code == "GatedRepo" or status == 403:
        return HubError(f"{name} is gated: accept its terms at {page}, then run `hf auth login` or set HF_TOKEN", "hub")
    if code == "RevisionNotFound":
        return NotFound(f"{name} has no revision {revision}; the revisions are listed at {page}", "model")
    if code == "EntryNotFound":
        return NotFound(
            f"the Hub lists a file of {name} that it does not have; the repository may be changing, pull again", "model"
        )
    if status in (401, 404):
        return NotFound(
            f"there is no repository {name} at {endpoint()}. If it is private, run `hf auth login` or set HF_TOKEN",
            "model",
        )
    return HubError(f"{endpoint()} refused the request for {name} with status {status}", "hub")


def _requested_wait_seconds(response: httpx2.Response) -> float | None:
    """Reads the seconds to wait from Retry-After or the Hub's own RateLimit header (`"api";r=0;t=55`)."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after = response.headers.get("Retry-After", "")
    if after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _range_start(response: httpx2.Response) -> int:
    if response.status_code != 206:
        return 0
    unit, _, place = response.headers.get("Content-Range", "").partition(" ")
    first = place.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        raise TransientHubError("it sent a range of a file without saying which")
    return int(first)


def _remote_file(file: Any) -> HubFile:
    return HubFile(str(file.path), int(file.size), str(file.lfs.sha256 if file.lfs else file.blob_id))


def _licence(info: Any) -> str:
    tags = [tag.removeprefix("license:") for tag in info.tags or () if str(tag).startswith("license:")]
    return tags[0] if tags else ""


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
