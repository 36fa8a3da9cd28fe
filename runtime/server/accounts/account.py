"""What one API key may use and has used. Thread-safe."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ....models.errors import RateLimited

WINDOW_SECONDS = 60.0
_RETRY_SECONDS = 1.0
"""When to try again if the key's own running requests may need all of its tokens."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of a key. `None`: not limited. `models` are the names of those that it may use."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: tuple[str, ...] | None = None


@dataclass(slots=True)
class ModelUsage:
    """What a key has used of a model since the server started."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Account:
    """The limits and the usage of one key.

    A running request reserves the tokens that it may still use. A request is admitted only if the tokens of the last
    minute and those that are reserved are below the limit, so that requests which run at once cannot exceed it by more
    than the one that was admitted last.
    """

    def __init__(
        self,
        name: str,
        limits: KeyLimits | None = None,
        is_admin: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.limits = limits or KeyLimits()
        self.is_admin = is_admin
        """Whether the key sees the usage of all keys."""
        self._clock = clock
        self._lock = threading.Lock()
        self._requests: deque[float] = deque()
        """When the requests of the last minute were admitted."""
        self._tokens: deque[tuple[float, int]] = deque()
        """Tokens of the last minute, with the latest time at which any of them was used."""
        self._used_tokens = 0
        self._reserved_tokens = 0
        self._usage: dict[str, ModelUsage] = {}

    def admit(self, model: str, tokens: int) -> None:
        """Counts a request, and reserves the most tokens that it may use. Raises `RateLimited`."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            self._check(now)
            if self.limits.requests_per_minute is not None:
                self._requests.append(now)
            self._reserved_tokens += tokens
            self._of_model(model).requests += 1

    def reserve(self, tokens: int) -> None:
        """Reserves tokens for more of an admitted request, or gives reserved ones back if `tokens` is negative."""
        with self._lock:
            self._reserved_tokens += tokens

    def use(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts tokens that a request has used."""
        tokens = prompt_tokens + completion_tokens
        with self._lock:
            usage = self._of_model(model)
            usage.prompt_tokens += prompt_tokens
            usage.completion_tokens += completion_tokens
            if self.limits.tokens_per_minute is None or not tokens:
                return
            now = self._clock()
            self._forget(now)
            self._used_tokens += tokens
            if self._tokens and now - self._tokens[-1][0] < 1:
                tokens += self._tokens.pop()[1]
            self._tokens.append((now, tokens))

    def usage(self) -> dict[str, ModelUsage]:
        """Returns what the key has used since the server started, by model."""
        with self._lock:
            return {
                model: ModelUsage(one.requests, one.prompt_tokens, one.completion_tokens)
                for model, one in self._usage.items()
            }

    def _of_model(self, model: str) -> ModelUsage:
        return self._usage.setdefault(model, ModelUsage())

    def _forget(self, now: float) -> None:
        """Forgets what is more than a minute ago."""
        while self._requests and now - self._requests[0] >= WINDOW_SECONDS:
            self._requests.popleft()
        while self._tokens and now - self._tokens[0][0] >= WINDOW_SECONDS:
            self._used_tokens -= self._tokens.popleft()[1]

    def _check(self, now: float) -> None:
        most_requests, most_tokens = self.limits.requests_per_minute, self.limits.tokens_per_minute
        if most_requests is not None and len(self._requests) >= most_requests:
            oldest = self._requests[len(self._requests) - most_requests]
            raise self._limited(f"{most_requests:,} requests", oldest + WINDOW_SECONDS - now)
        if most_tokens is not None and self._used_tokens + self._reserved_tokens >= most_tokens:
            raise self._limited(f"{most_tokens:,} tokens", self._seconds_until_below(most_tokens, now))

    def _seconds_until_below(self, most_tokens: int, now: float) -> float:
        """Returns when enough of the used tokens will be a minute ago, or a short time if it depends on others."""
        excess = self._used_tokens - most_tokens
        if excess < 0:
            return _RETRY_SECONDS
        for used_at, tokens in self._tokens:
            excess -= tokens
            if excess < 0:
                return used_at + WINDOW_SECONDS - now
        return _RETRY_SECONDS

    def _limited(self, what: str, wait_seconds: float) -> RateLimited:
        seconds = max(1, math.ceil(wait_seconds))
        return RateLimited(
            f"the key {self.name!r} may use {what} a minute, and has used or reserved them; try again in {seconds} s",
            retry_after_seconds=seconds,
        )
