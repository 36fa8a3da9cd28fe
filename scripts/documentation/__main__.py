"""`scripts/docs`: writes the generated pages, or checks that they are up to date."""

from __future__ import annotations

import argparse
import sys

from checks.request_trace import trace

from .pages import ROOT, generated, with_trace


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    parser.add_argument("--no-trace", action="store_true", help="leave the traced request as it is")
    options = parser.parse_args()
    stale = 0
    pages = generated()
    if not (options.check or options.no_trace):
        pages["docs/architecture.md"] = with_trace(pages["docs/architecture.md"], trace())
    for name, text in pages.items():
        path = ROOT / name
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale += 1
        if options.check:
            print(f"{name} is out of date; run scripts/docs")
        else:
            path.write_text(text, "utf-8")
            print(f"wrote {name}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
