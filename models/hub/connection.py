"""Requests to the Hugging Face Hub: redirects, retries, limits and errors. Nothing else in Galago opens a connection,
except `galago ps` to a running server.

Authentication and settings are huggingface-hub's: `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` and others apply. Servers
are untrusted: only redirects to the endpoint or to public hosts are followed; metadata and waits have limits.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from .. import units
from ..errors import ConfigError, HubError, NotFound
from ..log import log
from . import credentials
from .credentials import RefusedToken
from .proxies import ProxySetting, client_for, proxy_for

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

MAX_ATTEMPTS = 6
"""Attempts for a request to a busy server, and for a transfer that makes no progress."""
_MAX_CONNECT_ATTEMPTS = 3
"""Attempts for a server that cannot be reached at all."""
MAX_REDIRECTS = 8
MAX_METADATA_BYTES = 32 << 20
"""Size of all answers about one repository, or to one search."""
MAX_WAIT_SECONDS = 120.0
"""A request fails if the Hub asks to wait longer than this."""
_METADATA_SECONDS = 120.0
"""Time limit for one answer with metadata."""
_TIMEOUT_SECONDS = 30.0
_ANNOUNCED_FROM_SECONDS = 3.0
_BUSY_STATUSES = (408, 429, 500, 502, 503, 504)


class TransientHubError(Exception):
    """A lost connection or a busy server: another attempt may succeed.

    `wait_seconds` is how long the server asks to wait. `proxy` is the proxy that does not answer, if it is one.
    """

    def __init__(
        self, reason: str, wait_seconds: float | None = None, busy: bool = False, proxy: ProxySetting | None = None
    ) -> None:
        super().__init__(f"{proxy} {reason}" if proxy else reason)
        self.wait_seconds = wait_seconds
        self.busy = busy
        self.proxy = proxy


def cache_root() -> Path:
    """Returns the folder of this user's Hub cache, by the rules of huggingface-hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def check_repository_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise NotFound(f"{name} is not a valid repository name: {error}", "model") from error


@contextlib.contextmanager
def open_url(
    url: str,
    name: str,
    revision: str,
    headers: dict[str, str] | None = None,
    params: dict[str, Any] | None = None,
    if_missing: str = "",
) -> Iterator[httpx2.Response]:
    """Requests an address of a repository or a search, `name`, and follows redirects.

    `if_missing` is the message of the error for a file of the repository that is not there.

    Raises `TransientHubError` if another attempt may succeed, otherwise `NotFound`, `HubError` or `ConfigError`.
    """
    import httpx2

    if is_offline():
        raise offline_error()
    proxy, refused = proxy_for(url), None
    try:
        request = client_for(proxy).build_request(
            "GET", url, params=params, headers=_headers(url) | (headers or {}), timeout=_TIMEOUT_SECONDS
        )
        for _ in range(MAX_REDIRECTS + 1):
            proxy = proxy_for(str(request.url))
            response = client_for(proxy).send(request, stream=True, follow_redirects=False)
            with contextlib.closing(response):
                if response.next_request is None:
                    status, answer = response.status_code, response.headers
                    if refused is None and (refused := credentials.take_refused(request.headers, status, answer)):
                        continue  # without the token
                    if status >= 400:
                        if if_missing and status == 404 and answer.get("X-Error-Code", "") in ("", "EntryNotFound"):
                            raise NotFound(if_missing, "model")
                        raise _status_error(response, name, revision, refused, proxy)
                    if refused is not None:
                        credentials.remember_refused(refused)
                    yield response
                    return
            request = response.next_request  # without the token if it leads to another host
            check_target(str(request.url))
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise ConfigError(f"HF_ENDPOINT is {endpoint()!r}, which is not a valid URL: {error}", "hub") from error
    except (httpx2.TransportError, httpx2.StreamError) as error:
        raise _transport_error(error, proxy) from error
    raise HubError(
        f"{endpoint()} redirects a request for {name} more than {MAX_REDIRECTS} times; check HF_ENDPOINT", "hub"
    )


def is_offline() -> bool:
    """Whether the user forbids all network access."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def offline_error() -> HubError:
    return HubError("HF_HUB_OFFLINE is set, so nothing can be downloaded; unset it and try again", "hub")


def _transport_error(error: httpx2.TransportError | httpx2.StreamError, proxy: ProxySetting | None) -> Exception:
    """Returns the error for a request that failed. Names the proxy if the Hub was not reached through it."""
    import httpx2

    reason = _reason(error)
    if proxy and isinstance(error, httpx2.ProxyError):
        if reason.startswith("407"):
            return proxy.needs_password()
        return TransientHubError(f"does not reach {endpoint()}: {reason}", proxy=proxy)
    if proxy and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return TransientHubError(f"does not answer: {reason}", proxy=proxy)
    return TransientHubError(reason)


class MetadataReader:
    """Reads JSON about one repository, or the results of one search, up to `MAX_METADATA_BYTES` in all."""

    def __init__(self, name: str, revision: str = "main") -> None:
        self._name = name
        self._revision = revision
        self._bytes_left = MAX_METADATA_BYTES

    def get(self, url: str, params: dict[str, Any] | None = None) -> tuple[Any, str | None]:
        """Returns the JSON at an address, and the address of the next page if there is one."""
        identity = {"Accept-Encoding": "identity"}  # a compressed answer may expand a thousandfold
        with open_url(url, self._name, self._revision, identity, params) as response:
            data = self._read(response)
            following = response.links.get("next", {}).get("url")
        if following is not None:
            following = _on_endpoint(following)
            check_target(following)
        return json.loads(data), following

    def _read(self, response: httpx2.Response) -> bytes:
        data = bytearray()
        deadline = time.monotonic() + _METADATA_SECONDS
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > self._bytes_left:
                limit = units.format_bytes(MAX_METADATA_BYTES)
                raise HubError(f"{endpoint()} sends more than {limit} about {self._name}, too much for a model", "hub")
            if time.monotonic() > deadline:
                raise TransientHubError("its answer does not end")
        self._bytes_left -= len(data)
        return bytes(data)


def _on_endpoint(url: str) -> str:
    """Returns the address of a page at the endpoint: a mirror's pages may name the next one at the original Hub."""
    target = urlsplit(url)
    if target.path.startswith("/api/") and not _is_own(target, urlsplit(endpoint())):
        return f"{endpoint()}{target.path}?{target.query}"
    return url


def check_target(url: str) -> None:
    """Raises `HubError` for an address, given by a Hub, that is neither the endpoint's own nor public.

    Otherwise a Hub, or a repository, could have requests sent to this machine's or this network's other services.
    """
    target, own = urlsplit(url), urlsplit(endpoint())
    if _is_own(target, own) or (target.scheme == "https" and _is_public(target.hostname or "")):
        return
    reason = "not a public address" if target.scheme == "https" else "not an https address"
    raise HubError(
        f"{endpoint()} leads to {target.scheme}://{target.netloc[:100]}, which is {reason}, so it is not followed",
        "hub",
    )


def _is_own(target: SplitResult, own: SplitResult) -> bool:
    """Whether an address is of the endpoint's own host. On this machine, only the same port is the same server."""
    if target.scheme not in (own.scheme, "https"):
        return False
    if _is_loopback(own.hostname or ""):
        return _is_loopback(target.hostname or "") and target.port == own.port
    return target.hostname == own.hostname


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_public(host: str) -> bool:
    """Whether all addresses of a host are public. A host unknown here can only be reached through a proxy."""
    try:
        return all(map(_is_public_address, addresses_of(host)))
    except (OSError, UnicodeError):
        return True


def addresses_of(host: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]


def _is_public_address(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or address
    return address.is_global and not address.is_multicast


def range_start(response: httpx2.Response) -> int:
    """Returns the position in the file of an answer's first byte."""
    if response.status_code != 206:
        return 0
    unit, _, place = response.headers.get("Content-Range", "").partition(" ")
    first = place.partition("-")[0]
    if unit != "bytes" or not first.isdigit():
        raise TransientHubError("it sent a range of a file without saying which")
    return int(first)


def with_retries(ask: Callable[[], T]) -> T:
    """Retries while the Hub is busy or unreachable. Raises Galago's own errors for every other failure."""
    for attempt in range(MAX_ATTEMPTS):
        try:
            return ask()
        except TransientHubError as error:
            if attempt == (MAX_ATTEMPTS if error.busy else _MAX_CONNECT_ATTEMPTS) - 1:
                raise HubError(_no_answer(error), "hub") from error
            time.sleep(retry_delay_seconds(attempt, error.wait_seconds))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise HubError(
                f"{endpoint()} sent an unexpected answer ({_reason(error)}); check HF_ENDPOINT", "hub"
            ) from error
    raise AssertionError("not reached")


def _no_answer(error: TransientHubError) -> str:
    if error.proxy:
        host = urlsplit(endpoint()).hostname or ""
        return f"{error}. Check it, or reach the Hub without it: {error.proxy.how_to_avoid(host)}"
    if error.busy:
        return f"{endpoint()} answers only with {error}: it may be overloaded or under maintenance; try again later"
    return f"{endpoint()} does not answer: {error}. Check the network, or try again later"


def retry_delay_seconds(attempt: int, requested: float | None) -> float:
    """Returns the delay after an attempt (the first is 0): what the server requested, or exponential backoff.

    Logs a delay that the server requests. Raises `HubError` for one longer than `MAX_WAIT_SECONDS`.
    """
    if requested is None:
        return 2.0 ** min(attempt, 5) * random.uniform(0.5, 1.0)
    if requested > MAX_WAIT_SECONDS:
        raise HubError(f"{endpoint()} asks to wait for {requested:.0f} s; try again after that time", "hub")
    if requested >= _ANNOUNCED_FROM_SECONDS:
        log(f"{endpoint()} is busy and asks to wait for {requested:.0f} s; waiting")
    return requested


def _headers(url: str) -> dict[str, str]:
    """The headers of a request, with the user's token if it goes to the endpoint itself."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    # otherwise huggingface-hub 2.4 asks the Hub for a list of agents, and reports which one it runs under
    constants.HF_HUB_DISABLE_TELEMETRY = True
    is_endpoint = urlsplit(url)[:2] == urlsplit(endpoint())[:2]
    return credentials.usable(build_hf_headers(library_name="galago", token=None if is_endpoint else False))


def _status_error(
    response: httpx2.Response, name: str, revision: str, refused: RefusedToken | None, proxy: ProxySetting | None
) -> Exception:
    """Returns the error for a status of 400 or more: `TransientHubError` if the server is only busy.

    `refused` is the user's token, if the Hub answers so with it and without it.
    """
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    redirected = response.url.host != urlsplit(endpoint()).hostname  # to a file store, by a link that expires
    if status in _BUSY_STATUSES or (redirected and status in (401, 403)):
        return TransientHubError(f"status {status}", _requested_wait_seconds(response), busy=True)
    page = f"{endpoint()}/{name}"
    if status == 407 and proxy:
        return proxy.needs_password()
    if code == "GatedRepo" or (status == 403 and not refused):
        return HubError(
            f"{name} is gated: {credentials.how_to_get_access(response.request.headers, response.headers, page)}", "hub"
        )
    if code == "RevisionNotFound":
        return NotFound(f"{name} has no revision {revision}; the revisions are listed at {page}", "model")
    if refused and status in (401, 403, 404):
        return HubError(
            f"{endpoint()} refused {credentials.TOKEN} ({refused.reason}), and without it there is no repository "
            f"{name}. Check the name, or make a new token at {endpoint()}/settings/tokens",
            "hub",
        )
    if status in (401, 404):
        return NotFound(f"there is no repository {name} at {endpoint()}. {credentials.how_to_open_private()}", "model")
    return HubError(f"{endpoint()} refused the request for {name} with status {status}", "hub")


def _requested_wait_seconds(response: httpx2.Response) -> float | None:
    """Reads the seconds to wait from Retry-After or the Hub's own RateLimit header (`"api";r=0;t=55`)."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after = response.headers.get("Retry-After", "")
    if after.isascii() and after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
