"""Evaluation results as one self-contained HTML page: plots, tables, and changed answers.

The page has no scripts and loads nothing, so that it opens offline and prints as it looks.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ....runtime.types.messages import Audio, Image, Part
from ..questions import Question
from ..verdict import MODALITY_NAMES, EvaluationResults
from . import plots
from . import tables as report

_STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #d9dee7; --mark: #b4531f; --dot: #2f6690; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 80rem; margin: 0 auto;
  padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.answer { border-left: 4px solid var(--mark); padding: .4rem 1rem; font-size: 1.1rem; background: #fbf6f2; }
.warning { color: #8a1c1c; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
td { white-space: nowrap; } th { font-weight: 600; color: var(--soft); } thead { display: table-header-group; }
th:first-child, td:first-child { text-align: left; }
tr.best td { font-weight: 600; color: var(--mark); }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem; }
figure { margin: 0; flex: 1 1 26rem; max-width: 34rem; min-width: 0; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.example { border-top: 1px solid var(--line); padding: .8rem 0; display: flex; gap: 1rem; flex-wrap: wrap; }
.example img { max-width: 10rem; max-height: 10rem; border: 1px solid var(--line); image-rendering: pixelated; }
.example p { margin: .1rem 0; } .right { color: #1e6b3a; } .wrong { color: #8a1c1c; }
@page { size: landscape; margin: 10mm; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } table { font-size: 8px; }
  th, td { padding: .1rem .3rem; } figure, .example, tr { break-inside: avoid; }
  .wide { overflow: visible; } audio { display: none; } }
"""


def render(results: EvaluationResults, questions: Sequence[Question]) -> str:
    """Returns the page. `questions` are those that were asked; their media are shown next to changed answers."""
    variants = results["variants"]
    best = results["recommended"]["variant"]
    modalities = [modality for modality in MODALITY_NAMES if any(modality in v["fidelity"] for v in variants)]
    parts = [
        f"<h1>{escape(variants[0]['model_name'])} and its variants</h1>",
        f'<p class="answer">{escape(results["recommended"]["reason"])}</p>',
        *(f'<p class="warning">{escape(warning)}</p>' for warning in results["warnings"]),
        *(f'<p class="warning">{escape(v["name"])} {escape(w)}</p>' for v in variants for w in v["warnings"]),
        f'<p class="soft">{escape(report.circumstances(results))}</p>',
        _table(report.overview(results), best, numbered=True),
    ]
    if len(variants) > 1:
        parts.append(_plots("Size and KL divergence", [plots.scatter(variants, m, best) for m in modalities]))
        parts.append(_plots("Text model and projector", [plots.heat_map(variants, m) for m in modalities]))
    parts.append(_plots("Speed", [plots.bars(variants, best)]))
    if results["sensitivity"]:
        parts.append(_plots("Sensitivity", [plots.sensitivity(results["sensitivity"])]))
    tables = (report.costs(results), report.answers(results), report.fidelity(results))
    parts += [_table(table, best) for table in tables]
    examples = [_example(example, questions[example["question"]]) for example in results["examples"]]
    parts += ["<h2>Changed answers</h2>", *(examples or ["<p>None.</p>"])]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = f"<title>{escape(variants[0]['model_name'])}: variants compared</title>"
    return f'<!doctype html>\n<html lang="en"><head>{head}{title}<style>{_STYLE}</style></head>\n<body>\n' + (
        "\n".join(parts) + "\n</body></html>\n"
    )


def _plots(title: str, figures: Sequence[str]) -> str:
    return f'<h2>{escape(title)}</h2><div class="plots">{"".join(figures)}</div>'


def _table(table: report.ReportTable, best: str | None, numbered: bool = False) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    lines = []
    for i, row in enumerate(table.rows, 1):
        chosen = ' class="best"' if row[0].removesuffix(" *") == best else ""
        cells = [f"{i}. {row[0]}" if numbered else row[0], *row[1:]]
        lines.append(f"<tr{chosen}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<h2>{escape(table.title)}</h2><div class="wide">{body}</div>'


def _example(example: Mapping[str, Any], question: Question) -> str:
    media = "".join(_media_html(part) for message in question.messages for part in message.parts)
    correct = f"<p class='soft'>correct answer: {escape(example['right_answer'])}</p>"
    question_html = f"<p><b>{escape(example['asked'])}</b></p>{correct}"
    answers = _answer("baseline", example["before"])
    answers += "".join(_answer(after["variant"], after) for after in example["after"])
    return f'<div class="example"><div class="media">{media}</div><div>{question_html}{answers}</div></div>'


def _answer(variant: str, answer: Mapping[str, Any]) -> str:
    kind = "right" if answer["right"] else "wrong"
    return f'<p>{escape(variant)}: <span class="{kind}">{escape(answer["text"]) or "(empty)"}</span></p>'


def _media_html(part: Part) -> str:
    """Embeds an image or an audio player with its file. Browsers detect the format from the bytes."""
    if isinstance(part, Image):
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(part.data).decode()}">'
    if isinstance(part, Audio):
        return f'<audio controls src="data:audio/mpeg;base64,{base64.b64encode(part.data).decode()}"></audio>'
    return ""
