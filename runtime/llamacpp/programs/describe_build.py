"""A program that reports what this build of llama.cpp can do here: `python -m ...describe_build`.

Writes the fields of `LlamaBuild` as one line of JSON. It is a separate program, so that a process that serves an API
need not load llama.cpp.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from ....models.errors import GalagoError


def main() -> None:
    from ..devices import describe_build

    build = describe_build()
    print(json.dumps(asdict(build) | {"features": sorted(build.features)}))


if __name__ == "__main__":
    try:
        main()
    except GalagoError as error:
        sys.exit(error.message)
