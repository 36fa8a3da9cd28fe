"""`python -m checks.attack_inputs PORT NAME SECONDS`: runs one attack, and prints how often it got each status."""

from __future__ import annotations

import json
import resource
import sys
import threading
from collections import Counter

from . import find
from .target import Target

THREADS = 4
MAX_BYTES = 4 << 30
MAX_FILES = 4096


def main(port: str, name: str, seconds: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_FILES, hard), hard))
    attack, target = find(name), Target(int(port), float(seconds))
    statuses: Counter[str] = Counter()

    def run() -> None:
        while not target.ended():
            try:
                statuses.update(str(status) for status in attack(target))
            except (OSError, EOFError) as error:
                statuses[type(error).__name__] += 1

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
