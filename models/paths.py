"""The folders in which Galago stores its own files, by the conventions of the operating system."""

from __future__ import annotations

import sys
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Returns the folder for files that can be recreated, such as measurements."""
    return platformdirs.user_cache_path("galago", appauthor=False)


def data_folder() -> Path:
    """Returns the folder for files that cannot be recreated, such as the list of imported models."""
    return platformdirs.user_data_path("galago", appauthor=False)


def config_folder() -> Path:
    """Returns the folder for files that the user writes: the settings, the presets and the user's own catalog."""
    return platformdirs.user_config_path("galago", appauthor=False)


def service_path() -> Path:
    """Returns the path of the file that makes Galago a service of the user: of systemd, or of launchd on macOS."""
    if sys.platform == "darwin":
        return Path.home() / "Library/LaunchAgents/galago.plist"
    return config_folder().parent / "systemd/user/galago.service"


def log_path() -> Path:
    """Returns the path of the log of a server that runs as a service, which may not exist."""
    return platformdirs.user_log_path("galago", appauthor=False) / "galago.log"


def user_catalog_path() -> Path:
    """Returns the path of the user's own catalog, which may not exist."""
    return config_folder() / "catalog.toml"


def presets_path() -> Path:
    """Returns the path of the user's presets, which may not exist."""
    return config_folder() / "models.toml"
