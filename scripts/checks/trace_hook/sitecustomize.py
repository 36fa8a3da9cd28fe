"""Records which project functions run, in every Python process started with this folder on PYTHONPATH.

`scripts/check request_trace` sets two variables: `GALAGO_TEST_TRACE_ROOT` is the checkout, `GALAGO_TEST_TRACE_DIR` a
folder. A process records while the first byte of `armed` in that folder is 1 and writes each first entry of (thread,
file, function) as a JSON line to `PID.jsonl` there. The file is mapped into memory, because some processes may not
write to files.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

_MAX_BYTES = 1 << 20


def _install(root: str, folder: Path) -> None:
    prefixes = tuple(os.path.join(root, part) + os.sep for part in ("models", "runtime", "quantize"))
    with (folder / "armed").open("rb") as file:
        armed = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
    with (folder / f"{os.getpid()}.jsonl").open("w+b") as rows:
        rows.truncate(_MAX_BYTES)
        out = mmap.mmap(rows.fileno(), _MAX_BYTES)
    seen: set[tuple[int, str, str]] = set()

    def record(frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call" or armed[0] != 1:
            return
        code = frame.f_code
        if not code.co_filename.startswith(prefixes) or code.co_name == "<module>":
            return
        thread = threading.current_thread()
        key = (thread.ident or 0, code.co_filename, code.co_qualname)
        if key in seen:
            return
        seen.add(key)
        name = code.co_filename.removeprefix(root + os.sep)
        row = {"time": time.time(), "thread": thread.name, "file": name, "function": code.co_qualname}
        out.write(json.dumps(row).encode() + b"\n")

    threading.setprofile(record)
    sys.setprofile(record)


if "GALAGO_TEST_TRACE_DIR" in os.environ:
    _install(os.environ["GALAGO_TEST_TRACE_ROOT"], Path(os.environ["GALAGO_TEST_TRACE_DIR"]))
