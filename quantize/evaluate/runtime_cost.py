"""What a variant costs on this machine: time to load, tokens a second, what media add, memory, and energy.

Each round loads the variant anew in a process of its own; rounds of several variants are to alternate, so that whatever
else the machine does strikes all of them. Of the rounds the best counts.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from ...models.registry.resolve import builtin_folder
from ...runtime.python_api import LocalModel, Reply, load
from ...runtime.types.messages import Audio, Image, Message, Part, Text
from ...runtime.types.request import Request, Sampling
from .combinations import Combination
from .passages import GREY, SILENCE

STREAMS = 4
_TOKENS = 48
_LEAST = 1.0
"""Seconds that a small model's speed is measured for; a large one takes longer for one answer."""
_LONG = "The quick brown fox jumps over the lazy dog and the cat sits on the mat while it rains all day. " * 6
_POWER, _BATTERIES = Path("/sys/class/powercap"), Path("/sys/class/power_supply")

Round = dict[str, float]


def measure(combination: Combination, threads: int | None, gpu_layers: int) -> Round:
    """One round. Raises `GalagoError`."""
    others = {process.pid for process in psutil.Process().children()}
    begin = time.perf_counter()
    eyes = combination.projector.path if combination.projector else None
    with load(
        combination.model.path, mmproj=eyes, threads=threads, slots=STREAMS, gpu_layers=gpu_layers, isolated=True
    ) as model:
        found = {"load_seconds": time.perf_counter() - begin}
        _ask(model, "Hi", _TOKENS)
        worker = [process for process in psutil.Process().children() if process.pid not in others]
        found |= _speed(model) | _media(model)
        found |= {name: float(size) for process in worker[:1] for name, size in memory(process.pid).items()}
    return found


def _speed(model: LocalModel) -> Round:
    """Of one stream, then of several at once, whose rates are those of all together: of prompts until the last one is
    read, of tokens from the first one on."""
    short = statistics.median(_ask(model, "Hi", 1).timings.first_token for _ in range(3))
    joules = _Joules()
    alone, until = list[Reply](), time.perf_counter() + _LEAST
    while not alone or time.perf_counter() < until:
        alone.append(_ask(model, _LONG, _TOKENS))
    spent = joules.spent()
    found = {
        "first_token_seconds": short,
        "prefill_tokens_per_second": statistics.median(map(_prefill, alone)),
        "decode_tokens_per_second": statistics.median(map(_decode, alone)),
    }
    if spent is not None:
        found["joules_per_answer"] = spent / len(alone)
    with ThreadPoolExecutor(STREAMS) as pool:
        many = list(pool.map(lambda i: _ask(model, f"{i} {_LONG}", _TOKENS), range(STREAMS)))
    begins, read = (pick(reply.timings.first_token for reply in many) for pick in (min, max))
    end = max(reply.timings.total for reply in many)
    prompt, made = (sum(getattr(r.usage, f"{kind}_tokens") for r in many) for kind in ("prompt", "completion"))
    found["prefill_tokens_per_second_4"] = prompt / max(read, 1e-6)
    found["decode_tokens_per_second_4"] = made / max(end - begins, 1e-6)
    return found


def _media(model: LocalModel) -> Round:
    """Seconds that a picture or sound adds before the first token: of the second one, the first warms up."""
    found: Round = {}
    folder = builtin_folder() / "samples"
    plain = _ask(model, "What is it?", 1).timings.first_token
    parts: dict[str, Sequence[Part]] = {}
    if model.info.vision:
        parts["image_seconds"] = [GREY, Image((folder / "shapes.png").read_bytes())]
    if model.info.audio:
        parts["audio_seconds"] = [SILENCE, Audio((folder / "speech.wav").read_bytes())]
    for name, media in parts.items():
        times = [_ask(model, "What is it?", 1, part).timings.first_token for part in media]
        found[name] = max(times[-1] - plain, 0.0)
    return found


def _prefill(reply: Reply) -> float:
    seconds = reply.timings.first_token - reply.timings.prepared
    return reply.usage.prompt_tokens / seconds if seconds > 0 else 0.0


def _decode(reply: Reply) -> float:
    return reply.timings.tokens_per_second(reply.usage.completion_tokens) or 0.0


def _ask(model: LocalModel, text: str, tokens: int, part: Part | None = None) -> Reply:
    message = Message("user", (*([part] if part else []), Text(text)))
    request = Request((message,), Sampling(temperature=0), max_tokens=tokens, ignore_eos=True, cache=False)
    with model.stream(request) as answer:
        for _ in answer:
            pass
        return answer.reply


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process now (`steady`) and at most so far (`peak`), and the parts of now: `own`, and `mapped` from
    files, weights above all. The most is known on Linux only; elsewhere it is what is known."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        fields = {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
        names = {"steady": "VmRSS", "peak": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}
        return {f"memory_{name}": fields[field] for name, field in names.items() if field in fields}
    resident = psutil.Process(pid).memory_info().rss
    return {"memory_steady": resident, "memory_peak": resident}


def sensor() -> str | None:
    """What joules are read from here: the processor's counters (RAPL, of Intel and AMD), a battery that is not being
    charged, with all else that draws on it, or nothing."""
    if energy() is not None:
        return "processor"
    return None if power() is None else "battery"


def energy() -> float | None:
    """Joules that the processor's packages have used so far; `None` where their counters cannot be read."""
    try:
        zones = [zone for zone in _POWER.glob("intel-rapl:?") if _read(zone / "name").startswith("package")]
        return sum(int(_read(zone / "energy_uj")) for zone in zones) / 1e6 if zones else None
    except (OSError, ValueError):
        return None


def power() -> float | None:
    """Watts that leave the batteries now; `None` where there is none, or it is being charged."""
    watts = 0.0
    for battery in _BATTERIES.glob("*"):
        with contextlib.suppress(OSError, ValueError):
            if _read(battery / "type") == "Battery" and _read(battery / "status") == "Discharging":
                if (battery / "power_now").exists():
                    watts += abs(int(_read(battery / "power_now"))) / 1e6
                else:
                    current, voltage = (int(_read(battery / f"{name}_now")) for name in ("current", "voltage"))
                    watts += abs(current) * voltage / 1e12
    return watts or None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


class _Joules:
    """What is spent from now on."""

    def __init__(self) -> None:
        self._counted, self._watts, self._begin = energy(), power(), time.perf_counter()

    def spent(self) -> float | None:
        """By counters, where they have not begun anew meanwhile; by a battery from the power at both ends."""
        counted, watts = energy(), power()
        if self._counted is not None and counted is not None:
            return counted - self._counted if counted >= self._counted else None
        if self._watts is None or watts is None:
            return None
        return (self._watts + watts) / 2 * (time.perf_counter() - self._begin)


def best(rounds: Sequence[Round]) -> Round:
    """Of every number over the rounds that have it, the highest rate, the fewest seconds, and else the median.

    Whatever else the machine does makes a variant slower, never faster.
    """
    found = {}
    for name in dict.fromkeys(name for one in rounds for name in one):
        values = [one[name] for one in rounds if name in one]
        pick = max if "per_second" in name else min if name.endswith("seconds") else statistics.median
        found[name] = float(pick(values))
    return found


def rounds(
    combinations: Sequence[Combination], count: int, take: Callable[[Combination, int], Round]
) -> dict[str, list[Round]]:
    """`count` rounds, each of all variants, every other round in reverse order."""
    found: dict[str, list[Round]] = {combination.name: [] for combination in combinations}
    for number in range(count):
        for combination in combinations if number % 2 == 0 else reversed(combinations):
            found[combination.name].append(take(combination, number))
    return found
