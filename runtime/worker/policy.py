"""What a worker may send, how long it may take, and when it is restarted."""

from __future__ import annotations

CLOSE_GRACE_SECONDS = 3.0
"""How long a worker may take to end its requests and exit."""

SLOW_STEP_FACTOR = 10
"""A step that uses the CPU may take this many times the hang limit: a small machine needs minutes for 512 tokens."""

MAX_CHARACTERS_PER_TOKEN = 4096
"""The average over an answer; a worker that sends more text is killed."""

MAX_REPORTS_PER_SECOND = 1000
"""Heartbeats and reports of progress that a worker may send, on average since its start."""

RESTART_WAIT_SECONDS = 30.0
"""How long a request waits for a worker that is being restarted."""

MAX_CRASHES_PER_REQUEST = 2
"""A request that was the only one running in this many crashes is refused."""

MAX_RESTART_DELAY_SECONDS = 60.0


def restart_delay(crashes: int) -> float:
    """Returns the seconds before the next start, after that many crashes without a finished request in between."""
    return 0.0 if crashes < 3 else min(2.0 ** (crashes - 3), MAX_RESTART_DELAY_SECONDS)


def describe_delay(crashes: int) -> str:
    """Completes a sentence about a worker that is restarted after `restart_delay`."""
    return f"in {delay:g} s" if (delay := restart_delay(crashes)) else "now"
