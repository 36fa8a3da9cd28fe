"""The proxies between this machine and the Hub, and one HTTP client for each.

HTTPS_PROXY and HTTP_PROXY name the proxy for addresses of that kind, ALL_PROXY for all others, NO_PROXY the hosts that
are reached directly, also in lower case. If none is set, the system settings of macOS and Windows apply.
"""

from __future__ import annotations

import functools
import importlib.util
import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from ..errors import ConfigError

if TYPE_CHECKING:
    import httpx2

_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class ProxySetting:
    """A proxy, by its URL, and the `source` that names it: a variable, or the system's settings."""

    url: str
    source: str

    def how_to_avoid(self, host: str) -> str:
        """Says how to reach a host without the proxy."""
        if not self.source.endswith("_PROXY"):
            return f"change {self.source}"
        return f"unset {self.source} and {self.source.lower()}, or add {host} to NO_PROXY"

    def needs_password(self) -> ConfigError:
        return ConfigError(f"{self} asks for a name and password: write them as http://NAME:PASSWORD@HOST:PORT", "hub")

    def __str__(self) -> str:
        return f"the proxy {re.sub('//[^/]*@', '//', self.url)} ({self.source})"


def proxy_for(url: str) -> ProxySetting | None:
    """Returns the proxy that a request for `url` takes."""
    target, settings = urlsplit(url), getproxies()
    kind = target.scheme if settings.get(target.scheme) else "all"
    address = settings.get(kind)
    if not address or _is_reached_directly(target, settings.get("no", "")):
        return None
    source = f"{kind.upper()}_PROXY" if kind in getproxies_environment() else "the system's settings"
    return ProxySetting(address if "://" in address else f"http://{address}", source)


def _is_reached_directly(target: SplitResult, excluded: str) -> bool:
    host = target.hostname or ""
    if proxy_bypass(host) or proxy_bypass(f"{host}:{target.port}"):
        return True
    return any(_matches(host, entry.strip()) for entry in excluded.split(","))


def _matches(host: str, entry: str) -> bool:
    """Whether a host is meant by an entry of NO_PROXY, in the forms that the standard library does not know."""
    if entry.startswith("*."):
        return host.endswith(entry[1:].lower())
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False


def client_for(proxy: ProxySetting | None) -> httpx2.Client:
    """Returns the client of this process for a proxy. Raises `ConfigError` for a proxy that cannot be used."""
    import httpx2

    if proxy is not None:
        scheme = proxy.url.partition("://")[0].lower()
        if scheme not in _SCHEMES:
            raise ConfigError(f"{proxy} is of an unknown kind: begin it with http://, https:// or socks5://", "proxy")
        if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise ConfigError(f"{proxy} is a SOCKS proxy: install what it needs, pip install 'galago[socks]'", "proxy")
    try:
        return _client(proxy.url if proxy else None, os.getpid())
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"{proxy} is not a valid URL: {error}", "proxy") from error


@functools.lru_cache(maxsize=8)
def _client(proxy_url: str | None, _process: int) -> httpx2.Client:
    import httpx2

    return httpx2.Client(proxy=proxy_url, trust_env=False, verify=_certificates())


@functools.lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    import httpx2

    return httpx2.create_ssl_context()  # also those of SSL_CERT_FILE and SSL_CERT_DIR
