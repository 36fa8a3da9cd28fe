"""Where Galago keeps things on this machine, by the rules of its system. Knows nothing of what they hold."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """What Galago can do without."""
    return platformdirs.user_cache_path("galago", appauthor=False)


def data_folder() -> Path:
    """What it knows and could not find out again, such as where imported models lie."""
    return platformdirs.user_data_path("galago", appauthor=False)


def user_catalog() -> Path:
    """The user's own catalogue; it need not be there."""
    return platformdirs.user_config_path("galago", appauthor=False) / "catalog.toml"
