"""An evaluation's results as one HTML page that needs nothing beside it: plots, tables, and answers that changed.

Measures nothing, and runs no script: it opens offline, from a mail or a disk, and prints as it looks.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..runtime.values import Audio, Image, Part
from . import report
from .questions import Question
from .verdict import NAMES, speed

_STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #d9dee7; --mark: #b4531f; --dot: #2f6690; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.answer { border-left: 4px solid var(--mark); padding: .4rem 1rem; font-size: 1.1rem; background: #fbf6f2; }
.warning { color: #8a1c1c; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
tr.best td { font-weight: 600; color: var(--mark); }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem; }
figure { margin: 0; flex: 1 1 26rem; max-width: 34rem; min-width: 0; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.example { border-top: 1px solid var(--line); padding: .8rem 0; display: flex; gap: 1rem; flex-wrap: wrap; }
.example img { max-width: 10rem; max-height: 10rem; border: 1px solid var(--line); image-rendering: pixelated; }
.example p { margin: .1rem 0; } .right { color: #1e6b3a; } .wrong { color: #8a1c1c; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } figure, .example, tr { break-inside: avoid; }
  .wide { overflow: visible; } audio { display: none; } }
"""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 280, 58, 16, 14, 40


def render(results: Mapping[str, Any], questions: Sequence[Question]) -> str:
    """The page. `questions` are those that were asked, whose pictures and sounds stand beside answers that changed."""
    variants = results["variants"]
    best = results["recommended"]["variant"]
    senses = [sense for sense in NAMES if any(sense in v["fidelity"] for v in variants)]
    plots = "".join(_scatter(variants, sense, best) for sense in senses)
    maps = "".join(_heat_map(variants, sense) for sense in senses)
    parts = [
        f"<h1>{escape(variants[0]['model_name'])} and its variants</h1>",
        f'<p class="answer">{escape(results["recommended"]["reason"])}</p>',
        *(f'<p class="warning">{escape(v["name"])} {escape(w)}</p>' for v in variants for w in v["warnings"]),
        f'<p class="soft">{escape(_circumstances(results))}</p>',
        "<h2>Numbers</h2>",
        _table(results),
    ]
    if plots:
        parts += ["<h2>Size against loss</h2>", f'<div class="plots">{plots}</div>']
        parts += ["<h2>Text model and projector</h2>", f'<div class="plots">{maps}</div>']
    parts += ["<h2>Speed</h2>", _bars(variants, best)]
    examples = [_example(example, questions) for example in results["examples"]]
    parts += ["<h2>Answers that changed</h2>", *(examples or ["<p>None.</p>"])]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = f"<title>{escape(variants[0]['model_name'])}: which variant</title>"
    return f'<!doctype html>\n<html lang="en"><head>{head}{title}<style>{_STYLE}</style></head>\n<body>\n' + (
        "\n".join(parts) + "\n</body></html>\n"
    )


def _circumstances(results: Mapping[str, Any]) -> str:
    device, sets = results["device"], [*results["questions"], *results["texts"]]
    made_with = f"galago {results['galago']} and llama-cpp-python {results['llama_cpp']}"
    machine = f"{device['processor']}, {device['cores']} cores, {device['memory'] / 1e9:.1f} GB"
    return (
        f"Measured {results['made']} on {machine}, with {made_with}, on {', '.join(sets)}. "
        f"Losses are against {results['baseline']}; KL is in nats a token; intervals are at 95 %."
    )


def _table(results: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in report.columns(results))
    lines = []
    for row, variant in zip(report.rows(results), results["variants"], strict=True):
        chosen = ' class="best"' if variant["name"] == results["recommended"]["variant"] else ""
        lines.append(f"<tr{chosen}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _scatter(variants: Sequence[Mapping[str, Any]], sense: str, best: str | None) -> str:
    """Megabytes to the right, divergence upwards, its interval as a line; the scale of the latter is logarithmic."""
    found = [(v["name"], v["bytes"] / 1e6, v["fidelity"][sense]) for v in variants if sense in v["fidelity"]]
    most = float(max(size for _, size, _ in found) * 1.08)
    values = [max(one[key], 1e-7) for _, _, one in found for key in ("kl_low", "kl_high", "kl_mean")]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values)) + 1e-9), low + 1)

    def across(size: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * size / most

    def up(kl: float) -> float:
        share: float = (math.log10(max(kl, 1e-7)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    marks = []
    for power in range(low, high + 1):
        y = up(10.0**power)
        marks.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e7ebf1"/>')
        marks.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for size in _ticks(most):
        marks.append(f'<text x="{across(size):.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{size:g}</text>')
    for name, size, one in found:
        color = "#b4531f" if name == best else "#2f6690"
        x, y = across(size), up(one["kl_mean"])
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(one["kl_low"]):.1f}" y2="{up(one["kl_high"]):.1f}" '
            f'stroke="{color}" stroke-opacity=".45"/><circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}">'
            f"<title>{escape(name)}: {size:.2f} MB, KL {one['kl_mean']:.5f}, same token {one['top1']:.1%}</title>"
            "</circle>"
        )
        if name == best or len(found) <= 6:
            end = x > _WIDTH * 0.7
            marks.append(
                f'<text x="{x + (-7 if end else 7):.1f}" y="{y - 6:.1f}" text-anchor="{"end" if end else "start"}">'
                f"{escape(name)}</text>"
            )
    marks.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 5}" text-anchor="middle">MB on disk</text>')
    return _figure("".join(marks), _HEIGHT, f"KL divergence on {NAMES[sense]}; lower left is better")


def _ticks(most: float) -> list[float]:
    """At most six round numbers from 0 up to `most`."""
    power = 10.0 ** math.floor(math.log10(most / 5))
    step = next(power * n for n in (1, 2, 5, 10) if most / (power * n) <= 5)
    return [i * step for i in range(int(most / step) + 1)]


def _heat_map(variants: Sequence[Mapping[str, Any]], sense: str) -> str:
    """Divergence of every text model (rows) with every projector (columns)."""
    rows = list(dict.fromkeys(v["model_name"] for v in variants))
    columns = list(dict.fromkeys(v["mmproj_name"] or "-" for v in variants))
    cells = {(v["model_name"], v["mmproj_name"] or "-"): v["fidelity"].get(sense) for v in variants}
    worst = max(one["kl_mean"] for one in cells.values() if one) or 1e-9
    lines = ["<tr><th></th>" + "".join(f"<th>{escape(c)}</th>" for c in columns) + "</tr>"]
    for row in rows:
        line = [f"<td>{escape(row)}</td>"]
        for column in columns:
            one = cells.get((row, column))
            shade = 0.0 if one is None else math.sqrt(one["kl_mean"] / worst) * 0.55
            text = "baseline" if one is None else f"{one['kl_mean']:.4f}"
            line.append(f'<td style="background: rgba(180, 83, 31, {shade:.2f})">{text}</td>')
        lines.append(f"<tr>{''.join(line)}</tr>")
    table = f'<div class="wide"><table>{"".join(lines)}</table></div>'
    return f"<figure>{table}<figcaption>KL divergence on {NAMES[sense]}</figcaption></figure>"


def _bars(variants: Sequence[Mapping[str, Any]], best: str | None) -> str:
    most = max((speed(v) or 0.0 for v in variants), default=0.0) or 1.0
    marks, room = [], 170
    for i, variant in enumerate(variants):
        rate, y = speed(variant) or 0.0, 8 + 22 * i
        color = "#b4531f" if variant["name"] == best else "#2f6690"
        width = (_WIDTH - room - 60) * rate / most
        marks.append(
            f'<text x="{room - 6}" y="{y + 11}" text-anchor="end">{escape(variant["name"])}</text>'
            f'<rect x="{room}" y="{y}" width="{width:.1f}" height="14" fill="{color}"/>'
            f'<text x="{room + width + 5:.1f}" y="{y + 11}">{rate:.1f}</text>'
        )
    return _figure("".join(marks), 16 + 22 * len(variants), "tokens a second of one answer")


def _figure(marks: str, height: int, caption: str) -> str:
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(caption)}">{marks}</svg>'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _example(example: Mapping[str, Any], questions: Sequence[Question]) -> str:
    media = "".join(_medium(part) for message in questions[example["question"]].messages for part in message.parts)
    answers = _said("baseline", example["before"]) + _said(example["variant"], example["after"])
    asked = f"<p><b>{escape(example['asked'])}</b></p><p class='soft'>right: {escape(example['right_answer'])}</p>"
    return f'<div class="example"><div>{media}</div><div>{asked}{answers}</div></div>'


def _said(who: str, said: Mapping[str, Any]) -> str:
    kind = "right" if said["right"] else "wrong"
    return f'<p>{escape(who)}: <span class="{kind}">{escape(said["text"]) or "nothing"}</span></p>'


def _medium(part: Part) -> str:
    """A picture or player that carries its file; browsers tell what kind it is by its bytes, not by its name."""
    if isinstance(part, Image):
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(part.data).decode()}">'
    if isinstance(part, Audio):
        return f'<audio controls src="data:audio/mpeg;base64,{base64.b64encode(part.data).decode()}"></audio>'
    return ""
