"""The user's token for the Hub, and what happens if the Hub refuses it.

huggingface-hub finds the token. An expired one would make even public repositories fail, so a request whose token is
refused is sent again without it, and a warning is logged.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from ..log import log_once

TOKEN = "your token (of HF_TOKEN or `hf auth login`)"

_HEADER = "authorization"
_not_sent: set[str] = set()
"""Headers that this process does not send again, because the Hub refused the token in them."""


@dataclass(frozen=True, slots=True)
class RefusedToken:
    """A token, as a header, and the Hub's reason to refuse it."""

    header: str
    reason: str


def usable(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns headers without a token that the Hub has refused, or that cannot be sent."""
    value = headers.get(_HEADER, "")
    if not value.isascii() or not value.isprintable() or value.count(" ") > 1:
        log_once(f"{TOKEN} is not sent: it contains characters that no token has")
        _not_sent.add(value)
    return {name: text for name, text in headers.items() if name != _HEADER or text not in _not_sent}


def take_refused(sent: MutableMapping[str, str], status: int, answer: Mapping[str, str]) -> RefusedToken | None:
    """Removes the token from the headers of a request if the Hub may have refused it only because of the token.

    `answer` are the headers of the Hub's answer.
    """
    is_gated = answer.get("X-Error-Code") == "GatedRepo"
    if status not in (401, 403) or is_gated or _HEADER not in sent:
        return None
    return RefusedToken(sent.pop(_HEADER), _message(answer) or f"status {status}")


def remember_refused(token: RefusedToken) -> None:
    """Keeps a token from being sent again. Logs a warning."""
    _not_sent.add(token.header)
    log_once(f"the Hub refused {TOKEN}: {token.reason}; continuing without it")


def how_to_open_private() -> str:
    """Returns advice for a repository that may be private."""
    if _not_sent:
        return f"If it is private, replace {TOKEN}, which was refused"
    return "If it is private, run `hf auth login` or set HF_TOKEN"


def how_to_get_access(sent: Mapping[str, str], answer: Mapping[str, str], page: str) -> str:
    """Returns advice for a gated repository, from the headers of a request and of the Hub's answer."""
    if _HEADER not in sent:
        return f"accept its terms at {page}, then run `hf auth login` or set HF_TOKEN"
    reason = _message(answer)
    return (
        f"accept its terms at {page} with the account of {TOKEN}, and wait if its owner has to approve"
        + f" (the Hub says: {reason})" * bool(reason)
    )


def _message(answer: Mapping[str, str]) -> str:
    """Returns what the Hub says about an error, on one line."""
    text = str(answer.get("X-Error-Message", ""))
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip(" .")
