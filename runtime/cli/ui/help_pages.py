"""Which page of the documentation helps with an error."""

from __future__ import annotations

from ....models.errors import (
    ConfigError,
    EngineError,
    GalagoError,
    GGUFError,
    HubError,
    MediaError,
    ModelError,
    NotFound,
    NotReady,
    TemplateError,
    UnsupportedModality,
)

PAGES: dict[type[GalagoError], str] = {
    ConfigError: "docs/guide/command-line.md",
    EngineError: "docs/guide/install.md",
    GGUFError: "docs/guide/models.md",
    HubError: "docs/guide/models.md",
    MediaError: "docs/guide/command-line.md",
    ModelError: "docs/guide/models.md",
    NotFound: "docs/guide/models.md",
    NotReady: "docs/guide/http.md",
    UnsupportedModality: "docs/guide/models.md",
    TemplateError: "docs/guide/models.md",
}
"""Pages by error class. A class without an entry uses its base class's page, if there is one."""

PARAM_PAGES = {
    "api-key": "docs/guide/http.md",
    "host": "docs/guide/http.md",
    "port": "docs/guide/http.md",
    "store": "docs/guide/privacy.md",
    "cache-dir": "docs/guide/privacy.md",
    "gpu-layers": "docs/guide/gpu.md",
    "flash-attention": "docs/guide/gpu.md",
    "calibration": "docs/guide/quantize.md",
    "scheme": "docs/guide/quantize.md",
}
"""Pages by the option at fault; these take precedence over the class."""


def page_for(error: GalagoError) -> str | None:
    """The page that helps with an error, as a path in the project."""
    if error.param in PARAM_PAGES:
        return PARAM_PAGES[error.param]
    return next((PAGES[kind] for kind in type(error).__mro__ if kind in PAGES), None)
