"""Plots of evaluation results, as self-contained SVG and HTML tables."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..verdict import MODALITY_NAMES, VariantResults, decode_speed

_MARK, _DOT, _GRID = "#b4531f", "#2f6690", "#e7ebf1"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 280, 58, 16, 14, 40
_MIN_KL = 1e-7
_MAX_LABEL_CHARACTERS = 30


def scatter(variants: Sequence[VariantResults], modality: str, best: str | None) -> str:
    """Plots size against KL divergence with its interval, on a logarithmic scale. A line joins the Pareto front.

    Points are numbered like `variants`, from 1. Variants without a divergence are left out.
    """
    points = [(i, v["name"], v["bytes"] / 1e6, v["fidelity"][modality]) for i, v in enumerate(variants, 1)
             if modality in v["fidelity"] and v["fidelity"][modality]["kl_mean"] > _MIN_KL]  # fmt: skip
    if not points:
        return ""
    max_megabytes = float(max(size for _, _, size, _ in points) * 1.08)
    values = [max(entry[key], _MIN_KL) for *_, entry in points for key in ("kl_low", "kl_high", "kl_mean")]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values)) + 1e-9), low + 1)

    def x_of(size: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * size / max_megabytes

    def y_of(kl: float) -> float:
        share: float = (math.log10(max(kl, _MIN_KL)) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    marks = []
    for power in range(low, high + 1):
        y = y_of(10.0**power)
        marks.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
        marks.append(_text(_LEFT - 6, y + 4, f"{10.0**power:g}", "end"))
    marks += [_text(x_of(size), _HEIGHT - 22, f"{size:g}", "middle") for size in _ticks(max_megabytes)]
    front = _front([(size, entry["kl_mean"]) for _, _, size, entry in points])
    corners = " ".join(f"{x_of(size):.1f},{y_of(kl):.1f}" for size, kl in front)
    marks.append(f'<polyline points="{corners}" fill="none" stroke="{_DOT}" stroke-opacity=".35"/>')
    for number, name, size, entry in points:
        title = f"{name}: {size:.2f} MB, KL {entry['kl_mean']:.3g}, same token {entry['top1']:.1%}"
        span = (y_of(entry["kl_low"]), y_of(entry["kl_high"]))
        marks.append(_point(x_of(size), y_of(entry["kl_mean"]), span, name == best, title))
        marks.append(_text(x_of(size) + 6, y_of(entry["kl_mean"]) - 5, str(number), "start", halo=True))
    marks.append(_text(_WIDTH / 2, _HEIGHT - 5, "MB on disk", "middle"))
    caption = f"KL divergence on {MODALITY_NAMES[modality]}, numbered as in the table above; lower left is better"
    return figure("".join(marks), _HEIGHT, caption)


def _point(x: float, y: float, span: tuple[float, float], best: bool, title: str) -> str:
    color = _MARK if best else _DOT
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{span[0]:.1f}" y2="{span[1]:.1f}" stroke="{color}"'
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if best else 3.5}" fill="{color}"'
    return f'{line} stroke-opacity=".45"/>{dot}><title>{escape(title)}</title></circle>'


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that no other beats in both coordinates, from left to right."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def _ticks(most: float) -> list[float]:
    """Returns at most six round numbers from 0 to `most`."""
    power = 10.0 ** math.floor(math.log10(most / 5))
    step = next(power * n for n in (1, 2, 5, 10) if most / (power * n) <= 5)
    return [i * step for i in range(int(most / step) + 1)]


def heat_map(variants: Sequence[VariantResults], modality: str) -> str:
    """Shows the KL divergence of every text model (rows) with every projector (columns)."""
    rows = list(dict.fromkeys(v["model_name"] for v in variants))
    columns = list(dict.fromkeys(v["mmproj_name"] or "-" for v in variants))
    cells = {(v["model_name"], v["mmproj_name"] or "-"): v["fidelity"].get(modality) for v in variants}
    worst = max(entry["kl_mean"] for entry in cells.values() if entry) or 1e-9
    lines = ["<tr><th></th>" + "".join(f"<th>{escape(c)}</th>" for c in columns) + "</tr>"]
    for row in rows:
        line = [f"<td>{escape(row)}</td>"]
        for column in columns:
            entry = cells.get((row, column))
            if entry is None:
                line.append("<td>-</td>")
                continue
            shade = math.sqrt(entry["kl_mean"] / worst) * 0.55
            line.append(f'<td style="background: rgba(180, 83, 31, {shade:.2f})">{entry["kl_mean"]:.3g}</td>')
        lines.append(f"<tr>{''.join(line)}</tr>")
    table = f'<div class="wide"><table>{"".join(lines)}</table></div>'
    return f"<figure>{table}<figcaption>KL divergence on {MODALITY_NAMES[modality]}</figcaption></figure>"


def bars(variants: Sequence[VariantResults], best: str | None) -> str:
    most = max((decode_speed(v) or 0.0 for v in variants), default=0.0) or 1.0
    marks, room = [], 190
    for i, variant in enumerate(variants):
        rate, y = decode_speed(variant) or 0.0, 8 + 20 * i
        width = (_WIDTH - room - 50) * rate / most
        color = _MARK if variant["name"] == best else _DOT
        marks.append(_text(room - 6, y + 11, variant["name"], "end"))
        marks.append(f'<rect x="{room}" y="{y}" width="{width:.1f}" height="14" fill="{color}"/>')
        marks.append(_text(room + width + 5, y + 11, f"{rate:.1f}" if rate else "unknown", "start"))
    return figure("".join(marks), 16 + 20 * len(variants), "tokens per second of one answer")


def sensitivity(rows: Sequence[Mapping[str, Any]]) -> str:
    """Shows the KL divergence of quantizing each tensor alone: kinds of tensors down, layers across, darker is more."""
    worst = max((row["kl"] for row in rows), default=0.0) or 1e-9
    places = [(match[2], int(match[1])) if (match := re.match(r"blk\.(\d+)\.(.*)", row["tensor"])) else
              (row["tensor"], 0) for row in rows]  # fmt: skip
    kinds = list(dict.fromkeys(kind for kind, _ in places))
    layers = max((layer for _, layer in places), default=0) + 1
    room, step = 150, min(24.0, (_WIDTH - 166) / layers)
    marks = []
    for i, kind in enumerate(kinds):
        marks.append(_text(room - 6, 25 + 20 * i, kind.removesuffix(".weight"), "end"))
    for layer in range(0, layers, max(1, layers // 8)):
        marks.append(_text(room + (layer + 0.5) * step, 9, str(layer), "middle"))
    for row, (kind, layer) in zip(rows, places, strict=True):
        shade = 0.04 + 0.96 * math.sqrt(row["kl"] / worst)
        marks.append(
            f'<rect x="{room + layer * step:.1f}" y="{12 + 20 * kinds.index(kind)}" width="{step - 1:.1f}" height="18" '
            f'fill="{_MARK}" fill-opacity="{shade:.2f}"><title>{escape(row["tensor"])} as {row["type"]}: '
            f"KL {row['kl']:.2g}, {row['bytes'] / 1e6:.2f} MB</title></rect>"
        )
    types = ", ".join(dict.fromkeys(row["type"] for row in rows))
    caption = f"KL divergence if one tensor alone is {types}, by kind and layer; the darkest is {worst:.2g}"
    return figure("".join(marks), 16 + 20 * len(kinds), caption)


def figure(marks: str, height: float, caption: str) -> str:
    svg = f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(caption)}">{marks}</svg>'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _text(x: float, y: float, text: str, anchor: str, halo: bool = False) -> str:
    short = text if len(text) <= _MAX_LABEL_CHARACTERS else text[: _MAX_LABEL_CHARACTERS - 1] + "…"
    style = ' stroke="#fff" stroke-width="3" paint-order="stroke"' if halo else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(short)}</text>'
